"""What is kept with a file: mode, owner, times, ``user.*`` xattrs and the record.

The record is one xattr. The writer's own xattrs stand beside it under their own names, where
every tool finds them, and are left out of the record's text: a file system gives all xattrs of
a file together little room (ext4: 4 KiB). ``read_record`` puts them together again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import stat
from collections.abc import Iterator

from wormfs.backends import record_codec
from wormfs.backends.local import immutable
from wormfs.errors import InvalidArgument
from wormfs.model import DirectoryAttributes, FileAttributes, Record

RECORD_XATTR = b"user.wormfs.record"
OWN_XATTRS = b"user.wormfs."
WRITE_BITS = 0o222

_log = logging.getLogger(__name__)


class Complaints:
    """Says once per backend what this host does not let it do; the files are safe without."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._said: set[str] = set()

    def say_once(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning("%s: %s", self._backend, what)


def dress(fd: int, record: Record, complaints: Complaints) -> None:
    """Put attributes and record onto an open spool file. May be done again, with the same result.

    Not durable before the file is synced. Raises OSError; InvalidArgument for an xattr under
    wormfs's own names or outside ``user.``.
    """
    attributes = record.attributes
    status = os.fstat(fd)
    if not status.st_mode & WRITE_BITS:
        # An earlier attempt came this far. It may even have been published, and be immutable.
        if _is_dressed(fd, status, record):
            return
        # Without privileges, xattrs can only be set on a writable file.
        os.fchmod(fd, 0o600)
    _replace_xattrs(fd, attributes)
    os.setxattr(fd, RECORD_XATTR, _text_of(record))
    if (status.st_uid, status.st_gid) != (attributes.uid, attributes.gid):
        _give_to(fd, attributes.uid, attributes.gid, complaints)
    # After chown, which takes setuid and setgid away.
    os.fchmod(fd, attributes.mode & 0o7777 & ~WRITE_BITS)
    os.utime(fd, ns=(attributes.atime_ns, attributes.mtime_ns))


def read_record(fd: int) -> Record | None:
    """The record of an open file; ``None`` if it has none. Raises OSError, BackendFault."""
    try:
        text = os.getxattr(fd, RECORD_XATTR)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
    record = record_codec.decode(text)
    names = _writers_xattrs(fd)
    if not names and not record.attributes.xattrs:
        return record  # most files, and making the same value anew takes as long as reading it
    xattrs = {name: os.getxattr(fd, name) for name in names}
    return dataclasses.replace(record, attributes=dataclasses.replace(record.attributes, xattrs=xattrs))


def replace_record(fd: int, record: Record) -> None:
    """Put a new record in place of the old one, in one step. Synced by the caller. Raises OSError."""
    with _changeable(fd):
        os.setxattr(fd, RECORD_XATTR, _text_of(record), os.XATTR_REPLACE)


def dress_directory(fd: int, attributes: DirectoryAttributes, complaints: Complaints) -> None:
    """Set what is given of a directory's owner, mode and times. Synced by the caller. OSError."""
    if attributes.uid is not None or attributes.gid is not None:
        uid = -1 if attributes.uid is None else attributes.uid
        gid = -1 if attributes.gid is None else attributes.gid
        status = os.fstat(fd)
        if uid not in (-1, status.st_uid) or gid not in (-1, status.st_gid):
            _give_to(fd, uid, gid, complaints)
    if attributes.mode is not None:
        os.fchmod(fd, attributes.mode & 0o7777)
    if attributes.atime_ns is not None or attributes.mtime_ns is not None:
        status = os.fstat(fd)
        atime_ns = status.st_atime_ns if attributes.atime_ns is None else attributes.atime_ns
        mtime_ns = status.st_mtime_ns if attributes.mtime_ns is None else attributes.mtime_ns
        os.utime(fd, ns=(atime_ns, mtime_ns))


@contextlib.contextmanager
def _changeable(fd: int) -> Iterator[None]:
    """Lets a committed file's xattrs be changed: neither +i nor, without privileges, 0444 does."""
    was_immutable = immutable.make_mutable(fd)
    mode = os.fstat(fd).st_mode & 0o7777
    # Root changes xattrs of a read-only file, so its file never shows write bits meanwhile.
    opened = not mode & 0o200 and os.geteuid() != 0
    try:
        if opened:
            os.fchmod(fd, mode | 0o200)
        yield
    finally:
        if opened:
            os.fchmod(fd, mode)
        if was_immutable:
            immutable.make_immutable(fd)


def _is_dressed(fd: int, status: os.stat_result, record: Record) -> bool:
    """Whether an earlier ``dress`` went through. The atime does not count: any read moves it."""
    attributes = record.attributes
    return (
        stat.S_IMODE(status.st_mode) == attributes.mode & 0o7777 & ~WRITE_BITS
        and status.st_mtime_ns == attributes.mtime_ns
        and read_record(fd) == record
    )


def _text_of(record: Record) -> bytes:
    return record_codec.encode(record, xattrs={})


def _writers_xattrs(fd: int) -> list[bytes]:
    names = map(os.fsencode, os.listxattr(fd))
    return [name for name in names if name.startswith(b"user.") and not name.startswith(OWN_XATTRS)]


def _replace_xattrs(fd: int, attributes: FileAttributes) -> None:
    """Make the file's ``user.*`` xattrs exactly those of the attributes, wormfs's own aside."""
    for name in attributes.xattrs:
        if not name.startswith(b"user.") or name.startswith(OWN_XATTRS):
            raise InvalidArgument(f"a file cannot keep the xattr {name!r} in its record")
    for name in _writers_xattrs(fd):
        if name not in attributes.xattrs:
            os.removexattr(fd, name)
    for name, value in attributes.xattrs.items():
        os.setxattr(fd, name, value)


def _give_to(fd: int, uid: int, gid: int, complaints: Complaints) -> None:
    try:
        os.fchown(fd, uid, gid)
    except PermissionError:
        complaints.say_once(
            "files keep the daemon's owner, because it may not give them away (it needs CAP_CHOWN); "
            "each record names the owner"
        )
