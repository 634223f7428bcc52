"""One place in the spool: a record file that is used again and again, and a data file of its own.

:class:`wormfs.spool.store.SpoolStore` hands slots out and takes them back.
"""

from __future__ import annotations

import itertools
import os
from typing import Final

from wormfs import durability
from wormfs.errors import NotFound
from wormfs.oserrors import translated
from wormfs.spool.journal import EntryRecord, encode
from wormfs.spool.recordfile import RecordFile
from wormfs.worm.lifecycle import EntryState

_DATA_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITTEN_STEPS: Final = {
    EntryState.SEALED: "spool.sealed-written",
    EntryState.COMMITTED: "spool.committed-written",
}


class Shared:
    """What all slots of one store have in common."""

    __slots__ = ("backend", "directory", "directory_fd", "sequence")

    def __init__(self, backend: str, directory: str, directory_fd: int, first_sequence: int):
        self.backend = backend
        self.directory = directory
        self.directory_fd = directory_fd
        # One count for all record files, so that two records of one entry can be told apart by age.
        # next() on it is one step of the interpreter, so threads need no lock here.
        self.sequence = itertools.count(first_sequence)


class Slot:
    """The files of one entry. One thread at a time; methods block unless they say otherwise.

    Holds one descriptor at most, that of the data, opened at the first use of ``data_fd``.
    """

    __slots__ = ("_data_fd", "_promised", "_shared", "data_name", "file", "has_data", "record")

    def __init__(
        self,
        shared: Shared,
        file: RecordFile,
        data_name: str,
        record: EntryRecord | None = None,
        has_data: bool = True,
    ):
        """``record``: what the journal says already, durably; ``None`` for a fresh slot."""
        self._shared = shared
        self._data_fd = -1
        self._promised = record is not None
        self.file = file
        self.data_name = data_name
        """The name of the data file, which records of this slot carry."""
        self.record = record
        """The newest record that was written."""
        self.has_data = has_data
        """False only when recovery found a record whose data file is gone."""

    @property
    def promised(self) -> bool:
        """A record of this entry is durable: after a power loss the entry would be found again."""
        return self._promised

    @property
    def data_path(self) -> str:
        """Where the data file lies."""
        return os.path.join(self._shared.directory, self.data_name)

    @property
    def data_fd(self) -> int:
        """A descriptor of the data file for reading and writing; the slot closes it.

        Raises NotFound when the data file is gone, Unavailable when no descriptor is left.
        """
        if self._data_fd < 0:
            if not self.has_data:
                raise NotFound("the spool has no bytes of this entry any more", backend=self._shared.backend)
            try:
                self._data_fd = os.open(self.data_name, _DATA_FLAGS, dir_fd=self._shared.directory_fd)
            except OSError as error:
                raise translated(error, self._shared.backend, None, "open the spool file") from error
        return self._data_fd

    def close_data(self) -> None:
        """Give the descriptor back, to be opened again when needed: for entries that wait for long."""
        fd, self._data_fd = self._data_fd, -1
        if fd >= 0:
            os.close(fd)

    def ensure_capacity(self, payload_bytes: int) -> None:
        """Make room for records of this length (see ``journal.payload_bound``), durably.

        To be called when a name or an attribute is taken on, so that later transitions never need
        space. Costs nothing while the usual 8 KiB suffice. Raises OutOfSpace; then all is as before.
        """
        if payload_bytes > self.file.capacity_bytes:
            payload = None if self.record is None else encode(self.record)
            self._grow(payload_bytes, payload)

    def write(self, record: EntryRecord) -> None:
        """Put the record into the journal: it survives the death of this process, not a power loss.

        Does not wait for the disk. Takes no space if ``ensure_capacity`` was told of its size.
        """
        payload = self._payload(record)
        try:
            self.file.write(next(self._shared.sequence), payload)
        except OSError as error:
            raise self._failure(error, record) from error
        first = self.record is None
        self.record = record
        step = "spool.allocated" if first else _WRITTEN_STEPS.get(record.state)
        if step is not None:
            durability.step(step)

    def write_durably(self, record: EntryRecord) -> None:
        """Put the record into the journal; on stable storage when it returns."""
        payload = self._payload(record)
        step = _WRITTEN_STEPS.get(record.state)
        try:
            self.file.write_durably(next(self._shared.sequence), payload, step)
        except OSError as error:
            raise self._failure(error, record) from error
        self.record = record
        self._promised = True
        if record.state is EntryState.SEALED:
            durability.step("spool.sealed-synced")

    def _payload(self, record: EntryRecord) -> bytes:
        assert record.data_name == self.data_name, "a record must name the data file of its slot"
        payload = encode(record)
        if len(payload) > self.file.capacity_bytes:
            # Nobody said before that it would become so long; better late than not at all.
            self._grow(len(payload), None if self.record is None else encode(self.record))
        return payload

    def _grow(self, room_bytes: int, payload: bytes | None) -> None:
        try:
            self.file.grow(room_bytes, next(self._shared.sequence), payload)
        except OSError as error:
            raise translated(error, self._shared.backend, None, "make a longer journal record") from error
        self._promised = payload is not None

    def _failure(self, error: OSError, record: EntryRecord) -> Exception:
        return translated(error, self._shared.backend, record.key, "write the journal")
