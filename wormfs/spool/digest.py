"""The SHA-256 of a file that is still being written.

Bytes that come in order are hashed in a thread while the application writes on, from the spool file (its
pages are in memory). Bytes that come back to what has been hashed throw the state away; it is computed
again from the spool file, at the latest when the file is sealed. So the digest is always that of the bytes
that are in the spool, whatever order they came in.
"""

from __future__ import annotations

import hashlib
import os
import threading

_CHUNK_BYTES = 1 << 20
AHEAD_BYTES = 4 << 20
"""So many bytes may wait before a thread is worth its start."""


class StreamingDigest:
    """``wrote`` and ``truncated`` come from the event loop, ``absorb`` and ``finish`` from threads."""

    __slots__ = ("_frontier", "_hash", "_hashed", "_lock", "_running")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = threading.Lock()
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._frontier = 0

    @property
    def frontier_bytes(self) -> int:
        """Bytes ``[0, frontier)`` have been written without a gap."""
        return self._frontier

    @property
    def hashed_bytes(self) -> int:
        """What has been hashed already, or is being hashed."""
        return self._hashed

    @property
    def worthwhile(self) -> bool:
        """Enough waits for ``absorb`` to be worth a thread."""
        return self._frontier - self._hashed >= AHEAD_BYTES and not self._running.locked()

    def wrote(self, offset: int, size: int) -> None:
        """Bytes at ``offset`` are in the spool file now."""
        end = offset + size
        if self._hashed <= offset <= self._frontier:
            if end > self._frontier:
                self._frontier = end
            return
        if offset < self._hashed:
            self._restart(max(self._frontier, end))

    def truncated(self, size: int) -> None:
        """The file is ``size`` bytes long now."""
        with self._lock:
            self._frontier = min(self._frontier, size)
        if size < self._hashed:
            self._restart(self._frontier)

    def _restart(self, frontier: int) -> None:
        with self._lock:
            self._hash = hashlib.sha256()
            self._hashed = 0
            self._frontier = frontier

    def absorb(self, fd: int) -> int:
        """Hash what has come in order so far, not what comes meanwhile: others want the thread, too.

        Blocks; returns the bytes hashed in all. Raises as ``finish`` does; what was hashed until
        then is hashed again.
        """
        if not self._running.acquire(blocking=False):
            return self._hashed
        try:
            self._hash_up_to(fd, None)
        finally:
            self._running.release()
        return self._hashed

    def finish(self, fd: int, size: int) -> str:
        """The digest, in hex, of the ``size`` bytes of the file. No write may happen meanwhile. Blocks.

        Raises EOFError when the file is shorter, OSError from the disk.
        """
        with self._running:
            self._hash_up_to(fd, size)
            return self._hash.hexdigest()

    def _hash_up_to(self, fd: int, size: int | None) -> None:
        wanted = _CHUNK_BYTES if size is None else min(_CHUNK_BYTES, max(1, size - self._hashed))
        buffer = memoryview(bytearray(wanted))
        goal = self._frontier
        while True:
            with self._lock:
                state, start = self._hash, self._hashed
                end = min(goal, self._frontier) if size is None else size
                # Claimed before it is read: a write that comes back into it restarts the digest.
                claimed = min(end, start + _CHUNK_BYTES)
                self._hashed = claimed
            if claimed <= start:
                return
            try:
                self._feed(state, fd, start, claimed, buffer)
            except BaseException:
                # Claimed, but not hashed: a digest that went on from here would be wrong for ever.
                with self._lock:
                    self._hash, self._hashed = hashlib.sha256(), 0
                raise

    @staticmethod
    def _feed(state: hashlib._Hash, fd: int, start: int, end: int, buffer: memoryview) -> None:
        at = start
        while at < end:
            count = os.preadv(fd, [buffer[: end - at]], at)
            if count == 0:
                raise EOFError("the spool file is shorter than what was written to it")
            state.update(buffer[:count])
            at += count
