"""Value types that every layer shares. No behaviour beyond what a value needs."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NewType

from wormfs import errors

show = errors.show
"""A key for people; see there. Errors name files, too."""

Key = NewType("Key", bytes)
"""A name in a backend: components joined by ``/``, no leading or trailing slash, any bytes
but NUL. ``b""`` is the backend's root directory."""

ROOT = Key(b"")


def child(parent: Key, name: bytes) -> Key:
    """The key of ``name`` in the directory ``parent``."""
    return Key(parent + b"/" + name) if parent else Key(name)


def parent_of(key: Key) -> Key:
    """The key of the directory that holds ``key``."""
    return Key(key.rpartition(b"/")[0])


def name_of(key: Key) -> bytes:
    """The last component of ``key``."""
    return key.rpartition(b"/")[2]


class Kind(enum.Enum):
    """What a name stands for."""

    FILE = "file"
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a backend knows of a name without reading it.

    ``mode`` holds permission bits only. ``version`` is the driver's own token for the bytes
    that were committed (an S3 version id, for example); ``open`` reads exactly these.
    ``recorded`` is false for a file that wormfs did not write. ``storage_class`` is the backend's own
    word for how the bytes are kept, where it has such a thing.
    """

    key: Key
    kind: Kind
    size_bytes: int = 0
    mode: int = 0o444
    uid: int = 0
    gid: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    version: str | None = None
    recorded: bool = True
    storage_class: str | None = None
    partial: bool = False
    """From a listing that tells kind and size only: whoever needs the rest asks ``stat``."""


@dataclass(frozen=True, slots=True)
class FileAttributes:
    """What the writer chose for its file; kept in the record."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    """Extended attributes by full name, ``user.`` included."""


@dataclass(frozen=True, slots=True)
class DirectoryAttributes:
    """Mode, owner and times of a directory; ``None`` leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """Until when a file must stay: whole seconds, since that is what backends keep; None is for ever.
    Holds are case numbers."""

    retain_until_ns: int | None = None
    holds: tuple[str, ...] = ()


FOREVER: Final = None
"""``retain_until_ns`` of a file that is never erased."""

NO_RETENTION: Final = 0
"""``retain_until_ns`` of a file on a scratch backend: it may go at any time, whatever the clock says.
Drivers treat it as any date in the past."""


@dataclass(frozen=True, slots=True)
class Period:
    """A length of time as laws count it: years and months of the calendar, and seconds besides."""

    years: int = 0
    months: int = 0
    seconds: int = 0


@dataclass(frozen=True, slots=True)
class RetentionChange:
    """What is asked of a record's retention; drivers apply it to what the record says at that moment.

    ``extend`` false leaves the date alone; else ``extend_to_ns`` is the new one (``None``: for ever).
    """

    extend: bool = False
    extend_to_ns: int | None = None
    add_holds: tuple[str, ...] = ()
    remove_holds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """What wormfs knows of a file and keeps with it, so that it can be judged without wormfs.

    ``entry_id`` names the attempt: a driver that finds its own ``entry_id`` at the key knows
    that an earlier publish arrived though the reply was lost.
    """

    entry_id: str
    sha256: str
    size_bytes: int
    attributes: FileAttributes
    committed_at_ns: int
    writer_uid: int
    wormfs_version: str
    retention: Retention = Retention()


@dataclass(frozen=True, slots=True)
class Space:
    """Room at a backend. ``None``: the backend cannot know."""

    total_bytes: int | None
    free_bytes: int | None
    total_files: int | None = None
    free_files: int | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of ``wormfs check``."""

    name: str
    passed: bool
    detail: str = ""
    warning: bool = False
    """Passed, but the administrator should know."""


class FindingKind(enum.Enum):
    """What can be wrong with stored files, in the words of ``wormfs verify``."""

    MISSING = "missing"
    """A record says that the file is there, and it is not (removed, or lost by the backend)."""
    ALTERED = "altered"
    """Size or SHA-256 are not those of the record, or somebody has put another version on top."""
    UNRECORDED = "unrecorded"
    """A visible file that wormfs did not write."""
    UNEXPECTED = "unexpected"
    """Something at the backend that no path can show, or that has no business there."""
    UNREADABLE = "unreadable"
    """It could not be read now; nothing is known of its bytes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong at a backend. ``name`` is the key, or the backend's own name for it."""

    kind: FindingKind
    name: bytes
    detail: str
