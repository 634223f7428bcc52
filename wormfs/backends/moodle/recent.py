"""Names that were just looked up and are free, for the create that follows.

The kernel asks for a name in the moment before it creates it, in the same open(2). Within that moment the
second question is answered from here, without the database. Nothing rests on it: a name comes into being by
the unique index.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wormfs import clock
from wormfs.backends.moodle.courses import Course
from wormfs.backends.moodle.names import Spot
from wormfs.model import Key

_MOMENT_S: Final = 0.2
_AT_MOST: Final = 1024


@dataclass(frozen=True, slots=True)
class Free:
    """Where something may come into being."""

    course: Course
    spot: Spot


class FreeNames:
    """Each is told once. Safe from any thread; does not block."""

    def __init__(self, monotonic: Callable[[], float] = clock.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._noted: OrderedDict[Key, tuple[float, Free]] = OrderedDict()

    def note(self, key: Key, free: Free) -> None:
        """The name is free, and its directory is there."""
        with self._lock:
            self._noted[key] = self._monotonic() + _MOMENT_S, free
            while len(self._noted) > _AT_MOST:
                self._noted.popitem(last=False)

    def take(self, key: Key) -> Free | None:
        """What was noted a moment ago; the next to ask is told nothing."""
        with self._lock:
            until, free = self._noted.pop(key, (0.0, None))
        return free if until > self._monotonic() else None

    def forget(self, key: Key) -> None:
        """Something has the name."""
        with self._lock:
            self._noted.pop(key, None)
