"""What was just looked up, for the question that follows at once.

The kernel asks for a name before it creates it, and for a file before it opens it. Within a moment the
second question is answered from here. Nothing rests on it: a name comes into being by a conditional put.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from wormfs import clock
from wormfs.model import Key, Kind, ObjectInfo

_KEPT = 4096
_MOMENT_S = 1.0


class Recent:
    """The last answers, each for a moment. Safe from any thread."""

    def __init__(self, monotonic: Callable[[], float] = clock.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answers: OrderedDict[Key, tuple[float, ObjectInfo | None]] = OrderedDict()
        self._misses: OrderedDict[Key, bool] = OrderedDict()

    def remember(self, key: Key, info: ObjectInfo | None) -> None:
        """``None``: there is nothing of that name."""
        with self._lock:
            self._answers[key] = (self._monotonic() + _MOMENT_S, info)
            self._answers.move_to_end(key)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)

    def forget(self, key: Key) -> None:
        """The name changes."""
        with self._lock:
            self._answers.pop(key, None)

    def absent(self, key: Key) -> bool:
        """Whether the name was free a moment ago."""
        known, info = self._answer(key)
        return known and info is None

    def directory(self, key: Key) -> ObjectInfo | None:
        """The directory that it was a moment ago."""
        _, info = self._answer(key)
        return info if info is not None and info.kind is Kind.DIRECTORY else None

    def expects_absence(self, parent: Key) -> bool:
        """Whether the last name looked up in a directory was not there: then the next one hardly is."""
        with self._lock:
            return self._misses.get(parent, False)

    def looked_up(self, parent: Key, *, absent: bool) -> None:
        """How the last look into a directory ended."""
        with self._lock:
            self._misses[parent] = absent
            self._misses.move_to_end(parent)
            while len(self._misses) > _KEPT:
                self._misses.popitem(last=False)

    def holds(self, info: ObjectInfo) -> bool:
        """Whether a moment ago the name held exactly this."""
        _, known = self._answer(info.key)
        return known is not None and known.version == info.version and known.size_bytes == info.size_bytes

    def _answer(self, key: Key) -> tuple[bool, ObjectInfo | None]:
        with self._lock:
            until, info = self._answers.get(key, (0.0, None))
            return until > self._monotonic(), info if until > self._monotonic() else None
