"""A stretch of a spool file as the body of a request: read as it is sent, never all in memory."""

from __future__ import annotations

import io
import os

from wormfs.errors import BackendFault

IN_MEMORY_BYTES = 64 << 20
"""Shorter ones are read at once: that is quicker, and memory stays bounded."""


class Span(io.RawIOBase):
    """Bytes ``[start, start + size)`` of a descriptor that somebody else owns; it can be read again."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd = fd
        self._start = start
        self._size = size
        self._at = 0

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = min(max(0, base + offset), self._size)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._at
        content = os.pread(self._fd, left if size < 0 else min(size, left), self._start + self._at)
        self._at += len(content)
        return content


def body(fd: int, start: int, size: int) -> bytes | Span:
    """What a request sends. Raises BackendFault when the file is shorter than that."""
    if os.fstat(fd).st_size < start + size:
        raise BackendFault("the spool file is shorter than it was")
    span = Span(fd, start, size)
    if size > IN_MEMORY_BYTES:
        return span
    parts = []
    while len(span) > span.tell():
        parts.append(span.read(len(span) - span.tell()))
    return parts[0] if len(parts) == 1 else b"".join(parts)
