"""What stat(2) is told of a name, and who asks."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from wormfs.model import Kind, ObjectInfo
from wormfs.spool.entry import Entry

WRITE_BITS = 0o222


@dataclass(frozen=True, slots=True)
class Caller:
    """The process behind a request, as the kernel names it."""

    uid: int
    gid: int
    pid: int
    umask: int = 0


@dataclass(slots=True)
class Attributes:
    """The answer to a lookup or a stat."""

    inode: int
    mode: int
    """With the file type."""
    size_bytes: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    cache_s: float
    """How long the kernel may answer from memory."""


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What chmod, chown, utimens or truncate asks for; ``None`` leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size_bytes: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


LONG_S = 86400.0
"""A record does not change; the kernel need not ask again today."""


NEW_S = 0.02
"""Long enough that the kernel does not ask for the attributes of a file that it has just been told."""


def of_new(inode: int, entry: Entry) -> Attributes:
    """A file that this very request has made."""
    attributes = of_entry(inode, entry)
    attributes.cache_s = NEW_S
    return attributes


def of_entry(inode: int, entry: Entry) -> Attributes:
    """A file on its way. It looks writable only as long as it is."""
    mode = entry.mode if entry.state.changeable else entry.mode & ~WRITE_BITS
    return Attributes(
        inode=inode,
        mode=stat.S_IFREG | mode,
        size_bytes=entry.size_bytes,
        uid=entry.uid,
        gid=entry.gid,
        atime_ns=entry.atime_ns,
        mtime_ns=entry.mtime_ns,
        ctime_ns=entry.ctime_ns,
        cache_s=0.0,
    )


def of_object(inode: int, info: ObjectInfo, directory_cache_s: float) -> Attributes:
    """A committed file or a directory. What a listing tells only in part the kernel must not keep."""
    directory = info.kind is Kind.DIRECTORY
    cache_s = directory_cache_s if directory else LONG_S
    return Attributes(
        inode=inode,
        mode=(stat.S_IFDIR | info.mode) if directory else (stat.S_IFREG | (info.mode & ~WRITE_BITS)),
        size_bytes=info.size_bytes,
        uid=info.uid,
        gid=info.gid,
        atime_ns=info.atime_ns,
        mtime_ns=info.mtime_ns,
        ctime_ns=info.ctime_ns,
        cache_s=0.0 if info.partial else cache_s,
    )
