"""Proof, at start, that a directory's file system can keep the promise."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator

from wormfs import durability, ownership
from wormfs.backends.base import RESERVED_PREFIX
from wormfs.backends.local.stored import RECORD_XATTR
from wormfs.errors import SettingsError
from wormfs.model import Key

HIDDEN = Key(RESERVED_PREFIX)
"""wormfs's own directory below the root of a backend."""

_RECORD_ROOM_BYTES = 2048
"""More than any record with a few holds takes."""

_MOUNTS_PATH = "/proc/self/mountinfo"


def prove_possible(root_fd: int, backend: str, path: str) -> None:
    """Make ``.wormfs`` if it is missing, and prove links, xattrs and fsync in it.

    Leaves nothing else behind. Raises SettingsError when it can never work like this, and
    OSError for what may pass (no room, no permission).
    """
    if _is_wormfs_mount(root_fd):
        raise SettingsError(
            f"{path} is a wormfs mount itself: name the directory where the files are to lie on a disk",
            backend=backend,
        )
    with opened_hidden(root_fd, backend, path) as hidden_fd, _probe_file(hidden_fd) as (fd, name):
        for proof in (_prove_xattrs, _prove_links, _prove_sync):
            proof(fd, name, hidden_fd, _refusal(backend, path))


@contextlib.contextmanager
def opened_hidden(root_fd: int, backend: str, path: str) -> Iterator[int]:
    """``.wormfs`` as a descriptor, made now if it is missing. Raises OSError, SettingsError."""
    durability.make_directory_durably(HIDDEN, 0o700, root_fd)
    try:
        fd = os.open(HIDDEN, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd)
    except NotADirectoryError as error:
        raise SettingsError(
            f"{path}/.wormfs is not a directory, but wormfs needs one of that name: move it away",
            backend=backend,
        ) from error
    try:
        status = os.fstat(fd)
        if not ownership.is_ours(status.st_uid):
            raise SettingsError(
                f"{path}/.wormfs belongs to uid {status.st_uid}, so others can change what wormfs keeps "
                f"there: chown it to uid {os.geteuid()}",
                backend=backend,
            )
        if status.st_mode & 0o077 and status.st_uid == os.geteuid():
            os.fchmod(fd, 0o700)
        yield fd
    finally:
        os.close(fd)


def unique_name(purpose: str) -> bytes:
    """A name that no other daemon uses at the same time."""
    return f"{purpose}-{secrets.token_hex(8)}".encode()


_Refuse = Callable[[str], SettingsError]


def _refusal(backend: str, path: str) -> _Refuse:
    def refuse(why: str) -> SettingsError:
        return SettingsError(f"the file system of {path} {why}: use ext4, XFS or Btrfs", backend=backend)

    return refuse


@contextlib.contextmanager
def _probe_file(directory_fd: int) -> Iterator[tuple[int, bytes]]:
    name = unique_name("probe")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=directory_fd)
    try:
        yield fd, name
    finally:
        os.close(fd)
        durability.unlink(name, directory_fd)


def _prove_xattrs(fd: int, name: bytes, directory_fd: int, refuse: _Refuse) -> None:
    value = b"x" * _RECORD_ROOM_BYTES
    try:
        os.setxattr(fd, RECORD_XATTR, value)
        kept = os.getxattr(fd, RECORD_XATTR) == value
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.E2BIG, errno.ERANGE):
            raise refuse("cannot keep a record in an extended attribute (user xattrs)") from error
        if error.errno == errno.ENOSPC and os.fstatvfs(directory_fd).f_bavail:
            raise refuse(f"has no room for {_RECORD_ROOM_BYTES} bytes of extended attributes") from error
        raise
    if not kept:
        raise refuse("does not give extended attributes back as they were set")


def _prove_links(fd: int, name: bytes, directory_fd: int, refuse: _Refuse) -> None:
    linked = name + b".link"
    try:
        durability.publish_link(fd, linked, directory_fd)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV):
            raise refuse("has no hard links") from error
        raise
    try:
        if os.stat(linked, dir_fd=directory_fd, follow_symlinks=False).st_ino != os.fstat(fd).st_ino:
            raise refuse("does not show a hard link as the same file")
        try:
            durability.publish_link(fd, linked, directory_fd)
        except FileExistsError:
            return
        raise refuse("lets a second link replace a name that is taken")
    finally:
        durability.unlink(linked, directory_fd)


def _prove_sync(fd: int, name: bytes, directory_fd: int, refuse: _Refuse) -> None:
    try:
        durability.sync_file(fd)
        durability.sync_directory(directory_fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise refuse("cannot sync files and directories to the disk") from error
        raise


def _is_wormfs_mount(root_fd: int) -> bool:
    status = os.fstat(root_fd)
    wanted = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    with open(_MOUNTS_PATH, encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            if before.split()[2] == wanted and after.split()[0] == "fuse.wormfs":
                return True
    return False
