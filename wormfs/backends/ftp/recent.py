"""Records that were read a moment ago, so that a stat costs one question at the server and not four."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from wormfs.backends.ftp.listing import Seen
from wormfs.clock import Clock
from wormfs.model import Key, Record

_KEPT: Final = 4096
_KEPT_S: Final = 60.0
"""A record does not change, but its file can be erased and made again elsewhere: not for ever."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a name held. ``record`` is ``None`` for a file that wormfs did not write."""

    seen: Seen
    record: Record | None
    until: float


class Recent:
    """Safe from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[Key, Known] = OrderedDict()

    def get(self, key: Key, seen: Seen) -> Known | None:
        """What is known of the very file that the server shows now."""
        with self._lock:
            known = self._known.get(key)
            if known is None or known.seen != seen or known.until < self._clock.monotonic():
                return None
            return known

    def put(self, key: Key, seen: Seen, record: Record | None) -> None:
        """Remember for a while; not that a file is not wormfs's: that may change at any moment."""
        if record is None:
            return
        with self._lock:
            self._known[key] = Known(seen, record, self._clock.monotonic() + _KEPT_S)
            self._known.move_to_end(key)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)

    def drop(self, key: Key) -> None:
        """Forget a key that has changed."""
        with self._lock:
            self._known.pop(key, None)
