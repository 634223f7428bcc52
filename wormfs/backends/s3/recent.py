"""What was just looked up, for the question that follows at once.

The kernel asks for a name before it creates it, and for a file before it opens it. Within a moment the
second question is answered from here. Who makes many files in one directory has it listed once in each
moment, and is told from that which names are free. Nothing rests on it: a name comes into being by a
conditional put.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from wormfs import clock
from wormfs.backends.memory import Memory
from wormfs.model import ROOT, Key, Kind, ObjectInfo, parent_of

_KEPT = 4096
_MOMENT_S = 0.2
_LOOKS_KEPT = 16
_MANY = 4
"""So many names not found in one directory within a moment are worth a listing of it."""


@dataclass(slots=True)
class Look:
    """One listing of a directory, under way or a moment old."""

    until: float
    taken: set[Key] | None = None
    """Names that the listing has; ``None`` before it has ended."""
    changed: set[Key] = field(default_factory=set)
    """Names that were touched here since it began."""

    def frees(self, key: Key, now: float) -> bool:
        """Whether the name was free when the listing began, and nothing here has touched it since."""
        return (
            self.until > now and self.taken is not None and key not in self.taken and key not in self.changed
        )


@dataclass(slots=True)
class _Misses:
    """Names of one directory that were looked for and not found."""

    last_was_one: bool = False
    since: float = 0.0
    count: int = 0
    large: bool = False
    """It does not fit into one answer: names are asked for one by one."""


class Recent:
    """The last answers, each for a moment. Safe from any thread."""

    def __init__(self, monotonic: Callable[[], float] = clock.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answers: Memory[tuple[ObjectInfo | None]] = Memory(_MOMENT_S, _KEPT, monotonic)
        self._misses: OrderedDict[Key, _Misses] = OrderedDict()
        self._looks: OrderedDict[Key, Look] = OrderedDict()

    def remember(self, key: Key, info: ObjectInfo | None) -> None:
        """``None``: there is nothing of that name."""
        self._answers.note(key, (info,))

    def forget(self, key: Key) -> None:
        """The name changes."""
        self._answers.forget(key)
        with self._lock:
            look = self._looks.get(parent_of(key))
            if look is not None and look.until > self._monotonic():
                look.changed.add(key)

    def absent(self, key: Key) -> bool:
        """Whether the name was free a moment ago."""
        known = self._answers.get(key)
        return self.listed_free(key) if known is None else known == (None,)

    def listed_free(self, key: Key) -> bool:
        """Whether a listing of its directory showed a moment ago that the name was free."""
        if key == ROOT:
            return False  # it has no directory that could be listed
        with self._lock:
            look = self._looks.get(parent_of(key))
            return look is not None and look.frees(key, self._monotonic())

    def directory(self, key: Key) -> ObjectInfo | None:
        """The directory that it was a moment ago."""
        info = self._answer(key)
        return info if info is not None and info.kind is Kind.DIRECTORY else None

    def expects_absence(self, parent: Key) -> bool:
        """Whether the last name looked up in a directory was not there: then the next one hardly is."""
        with self._lock:
            misses = self._misses.get(parent)
            return misses is not None and misses.last_was_one

    def looked_up(self, parent: Key, *, absent: bool) -> None:
        """How the last look into a directory ended."""
        with self._lock:
            now = self._monotonic()
            misses = self._misses.setdefault(parent, _Misses())
            self._misses.move_to_end(parent)
            misses.last_was_one = absent
            if now > misses.since + _MOMENT_S:
                misses.since, misses.count = now, 0
            misses.count += absent
            while len(self._misses) > _KEPT:
                self._misses.popitem(last=False)

    def begin_look(self, parent: Key) -> Look | None:
        """A listing of a directory is worth its price now: who gets this makes it, and calls ``end_look``.

        ``None``: few names were asked for, the directory is large, or somebody is listing it.
        """
        with self._lock:
            now = self._monotonic()
            misses, before = self._misses.get(parent), self._looks.get(parent)
            if misses is None or misses.large or misses.count < _MANY or now > misses.since + _MOMENT_S:
                return None
            if before is not None and before.until > now:
                return None
            misses.count = 0
            look = self._looks[parent] = Look(now + _MOMENT_S)
            self._looks.move_to_end(parent)
            while len(self._looks) > _LOOKS_KEPT:
                self._looks.popitem(last=False)
            return look

    def end_look(self, look: Look, taken: set[Key]) -> None:
        """``taken``: all names in the directory. Never called for a listing that failed."""
        with self._lock:
            look.taken = taken

    def is_large(self, parent: Key) -> None:
        """The directory does not fit into one answer; the look at it shows nothing."""
        with self._lock:
            self._misses.setdefault(parent, _Misses()).large = True

    def holds(self, info: ObjectInfo) -> bool:
        """Whether a moment ago the name held exactly this."""
        known = self._answer(info.key)
        return known is not None and known.version == info.version and known.size_bytes == info.size_bytes

    def _answer(self, key: Key) -> ObjectInfo | None:
        known = self._answers.get(key)
        return None if known is None else known[0]
