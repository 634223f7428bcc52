"""The driver contract: all that wormfs asks of a storage backend.

Every method blocks and may be called from up to ``traits.connections`` threads at once. A
driver raises only the errors of :mod:`wormfs.errors`. Whatever it returns as done is durable.
Every call has a time limit of the driver's own: it ends, with ``Unavailable`` if need be.

The way of one file: ``begin`` (the name is checked) → ``advance`` any number of times (bytes
may be sent early) → ``prepare`` (the record goes with the bytes) → the spool makes its file and
its journal durable → ``publish`` (the name comes into being). A transfer can be built again from
a sealed spool entry after a crash or an outage: ``begin``, ``advance`` with everything,
``prepare``, ``publish``. ``publish`` of the same record twice is a success: a lost reply must
not become a false "already exists".
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, runtime_checkable

from wormfs.model import (
    CheckResult,
    DirectoryAttributes,
    Finding,
    Key,
    ObjectInfo,
    Record,
    RetentionChange,
    Space,
)

RESERVED_PREFIX = b".wormfs"
"""Names that begin with this belong to wormfs and are hidden from the mount."""


class Guarantee(enum.Enum):
    """How far create-if-absent reaches."""

    ATOMIC = "atomic create at the backend"
    EXCLUSIVE_WRITER = "exclusive writer: only safe while this host is the only one"


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts about a driver that the layers above act upon."""

    guarantee: Guarantee
    connections: int
    """How many calls may run at once."""
    inline: bool = False
    """``stat``, ``list``, ``begin`` and ``open`` answer from the kernel's caches in microseconds,
    so that the event loop may call them without a thread."""
    max_object_bytes: int = (1 << 63) - 1
    max_key_bytes: int = 4095
    max_name_bytes: int = 255
    keeps_directory_attributes: bool = False
    compliance: bool = False
    """The backend itself keeps everybody, administrators included, from erasing before the date."""
    spool_on_backend: bool = False
    """The spool must lie on the backend's own file system (``spool_directory`` says where)."""


class Reader(Protocol):
    """One committed file, open for positioned reads from many threads."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the file. Blocks.

        Raises Unavailable, BackendFault, DigestMismatch, NotFound.
        """
        ...

    def read_ready(self, offset: int, size: int) -> bytes | None:
        """The same if it can be had without blocking, else ``None``."""
        ...

    def close(self) -> None: ...


class Transfer(Protocol):
    """One file on its way. Its bytes are in the spool file until ``publish`` has returned."""

    def advance(self, spooled: BinaryIO, ready_bytes: int) -> None:
        """Bytes ``[0, ready_bytes)`` of ``spooled`` are final so far; the driver may send them early.

        May be called often, and never at all. A driver that sees an error here may keep it for
        ``publish``. If the writer goes back and changes bytes below an earlier ``ready_bytes``,
        the spool calls ``abort`` and begins a new transfer.
        """
        ...

    def prepare(self, spooled: BinaryIO, record: Record) -> None:
        """Put what must travel with the bytes onto the spool file itself, before it is synced.

        The local driver sets mode, owner, times and the record's xattrs here. Others do nothing.
        May be called again after a crash, with the same record.
        """
        ...

    def publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        """Bring the name into being: all or nothing, create-if-absent, durable, verified.

        ``spooled`` is ``None`` only when the spool file is gone after an earlier publish: then the
        driver looks whether the name holds this very record, and raises NotFound if it does not.
        Raises AlreadyExists when the name holds anything else; and the other errors of the tree.
        """
        ...

    def abort(self) -> None:
        """Leave nothing behind at the backend. Never raises for what is already gone."""
        ...


class Backend(Protocol):
    """A storage backend. See the module's text for threads, errors and durability."""

    @property
    def name(self) -> str:
        """The configured name: the directory under the mount point."""
        ...

    @property
    def traits(self) -> Traits: ...

    def start(self) -> None:
        """Connect and prove that the guarantee holds. Raises Unavailable to be called again later;
        SettingsError when it can never work like this (says why and what to do)."""
        ...

    def close(self) -> None: ...

    def spool_directory(self, instance_id: str) -> str | None:
        """Where the spool must lie for this driver; ``None`` leaves it to the state directory."""
        ...

    def check(self, *, light: bool = False) -> Iterator[CheckResult]:
        """Connect, authenticate, test write, overwrite refused, test read, free space.

        ``light``: asked again and again in the background, so with a few requests only; a proof that takes
        many, and that ``start`` gives too, is left out.
        Leaves nothing visible and works where nothing can be erased: one well-known hidden
        test object is used again and again.
        """
        ...

    def validate(self, name: bytes) -> None:
        """Raise InvalidName or NameTooLong for a component that the backend cannot hold exactly.

        The general rules (1–255 bytes, no NUL, no slash, not reserved) are checked above.
        """
        ...

    def stat(self, key: Key) -> ObjectInfo:
        """Raises NotFound, Unavailable."""
        ...

    def list(self, key: Key) -> Iterator[ObjectInfo]:
        """The entries of one directory, streamed, each name once, hidden names left out.

        An entry that was there before the call and stays is neither missed nor repeated, whatever
        else happens meanwhile. Raises NotFound, NotADirectory. Closing the iterator frees it.
        """
        ...

    def open(self, info: ObjectInfo) -> Reader:
        """Raises NotFound, AccessDenied, Unavailable."""
        ...

    def record(self, key: Key) -> Record | None:
        """The record kept with a file; ``None`` for a file that wormfs did not write."""
        ...

    def begin(self, key: Key) -> Transfer:
        """A transfer to a name that does not exist now.

        Raises AlreadyExists when the name is taken, NotFound when its directory does not exist,
        NotADirectory, InvalidName, NameTooLong, OutOfSpace, AccessDenied, Unavailable.
        """
        ...

    def resume(self, key: Key) -> Transfer:
        """A transfer for a sealed entry after a crash or an outage: as ``begin``, but a taken name
        is not an error yet, because an earlier ``publish`` may have arrived."""
        ...

    def make_directory(self, key: Key, attributes: DirectoryAttributes) -> ObjectInfo:
        """Raises AlreadyExists, NotFound (no parent), OutOfSpace. Durable."""
        ...

    def remove_directory(self, key: Key) -> None:
        """Raises DirectoryNotEmpty, NotFound, NotADirectory. Durable."""
        ...

    def set_directory_attributes(self, key: Key, attributes: DirectoryAttributes) -> None:
        """Keep what the backend can keep; silently leave the rest (traits say which)."""
        ...

    def change_retention(self, key: Key, change: RetentionChange) -> Record:
        """Apply ``change`` to what the record says now (``worm.retention.changed``); the record after it.

        One step against other threads, and against other hosts as far as the backend lets a driver:
        of two that extend at once the longer wins, and no hold is lost. A date or hold that the backend
        itself can enforce is set there, too. Durable when it returns; a change that changes nothing is
        a success. Raises Retained when the date would come earlier, Unsupported for a file without
        a record, NotFound, IsADirectory.
        """
        ...

    def erase(self, key: Key, *, early: bool = False) -> None:
        """Remove every version and trace of a file, look again, and return only when it is gone.

        The rules were asked before; a backend that enforces retention itself may still refuse (Retained).
        ``early``: a court ordered it before the date; a backend whose own retention can be bypassed
        by right does so, one in compliance mode raises Retained. An erase that was cut off can
        be called again. Raises NotFound, IsADirectory, Unavailable.
        """
        ...

    def findings(self) -> Iterator[Finding]:
        """What is wrong at the backend and no walk over ``list`` would show, streamed.

        Versions on top of what was committed, records whose file is gone, claims left half-way by a
        crashed host, names that no path can show. Reads names and metadata, not content.
        """
        ...

    def time_ns(self) -> int | None:
        """The backend's own clock, nanoseconds since the epoch; ``None`` where it has none. May block.

        Raises Unavailable.
        """
        ...

    def space(self) -> Space: ...


@runtime_checkable
class Remembering(Protocol):
    """What a driver of a server may have beside the contract: answers that it knows already.

    Nothing here blocks, so no thread is needed; one that is costs as much as the answer, and each new file
    asks several times.
    """

    def stat_ready(self, key: Key) -> ObjectInfo | None:
        """What ``stat`` would answer now without asking the server, else ``None``. Raises what it raises."""
        ...

    def begin_ready(self, key: Key) -> Transfer | None:
        """What ``begin`` would return now without asking the server, else ``None``. Raises what it raises."""
        ...


@runtime_checkable
class Scrubbable(Protocol):
    """What a driver may have beside the contract: a way to read what is really stored, for verification.

    Where bytes may come from a cache that others use, too, it goes around that cache as far as it can, and
    does not push out what others read. A driver without it is read through ``open``.
    """

    def open_to_scrub(self, info: ObjectInfo) -> Reader:
        """As ``open``, for one reading from the beginning to the end."""
        ...


@runtime_checkable
class KernelReadable(Protocol):
    """What a driver may have beside the contract: files that the kernel can read without the daemon.

    Microseconds each, like what ``Traits.inline`` says; called on the event loop.
    """

    kernel_reads: bool
    """Whether the settings want it."""

    def file_id(self, reader: Reader) -> Hashable:
        """Which file an open reader of this driver reads: equal for two readers of the same file only."""
        ...

    def open_for_kernel(self, reader: Reader) -> int | None:
        """A new descriptor of the file that ``reader`` reads; the caller closes it.

        Whatever the kernel opens by it cannot be written, and reading changes no time. ``None``: not
        this file. Raises Unsupported: no file of this backend, ever; and what ``open`` raises.
        """
        ...
