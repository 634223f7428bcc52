"""Pool files to be: what streams in is hashed, and copied where the spool lies on another file system.

The disk begins early with what is there, so that the end has little left to wait for.
"""

from __future__ import annotations

import enum
import hashlib
import os
from dataclasses import dataclass
from typing import BinaryIO, Final

from wormfs import durability
from wormfs.errors import DigestMismatch

_CHUNK_BYTES: Final = 1 << 20
_WRITEBACK_EVERY_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Digests:
    """Of one content."""

    sha1: str
    sha256: str


class StagedAs(enum.Enum):
    """What becomes the pool file."""

    COPY = "a copy of the spool file"
    SPOOL_FILE = "the spool file, by a second name"


class Staged:
    """A pool file to be. One thread at a time."""

    def __init__(self, fd: int, name: str | None, kind: StagedAs = StagedAs.COPY) -> None:
        """``fd`` of a copy, which it owns; ``name`` only where a file cannot be without one."""
        self.fd = fd
        """What is to be linked: of a spool file, the descriptor that ``copy`` was given last."""
        self.kind = kind
        self.name = name
        self.copied_bytes = 0
        self._begun_bytes = 0
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._sha256 = hashlib.sha256()

    def copy(self, source: BinaryIO, end_bytes: int) -> None:
        """Go on up to ``end_bytes`` of ``source``: hash, and write where this is a copy.

        Raises OSError; DigestMismatch when it is shorter.
        """
        source_fd = source.fileno()
        copied = self.kind is StagedAs.COPY
        if not copied:
            self.fd = source_fd
        while self.copied_bytes < end_bytes:
            chunk = os.pread(source_fd, min(_CHUNK_BYTES, end_bytes - self.copied_bytes), self.copied_bytes)
            if not chunk:
                raise DigestMismatch("the spool file is shorter than what was written")
            if copied:
                durability.write_fully(self.fd, chunk)
                self._sha256.update(chunk)
            self._sha1.update(chunk)
            self.copied_bytes += len(chunk)
            if self.copied_bytes - self._begun_bytes >= _WRITEBACK_EVERY_BYTES:
                self._begin_writeback(source_fd)

    def hurry(self, source: BinaryIO) -> None:
        """The end is near: let the disk begin with the rest. Raises OSError."""
        if self._begun_bytes:
            self._begin_writeback(source.fileno())

    def _begin_writeback(self, source_fd: int) -> None:
        self._begun_bytes = self.copied_bytes
        durability.begin_writeback(source_fd)
        if self.kind is StagedAs.COPY:
            durability.begin_writeback(self.fd)

    def digests(self, of_spool_file: str = "") -> Digests:
        """Of what was copied so far. The spool has the SHA-256 of its own file: ``of_spool_file``."""
        copied = self.kind is StagedAs.COPY
        return Digests(self._sha1.hexdigest(), self._sha256.hexdigest() if copied else of_spool_file)

    def close(self) -> None:
        """Free what is its own. May be called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0 and self.kind is StagedAs.COPY:
            os.close(fd)


def digest(fd: int) -> Digests:
    """Of an open file, from its beginning. Raises OSError."""
    sha1, sha256, offset = hashlib.sha1(usedforsecurity=False), hashlib.sha256(), 0
    while chunk := os.pread(fd, _CHUNK_BYTES, offset):
        sha1.update(chunk)
        sha256.update(chunk)
        offset += len(chunk)
    return Digests(sha1.hexdigest(), sha256.hexdigest())
