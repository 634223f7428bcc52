"""Reading a file to its end for its SHA-256: one block is read while the one before is hashed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Final

from wormfs import threads
from wormfs.backends.base import Reader
from wormfs.verify.pace import Pace

BLOCK_BYTES: Final = 4 << 20
"""Two of these are held for each file that is being read."""


class Stopped(Exception):
    """The verification was told to stop; what was being read is read again by the next one."""


class Digester:
    """Reads files for several threads. ``stop`` makes all of them end soon."""

    def __init__(self, at_once: int, pace: Pace, progress: Callable[[int], None]):
        """``at_once``: how many threads call ``digest``; ``progress`` is told of bytes as they are read."""
        self._ahead = threads.Beside(at_once)
        self._pace = pace
        self._progress = progress
        self._stopped = threading.Event()
        self._block_bytes = pace.block_bytes(BLOCK_BYTES)

    def digest(self, reader: Reader, size_bytes: int) -> tuple[int, str]:
        """Number and SHA-256 (hex) of the bytes that are there; reads on beyond ``size_bytes``.

        Blocks. Raises what the reader raises, and Stopped.
        """
        found = hashlib.sha256()
        offset = 0
        asked = self._asked(0, size_bytes)
        block = self._read(reader, 0, asked)
        # A reader gives less than was asked for only at the end.
        while len(block) == asked:
            offset += len(block)
            asked = self._asked(offset, size_bytes)
            following = self._ahead.start(self._read, reader, offset, asked)
            try:
                found.update(block)
            finally:
                # Whatever happens: the reader must not be closed under it.
                block = following.result()
        found.update(block)
        return offset + len(block), found.hexdigest()

    def _read(self, reader: Reader, offset: int, size: int) -> bytes:
        if self._stopped.is_set():
            raise Stopped
        block = reader.read(offset, size)
        self._pace.spend(len(block))
        self._progress(len(block))
        return block

    def _asked(self, offset: int, size_bytes: int) -> int:
        """How much to read at ``offset``. A byte more than there should be shows the end, or growth."""
        left_bytes = size_bytes + 1 - offset
        return min(self._block_bytes, left_bytes) if left_bytes > 0 else self._block_bytes

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Every ``digest`` raises Stopped at its next block."""
        self._stopped.set()

    def close(self) -> None:
        """End the threads."""
        self._ahead.close()
