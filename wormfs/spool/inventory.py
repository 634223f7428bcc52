"""What lies in a spool directory, for people: read from its files, while a daemon runs or not.

Changes nothing and needs no lock. A snapshot: entries come and go while it is taken.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import BinaryIO, Final

from wormfs.clock import Clock
from wormfs.errors import NotFound, Refused
from wormfs.oserrors import translating
from wormfs.spool.journal import UNKNOWN_KEY, EntryRecord, data_name
from wormfs.spool.quarantine import Quarantine, QuarantinedEntry
from wormfs.spool.recovery import ENTRIES, QUARANTINE, read_entries
from wormfs.worm.lifecycle import EntryState

_FIXED: Final = (EntryState.SEALED, EntryState.QUARANTINED)
"""States in which the bytes do not change any more."""


class Where(enum.Enum):
    """The part of the spool that holds an entry."""

    ENTRIES = "on its way"
    QUARANTINE = "in quarantine"


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One entry as its files show it."""

    entry_id: str
    where: Where
    state: EntryState
    size_bytes: int | None
    """Of the data file; ``None`` when it is gone."""
    since_ns: int
    """When it came into its state."""
    reason: str | None
    """The last error, or why it is in quarantine."""
    record: EntryRecord | None
    """``None`` when it is lost or cannot be understood; ``reason`` says which."""
    data_path: str

    @property
    def key(self) -> bytes | None:
        """Its name; ``None`` when nobody knows it any more."""
        return None if self.record is None or self.record.key == UNKNOWN_KEY else self.record.key

    @property
    def sha256(self) -> str | None:
        """Of its bytes, if they were ever sealed."""
        return self.record.sha256 if self.record is not None else None

    def open_data(self) -> BinaryIO:
        """The bytes, for reading. Raises NotFound when they are gone, Refused while they may change."""
        if self.state not in _FIXED:
            raise Refused(f"entry {self.entry_id} is {self.state.value}: its bytes may still change")
        try:
            return open(self.data_path, "rb", buffering=0, opener=_without_following)
        except FileNotFoundError as error:
            where = "it may have been committed meanwhile" if self.where is Where.ENTRIES else "they are gone"
            raise NotFound(f"entry {self.entry_id} has no bytes in the spool: {where}") from error


def read(directory: str, clock: Clock) -> list[StoredEntry]:
    """Every entry of a spool, oldest first; none where there is no spool.

    Blocks: reads one small file for each entry. Raises JournalError, AccessDenied and what the
    disk says.
    """
    found: dict[str, StoredEntry] = {}
    with translating("", None, f"read the spool {directory}"):
        # In this order, so that what moves to quarantine meanwhile is seen twice rather than not at all.
        for record in read_entries(directory):
            found[record.entry_id] = _on_its_way(directory, record, clock)
        quarantine = Quarantine(os.path.join(directory, QUARANTINE), clock)
        for entry in quarantine.entries():
            known = found.get(entry.entry_id)
            # Sealed again and still there: a retry was cut off after its decision, and that counts.
            if known is None or known.state is not EntryState.SEALED:
                found[entry.entry_id] = _quarantined(quarantine.directory, entry)
    return [found[entry_id] for entry_id in sorted(found)]


def _on_its_way(directory: str, record: EntryRecord, clock: Clock) -> StoredEntry:
    path = os.path.join(directory, ENTRIES, record.data_name)
    try:
        size_bytes: int | None = os.lstat(path).st_size
    except FileNotFoundError:
        size_bytes = None
    since_ns = record.history[-1][1] if record.history else clock.now_ns()
    return StoredEntry(
        entry_id=record.entry_id,
        where=Where.ENTRIES,
        state=record.state,
        size_bytes=size_bytes,
        since_ns=since_ns,
        reason=record.last_error,
        record=record,
        data_path=path,
    )


def _quarantined(directory: str, entry: QuarantinedEntry) -> StoredEntry:
    record = entry.record
    reason = entry.problem
    if record is not None:
        reason = record.last_error or (record.history[-1][2] if record.history else None)
    return StoredEntry(
        entry_id=entry.entry_id,
        where=Where.QUARANTINE,
        state=EntryState.QUARANTINED,
        size_bytes=entry.size_bytes,
        since_ns=entry.since_ns,
        reason=reason,
        record=record,
        data_path=os.path.join(directory, data_name(entry.entry_id)),
    )


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
