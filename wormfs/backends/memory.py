"""What was learned a moment ago, so that it need not be asked for again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from wormfs import clock
from wormfs.model import Key

Value = TypeVar("Value")


class Memory(Generic[Value]):
    """Values by key, each for the same while; the oldest go first. Safe from any thread; does not block."""

    def __init__(self, kept_s: float, at_most: int, monotonic: Callable[[], float] = clock.monotonic) -> None:
        """``kept_s``: seconds; 0 keeps nothing."""
        self._kept_s = kept_s
        self._at_most = at_most
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._values: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def note(self, key: Key, value: Value) -> None:
        """So it is now."""
        with self._lock:
            self._values[key] = self._monotonic() + self._kept_s, value
            self._values.move_to_end(key)
            while len(self._values) > self._at_most:
                self._values.popitem(last=False)

    def get(self, key: Key) -> Value | None:
        """What was noted less than that long ago."""
        return self._fresh(self._values.get(key))

    def take(self, key: Key) -> Value | None:
        """As ``get``; the next to ask is told nothing."""
        with self._lock:
            return self._fresh(self._values.pop(key, None))

    def forget(self, key: Key) -> None:
        """It changes."""
        with self._lock:
            self._values.pop(key, None)

    def _fresh(self, noted: tuple[float, Value] | None) -> Value | None:
        return noted[1] if noted is not None and noted[0] > self._monotonic() else None
