"""Positioned reads of one committed file."""

from __future__ import annotations

import errno
import os

from wormfs.model import Key
from wormfs.oserrors import translated

_POOLED_BUFFERS = 4


class Buffers:
    """Read buffers of one backend, used again: zeroing a fresh one costs as much as the read.

    Threads need no lock: ``pop`` and ``append`` of a list are single steps of the interpreter.
    """

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        try:
            buffer = self._free.pop()
        except IndexError:
            return bytearray(size)
        return buffer if len(buffer) >= size else bytearray(size)

    def give_back(self, buffer: bytearray) -> None:
        if len(self._free) < _POOLED_BUFFERS:
            self._free.append(buffer)


class LocalReader:
    """A ``Reader`` over a descriptor that it owns."""

    def __init__(self, fd: int, size_bytes: int, backend: str, key: Key, buffers: Buffers) -> None:
        self._fd = fd
        self._size_bytes = size_bytes
        self._backend = backend
        self._key = key
        self._buffers = buffers
        self._can_ask = True
        """Whether the file system knows RWF_NOWAIT."""

    def read(self, offset: int, size: int) -> bytes:
        try:
            content = os.pread(self._fd, size, offset)
            if len(content) == size or not content:
                return content
            parts = [content]
            got = len(content)
            while got < size:
                content = os.pread(self._fd, size - got, offset + got)
                if not content:
                    break
                parts.append(content)
                got += len(content)
            return b"".join(parts)
        except OSError as error:
            raise translated(error, self._backend, self._key, f"read at byte {offset}") from error

    def read_ready(self, offset: int, size: int) -> bytes | None:
        if not self._can_ask:
            return None
        buffer = self._buffers.take(size)
        try:
            with memoryview(buffer)[:size] as window:
                got = os.preadv(self._fd, (window,), offset, os.RWF_NOWAIT)
                # What is not in the page cache ends such a read early. That is no end of file.
                if got < size and offset + got < self._size_bytes:
                    return None
                return bytes(window[:got])
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                self._can_ask = False
                return None
            raise translated(error, self._backend, self._key, f"read at byte {offset}") from error
        finally:
            self._buffers.give_back(buffer)

    @property
    def key(self) -> Key:
        """The name by which it was opened."""
        return self._key

    def file_id(self) -> tuple[int, int]:
        """Device and inode."""
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class ScrubReader(LocalReader):
    """Reads a file once, from the disk and not from memory, and leaves nothing of it in memory.

    The page cache lets go of clean pages that nobody has mapped. What a running program maps, or a copy in
    the cache of the disk or of a virtual machine's host, is read from there all the same. The cache of the
    mount is another one (of the FUSE inode) and stays as it is.
    """

    def __init__(self, fd: int, size_bytes: int, backend: str, key: Key, buffers: Buffers) -> None:
        super().__init__(fd, size_bytes, backend, key, buffers)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read(self, offset: int, size: int) -> bytes:
        content = super().read(offset, size)
        # With what came before: a large page at the edge could not go then.
        start = max(0, offset - size)
        os.posix_fadvise(self._fd, start, offset + len(content) - start, os.POSIX_FADV_DONTNEED)
        return content

    def close(self) -> None:
        if self._fd >= 0:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        super().close()
