"""Bytes out of the spool into a file of the administrator's choice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO, Final

from wormfs import durability
from wormfs.errors import AlreadyExists, DigestMismatch
from wormfs.oserrors import translated

_CHUNK_BYTES: Final = 1 << 20

Progress = Callable[[int], None]
"""Told the number of bytes after each part."""


def export(source: BinaryIO, target: str, sha256: str | None, progress: Progress | None = None) -> str:
    """Copy what is left to read of ``source`` to the new file ``target``, durably; returns its SHA-256.

    Args:
        sha256: what it must be, in hex; ``None`` when nobody knows.

    Blocks as long as copying takes. Raises AlreadyExists when ``target`` exists (it is never
    overwritten), DigestMismatch when the bytes are others (the copy is removed), OutOfSpace and
    what else the disk says.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(target, flags, 0o600)
    except FileExistsError as error:
        raise AlreadyExists(f"{target} exists and is not overwritten") from error
    except OSError as error:
        raise translated(error, "", None, f"write {target}") from error
    try:
        digest = _fill(fd, target, source, progress)
        if sha256 is not None and sha256 != digest:
            raise DigestMismatch(f"the bytes are not those that were recorded; they stay in {source.name}")
    except BaseException:
        durability.unlink(target)
        raise
    finally:
        os.close(fd)
    durability.sync_directory_path(os.path.dirname(os.path.abspath(target)))
    return digest


def digest_of(source: BinaryIO, progress: Progress | None = None) -> str:
    """The SHA-256, in hex, of what is left to read. Blocks as long as reading takes."""
    return _copy(source, None, progress)


def _fill(fd: int, target: str, source: BinaryIO, progress: Progress | None) -> str:
    try:
        digest = _copy(source, fd, progress)
        durability.sync_file(fd)
    except OSError as error:
        raise translated(error, "", None, f"copy to {target}") from error
    return digest


def _copy(source: BinaryIO, target_fd: int | None, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        if target_fd is not None:
            durability.write_fully(target_fd, chunk)
        if progress is not None:
            progress(len(chunk))
    return digest.hexdigest()
