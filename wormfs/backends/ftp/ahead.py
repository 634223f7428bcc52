"""Work that goes on while others write, read or wait for a disk; never more of it than connections."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from wormfs import threads


class Ahead:
    """A few threads. What finds none free is not done ahead: whoever needs it does it then."""

    def __init__(self, at_once: int) -> None:
        """``at_once``: how many calls may run."""
        self._beside = threads.Beside(at_once)
        self._free = threading.Semaphore(at_once)
        self._state = threading.Lock()
        self._closed = False

    def start(self, work: Callable[[], None]) -> Future[None] | None:
        """Begin ``work`` in a thread; ``None`` when none is free. Never blocks."""
        with self._state:
            if self._closed or not self._free.acquire(blocking=False):
                return None
            return self._beside.start(self._run, work)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._free.release()

    def close(self) -> None:
        """Wait for what runs, each network operation to its time limit at most."""
        with self._state:
            self._closed = True
        self._beside.close()
