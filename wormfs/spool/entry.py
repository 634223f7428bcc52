"""One file on its way, as this process knows it.

The durable truth is the journal record in the entry's slot; this object is what the running daemon
works with. Fields change only on the event loop, except where a method says otherwise.
"""

from __future__ import annotations

import io
import os
import threading
from dataclasses import dataclass, field

import trio

from wormfs.backends.base import Transfer
from wormfs.errors import WormfsError
from wormfs.model import FileAttributes, Key, Record
from wormfs.spool.digest import StreamingDigest
from wormfs.spool.journal import EntryRecord, Transition, bounded_history
from wormfs.spool.store import Slot
from wormfs.worm.lifecycle import EntryState, allowed


@dataclass(slots=True)
class Writer:
    """Who has the file open for writing."""

    uid: int
    pid: int
    opened_boot_s: float
    exclusive: bool = False
    """Opened with O_EXCL: only the creator of the bytes may call it a success."""
    mappable: bool = False
    """Opened for reading and writing, so that a mapping may write to it after its close."""
    shared_before: bool = False
    """A close has been seen that was not the last: descriptors were duplicated or inherited."""
    failed: str | None = None
    """How it ended, when it ended badly with the file open."""


@dataclass(slots=True, eq=False)
class Entry:
    """A file between ``create`` and its end as a record, in quarantine, or nowhere."""

    id: str
    key: Key
    state: EntryState
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    created_at_ns: int
    writer: Writer
    slot: Slot | None = None
    """None once it has ended."""
    size_bytes: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    digest: StreamingDigest = field(default_factory=StreamingDigest)
    transfer: Transfer | None = None
    """The way to the backend that was begun with the file; rebuilt from the spool when lost."""
    record: Record | None = None
    history: list[Transition] = field(default_factory=list)
    last_error: str | None = None
    write_error: WormfsError | None = None
    """The first write that failed: every later one fails the same way, and it cannot be sealed."""
    reopened: bool = False
    """The one more open that an empty file has within ``empty_grace`` has been used."""
    settle_until_ns: int | None = None
    taken_up: bool = False
    """Left by an earlier daemon: its bytes are compared with their digest before they are published."""
    attempts: int = 0
    retry_at: float = 0.0
    """Monotonic seconds before which the committer leaves it alone."""
    content: threading.RLock = field(default_factory=threading.RLock)
    """Held for each write, for each use of the slot's descriptor by the event loop, and for the moment at
    which the file is closed to writes or parts from its slot: the number of a closed descriptor is
    soon that of another file."""
    closed_to_writes: bool = False
    hashing_ahead: bool = False
    """A task is on its way that hashes what has been written so far; one is enough."""
    sending: threading.Lock = field(default_factory=threading.Lock)
    """Held while the driver is handed bytes ahead of the close."""
    sent_bytes: int = 0
    """What the driver has been told will not change."""
    went_back: bool = False
    """The writer has changed what was sent: the transfer must begin anew."""
    closing: trio.Lock = field(default_factory=trio.Lock)
    """One close at a time decides what happens."""
    ended: trio.Event = field(default_factory=trio.Event)
    outcome: WormfsError | None = None
    """Why it ended otherwise than as a record; for those who wait for ``ended``."""

    @property
    def data_fd(self) -> int:
        """The spool file's descriptor, for whoever holds ``content`` or has the entry to itself."""
        with self.content:
            assert self.slot is not None
            return self.slot.data_fd

    def duplicate_data(self) -> int | None:
        """A descriptor of the spool file that the caller owns; ``None`` once the entry has ended."""
        with self.content:
            return None if self.slot is None else os.dup(self.slot.data_fd)

    def read_data(self, offset: int, size: int) -> bytes | None:
        """Bytes of the spool file; ``None`` once the entry has ended."""
        with self.content:
            return None if self.slot is None else os.pread(self.slot.data_fd, size, offset)

    def part_from_slot(self) -> Slot | None:
        """Take the slot away, for whoever ends the entry: nobody uses its descriptor from here on."""
        with self.content:
            slot, self.slot = self.slot, None
            return slot

    def attributes(self) -> FileAttributes:
        """What the record will say of the file, copied."""
        return FileAttributes(
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            atime_ns=self.atime_ns,
            mtime_ns=self.mtime_ns,
            xattrs=dict(self.xattrs),
        )

    def move(self, state: EntryState, at_ns: int, note: str = "") -> None:
        """Go to ``state``, by the rules, and remember it."""
        if not allowed(self.state, state):
            raise AssertionError(f"entry {self.id} cannot go from {self.state} to {state}")
        self.state = state
        self.history = list(bounded_history((*self.history, (state, at_ns, note))))

    def journal(self) -> EntryRecord:
        """What the journal has to say of it now."""
        assert self.slot is not None
        return EntryRecord(
            entry_id=self.id,
            state=self.state,
            key=self.key,
            size_bytes=self.size_bytes,
            sha256=self.record.sha256 if self.record else None,
            attributes=self.attributes(),
            writer_uid=self.writer.uid,
            writer_pid=self.writer.pid,
            created_at_ns=self.created_at_ns,
            settle_until_ns=self.settle_until_ns,
            record=self.record,
            history=tuple(self.history),
            last_error=self.last_error,
            data_name=self.slot.data_name,
        )

    def spooled(self) -> SpooledFile:
        """The bytes, as drivers read them."""
        assert self.slot is not None
        return SpooledFile(self.data_fd, self.slot.data_path)


class SpooledFile(io.FileIO):
    """The spool file as a driver sees it: read by ``fileno()``, linked by ``name``.

    Does not own the descriptor. Drivers use positioned reads; the offset is shared.
    """

    def __init__(self, fd: int, path: str):
        super().__init__(fd, "rb", closefd=False)
        self.name = path
