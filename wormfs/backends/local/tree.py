"""Names below the backend's root, without ever following a symbolic link.

Users may own directories in the tree and reach it without the mount. Whoever swaps a directory
for a symbolic link must not make the daemon, which may be root, work elsewhere. So everything
that opens or changes goes through ``opened_parent`` or ``opened``, which walk component by
component; that is also what lets a key be 4,095 bytes long wherever the root lies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from wormfs.backends.base import RESERVED_PREFIX
from wormfs.errors import InvalidName, NotFound
from wormfs.model import ROOT, Finding, FindingKind, Key, Kind, ObjectInfo, child
from wormfs.oserrors import translated

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO must not hold us. Regular files do not care.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def reject_unsafe(key: bytes, backend: str) -> None:
    """Raise InvalidName for a key that names something outside the shown tree.

    The layers above have checked this; here it guards against their mistakes, cheaply.
    """
    if b"\0" not in key and b".." not in key and RESERVED_PREFIX not in key:
        return
    for component in key.split(b"/"):
        if component == b".." or b"\0" in component or component.startswith(RESERVED_PREFIX):
            raise InvalidName("such a name cannot be in a backend", backend=backend, key=key)


@contextlib.contextmanager
def opened_directory(root_fd: int, key: bytes) -> Iterator[int]:
    """A descriptor of the directory ``key``, closed at the end. Raises OSError."""
    fd = open_directory(root_fd, key)
    try:
        yield fd
    finally:
        os.close(fd)


def open_directory(root_fd: int, key: bytes) -> int:
    """A new descriptor of the directory ``key``; the caller closes it.

    Raises OSError: ENOENT, ENOTDIR (also for a symbolic link), EACCES and the like.
    """
    if b"/" not in key:
        return os.open(key or b".", _DIRECTORY_FLAGS, dir_fd=root_fd)
    fd = root_fd
    for component in key.split(b"/"):
        try:
            below = os.open(component, _DIRECTORY_FLAGS, dir_fd=fd)
        finally:
            if fd != root_fd:
                os.close(fd)
        fd = below
    return fd


@contextlib.contextmanager
def opened_parent(root_fd: int, key: Key) -> Iterator[tuple[int, bytes]]:
    """The directory that holds ``key``, as a descriptor, and the name in it. Raises OSError."""
    folder, _, name = key.rpartition(b"/")
    with opened_directory(root_fd, folder) as directory_fd:
        yield directory_fd, name


def open_file(directory_fd: int, name: bytes) -> int:
    """A new descriptor for reading the regular file ``name``; the caller closes it.

    Raises OSError; NotFound or IsADirectory if it is not a regular file.
    """
    try:
        # Reading must not change what is archived, and costs less so.
        fd = os.open(name, _FILE_FLAGS | os.O_NOATIME, dir_fd=directory_fd)
    except PermissionError:
        # Only the owner and CAP_FOWNER may ask for that.
        fd = os.open(name, _FILE_FLAGS, dir_fd=directory_fd)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise NotFound("it is neither a file nor a directory")
    except BaseException:
        os.close(fd)
        raise
    return fd


def info_of(key: Key, status: os.stat_result) -> ObjectInfo | None:
    """What wormfs shows of a name; ``None`` for what it does not show (links, devices, sockets)."""
    mode = status.st_mode
    if stat.S_ISREG(mode):
        kind = Kind.FILE
    elif stat.S_ISDIR(mode):
        kind = Kind.DIRECTORY
    else:
        return None
    return ObjectInfo(
        key,
        kind,
        status.st_size,
        mode & 0o7777,
        status.st_uid,
        status.st_gid,
        status.st_atime_ns,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def findings(root_fd: int, backend: str) -> Iterator[Finding]:
    """What lies in the tree and is neither file nor directory, streamed. Raises what a listing does."""
    waiting = [ROOT]
    while waiting:
        directory = waiting.pop()
        try:
            directory_fd = open_directory(root_fd, directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise translated(error, backend, directory, "read the directory") from error
        with closing_fd(directory_fd), os.scandir(directory_fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name.startswith(RESERVED_PREFIX):
                    continue
                key = child(directory, name)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(key)
                elif not entry.is_file(follow_symlinks=False):
                    yield Finding(FindingKind.UNEXPECTED, key, "neither a file nor a directory")


@contextlib.contextmanager
def closing_fd(fd: int) -> Iterator[None]:
    """Close ``fd`` at the end."""
    try:
        yield
    finally:
        os.close(fd)


class Listing:
    """The entries of one directory, as an iterator that holds its descriptor until closed.

    The kernel's own directory stream gives what the contract asks for: an entry that stays is
    neither missed nor repeated. What comes or goes meanwhile may be in or not.
    """

    def __init__(self, directory_fd: int, key: Key, backend: str) -> None:
        """The listing owns ``directory_fd`` from here on, also if this raises OSError."""
        self._directory_fd = directory_fd
        self._backend = backend
        self._key = key
        self._prefix = key + b"/" if key else b""
        try:
            # Entries are looked up relative to this very descriptor, so it stays open with them.
            self._entries = os.scandir(directory_fd)
        except BaseException:
            os.close(directory_fd)
            raise

    def __iter__(self) -> Listing:
        return self

    def __next__(self) -> ObjectInfo:
        try:
            for entry in self._entries:
                name = os.fsencode(entry.name)
                if name.startswith(RESERVED_PREFIX):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                info = info_of(Key(self._prefix + name), status)
                if info is not None:
                    return info
        except OSError as error:
            raise translated(error, self._backend, self._key, "read the directory") from error
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Free the descriptor; what is not read yet is not read any more. May be called again."""
        self._entries.close()
        fd, self._directory_fd = self._directory_fd, -1
        if fd >= 0:
            os.close(fd)
