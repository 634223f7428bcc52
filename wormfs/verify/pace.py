"""Not faster than asked: one limit in bytes a second for all threads of a verification."""

from __future__ import annotations

import threading
from collections.abc import Callable

from wormfs import clock

_LEAST_BLOCK_BYTES = 64 << 10


class Pace:
    """Safe from any thread. Bytes are paid for after they were read, so that no block is too large for it."""

    def __init__(
        self,
        bytes_per_s: int | None,
        *,
        monotonic: Callable[[], float] = clock.monotonic,
        pause: Callable[[float], None] = clock.pause,
    ):
        """``bytes_per_s``: ``None`` is without limit."""
        self._bytes_per_s = bytes_per_s
        self._monotonic = monotonic
        self._pause = pause
        self._lock = threading.Lock()
        self._free_at = monotonic()

    def block_bytes(self, most_bytes: int) -> int:
        """How much to read at once: what a second allows, so that nobody waits long for it."""
        if self._bytes_per_s is None:
            return most_bytes
        return min(most_bytes, max(_LEAST_BLOCK_BYTES, self._bytes_per_s))

    def spend(self, size_bytes: int) -> None:
        """Account for bytes that were read. Blocks until the next may be."""
        if self._bytes_per_s is None or not size_bytes:
            return
        with self._lock:
            now = self._monotonic()
            # What was not used is not saved up: a pause must not be followed by a burst.
            self._free_at = max(self._free_at, now) + size_bytes / self._bytes_per_s
            wait_s = self._free_at - now
        self._pause(wait_s)
