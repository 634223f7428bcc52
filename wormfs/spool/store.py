"""The durable bottom of the spool: slots, a pool of prepared ones, the lock, recovery.

What makes a small file cheap is that nothing on its way needs a directory to be synced or space to be
found: record files are written full of zeros once and then used again and again, and data files are
made ahead in batches, with one sync of the directory for each batch. docs/spool-format.md tells what
lies on the disk and why a crash at any point leaves something that ``recover`` understands.

The order that a start needs: ``open``, ``recover``, ``sweep``; then ``allocate`` and the rest.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import itertools
import json
import logging
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from wormfs import durability
from wormfs.clock import Clock
from wormfs.errors import (
    InvalidArgument,
    JournalError,
    NotFound,
    OutOfSpace,
    SpoolLocked,
    WormfsError,
)
from wormfs.model import FileAttributes
from wormfs.oserrors import translated, translating
from wormfs.spool import recordfile
from wormfs.spool.journal import UNKNOWN_KEY, EntryRecord, data_name, new_entry_id, payload_bound
from wormfs.spool.quarantine import Quarantine
from wormfs.spool.recordfile import RecordFile
from wormfs.spool.recovery import (
    ENTRIES,
    FORMAT,
    FORMAT_NAME,
    FORMAT_VERSION,
    LOCK,
    QUARANTINE,
    Action,
    classify,
    entry_id_of,
    is_temporary,
    parse_format,
    record_number,
)
from wormfs.spool.slot import Shared, Slot
from wormfs.worm.lifecycle import EntryState, allowed

__all__ = ["RecoveredEntry", "Slot", "SpoolStore", "Swept"]

log = logging.getLogger(__name__)

MIN_BATCH: Final = 16
MAX_BATCH: Final = 64
"""How many slots are prepared at once: few on a quiet backend, many on a busy one."""
MAX_SPARE: Final = 256
"""Record files that are kept beyond the prepared ones; 16 KiB each."""
_BUSY_WITHIN_S: Final = 2.0
_QUIET_AFTER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RecoveredEntry:
    """One thing that was found at the start."""

    action: Action
    record: EntryRecord | None
    """``None`` for a data file that no record speaks of."""
    slot: Slot | None
    """``None`` together with ``record``."""
    data_name: str
    size_bytes: int | None
    """Of the data file; ``None`` when it is gone."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What ``sweep`` made of what was found."""

    resume: tuple[RecoveredEntry, ...]
    """Still on their way: ``Action.RESUME`` and ``Action.RESUME_WITHOUT_DATA``, oldest first."""
    quarantined: tuple[EntryRecord, ...]
    """Newly put to quarantine: one warning each is due."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    file: RecordFile
    data_name: str


class SpoolStore:
    """One spool directory. Methods may be called from many threads, each slot from one at a time.

    All of them may block on the disk but ``new_id``, ``has_prepared`` and ``wants_refill``. They raise
    OutOfSpace, Unavailable, AccessDenied or BackendFault for what the disk says, besides what is named.
    """

    def __init__(self, directory: str, clock: Clock, backend: str):
        """``directory`` is made when it does not exist; ``backend`` is the configured name."""
        self.directory = os.path.abspath(directory)
        self.quarantined = Quarantine(os.path.join(self.directory, QUARANTINE), clock, backend)
        self._clock = clock
        self._backend = backend
        self._lock_fd = -1
        self._entries_fd = -1
        self._shared: Shared | None = None
        """Set by ``recover``: before it, nobody knows which numbers are taken."""
        self._numbers = itertools.count(1)
        self._pool = threading.Lock()
        """Guards the fields below; never held while waiting for the disk."""
        self._ready: collections.deque[_Prepared] = collections.deque()
        self._spare: list[RecordFile] = []
        self._retired: list[RecordFile] = []
        self._stranded: list[tuple[Slot, EntryRecord]] = []
        self._batch = MIN_BATCH
        self._refilled_at = clock.monotonic()
        self._refilling = threading.Lock()

    # Start and stop

    def open(self) -> None:
        """Make the directory (0700), take its lock, check its format.

        Raises SpoolLocked when another process has it, JournalError for a format that is not known or
        a spool of another backend.
        """
        assert self._lock_fd < 0, "it is open"
        entries = os.path.join(self.directory, ENTRIES)
        try:
            with translating(self._backend, None, f"use the spool directory {self.directory}"):
                durability.make_path_durably(self.directory, 0o700)
                self._take_lock()
                self._check_format()
                for path in (entries, self.quarantined.directory):
                    durability.make_path_durably(path, 0o700)
                self._entries_fd = os.open(entries, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except BaseException:
            self._let_go()
            raise

    def close(self) -> None:
        """Remove what was prepared and give up the lock. Entries that are on their way stay.

        No slot may be used afterwards: another daemon may have the directory.
        """
        if self._lock_fd < 0:
            return
        try:
            if self._shared is not None:
                with translating(self._backend, None, "tidy up the spool"):
                    self._trim_all()
        finally:
            self._let_go()

    # Slots

    def new_id(self) -> str:
        """An id for a new entry."""
        return new_entry_id(self._clock.now_ns())

    @property
    def has_prepared(self) -> bool:
        """``allocate`` would not wait for the disk."""
        return bool(self._ready)

    @property
    def wants_refill(self) -> bool:
        """Half of the prepared slots are gone: somebody should call ``refill`` in a thread."""
        return len(self._ready) <= self._batch // 2

    def allocate(self) -> Slot:
        """A slot with an empty data file that is open. The caller writes its first record.

        Waits for the disk only when nothing is prepared. Raises OutOfSpace, Unavailable.
        """
        while True:
            with self._pool:
                prepared = self._ready.popleft() if self._ready else None
            if prepared is not None:
                break
            self.refill()
        slot = Slot(self._opened(), prepared.file, prepared.data_name)
        try:
            _ = slot.data_fd
        except BaseException:
            with self._pool:
                self._ready.appendleft(prepared)
            raise
        return slot

    def refill(self) -> int:
        """Prepare slots until a batch is ready; returns how many were added. Blocks for milliseconds.

        Raises OutOfSpace when not even one could be prepared.
        """
        shared = self._opened()
        with self._refilling:
            with self._pool:
                wanted = self._next_batch() - len(self._ready)
                retired, self._retired = self._retired, []
                spare, self._spare = self._spare, []
            added: list[_Prepared] = []
            try:
                if wanted > 0:
                    with translating(self._backend, None, "prepare spool files"):
                        added, spare, retired = self._prepare(wanted, spare, retired, shared)
            finally:
                with self._pool:
                    self._ready.extend(added)
                    self._spare = spare + self._spare
                    self._retired = retired + self._retired
            self._retry_stranded()
            return len(added)

    def release(self, slot: Slot) -> None:
        """The backend holds the entry: its spool files go. Writes the committed record if the caller
        has not. Nothing waits for the disk; after a power loss the entry may be found sealed again.
        """
        record = slot.record
        assert record is not None, "only an entry with a record can be committed"
        if record.state is not EntryState.COMMITTED:
            slot.write(record.moved(EntryState.COMMITTED, self._clock.now_ns()))
        self._unlink_data(slot)
        durability.step("spool.data-unlinked")
        self._retire(slot)

    def discard(self, slot: Slot) -> None:
        """Remove an entry that is not to become a record, and its bytes.

        Waits for the disk if a record of it is durable: what was given up must not come back after a
        power loss. Raises JournalError for an entry that is committed.
        """
        record = slot.record
        if record is not None and record.state is not EntryState.DISCARDED:
            now = self._clock.now_ns()
            if not allowed(record.state, EntryState.DISCARDED):
                record = record.moved(EntryState.QUARANTINED, now, "nothing to keep")
            record = record.moved(EntryState.DISCARDED, now)
            if slot.promised:
                slot.write_durably(record)
            else:
                slot.write(record)
        self._unlink_data(slot)
        self._retire(slot)

    def quarantine(self, slot: Slot, record: EntryRecord) -> None:
        """Keep bytes and record under ``quarantine/``, durably; the slot is free afterwards.

        The decision is durable in the slot first, which needs no space. When the disk is too full for
        the move itself, the entry stays where it is, in quarantine all the same, and is moved by a later
        ``refill`` or at the next start.
        """
        assert record.state is EntryState.QUARANTINED, "the caller decides"
        if slot.record is not record:
            slot.write_durably(record)
        if slot.has_data:
            # After the decision: bytes that cannot be synced must not be found sealed at the next start.
            with translating(self._backend, record.key, "make the bytes durable"):
                durability.sync_file(slot.data_fd)
        try:
            self._move_to_quarantine(slot, record)
        except OutOfSpace as error:
            log.warning("%s: entry %s waits in the spool for its move to quarantine: %s",
                        self._backend, record.entry_id, error)  # fmt: skip
            slot.close_data()
            with self._pool:
                self._stranded.append((slot, record))

    def restore(self, entry_id: str, sealed: EntryRecord | None = None) -> Slot:
        """Bring a quarantined entry back as a sealed one; durable when it returns.

        Args:
            sealed: its record as it is to be committed, made by the caller from ``quarantined.get`` and
                ``quarantined.digest``. ``None``: as it was when it was sealed before.
                Its ``data_name`` is set here.

        Raises NotFound when its bytes are not there, InvalidArgument when it was never sealed and
        nothing else is given, JournalError when ``sealed`` is not a record that fits.
        """
        with self.quarantined.decision():
            entry = self.quarantined.get(entry_id)
            if entry.size_bytes is None:
                raise NotFound(f"entry {entry_id} has no bytes in quarantine", backend=self._backend)
            if sealed is None:
                if entry.record is None or entry.record.record is None:
                    raise InvalidArgument(f"entry {entry_id} was never sealed", backend=self._backend)
                sealed = entry.record.moved(EntryState.SEALED, self._clock.now_ns(), "retried")
            if sealed.state is not EntryState.SEALED or sealed.size_bytes != entry.size_bytes:
                raise InvalidArgument(f"entry {entry_id} has other bytes", backend=self._backend)
            slot = self._restored_slot(entry_id, sealed)
            with translating(self._backend, None, "take an entry out of quarantine"):
                self.quarantined.forget(entry_id)
            return slot

    # Recovery

    def recover(self) -> list[RecoveredEntry]:
        """What the directory holds after a stop of any kind, oldest entry first. Once, after ``open``.

        Removes nothing but record files whose making was cut off. Records are made durable as they
        were read. Raises JournalError, and leaves everything as it is, when a record was written in a
        format that is not known.
        """
        assert self._shared is None, "recover comes once"
        with translating(self._backend, None, "read the spool"):
            return self._recover()

    def sweep(self, recovered: Iterable[RecoveredEntry]) -> Swept:
        """Act on what ``recover`` found: finish, quarantine, discard, clean up. Once, after it.

        No staging file is left afterwards but those of the entries to resume. Entries for which the
        disk has no room stay for the next start.
        """
        resume: list[RecoveredEntry] = []
        quarantined: list[EntryRecord] = []
        with translating(self._backend, None, "tidy up the spool"):
            for found in recovered:
                if found.action in (Action.RESUME, Action.RESUME_WITHOUT_DATA):
                    resume.append(found)
                    self._finish_restore(found)
                elif found.slot is None or found.record is None:
                    quarantined.extend(self._sweep_orphan(found))
                else:
                    quarantined.extend(self._sweep_entry(found, found.slot, found.record))
            for directory in (self.directory, self._entries_path, self.quarantined.directory):
                _remove_temporary(directory)
            durability.sync_directory(self._entries_fd)
        return Swept(tuple(resume), tuple(quarantined))

    # How it is done: start and stop

    @property
    def _entries_path(self) -> str:
        return os.path.join(self.directory, ENTRIES)

    def _opened(self) -> Shared:
        assert self._shared is not None, "open and recover come first"
        return self._shared

    def _take_lock(self) -> None:
        path = os.path.join(self.directory, LOCK)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()
            os.pwrite(fd, holder, 0)
            os.ftruncate(fd, len(holder))
        except BlockingIOError as error:
            holder = os.pread(fd, 4096, 0)
            os.close(fd)
            raise SpoolLocked(_locked_text(self.directory, holder), backend=self._backend) from error
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd = fd

    def _check_format(self) -> None:
        path = os.path.join(self.directory, FORMAT)
        try:
            with open(path, "rb") as file:
                owner = parse_format(file.read(), self.directory)
        except FileNotFoundError:
            # The format comes before the first entry, so entries without it are somebody else's.
            if os.path.lexists(self._entries_path):
                raise JournalError(
                    f"{self.directory} holds entries but no {FORMAT} file", backend=self._backend
                ) from None
            content = {"backend": self._backend, "format": FORMAT_NAME, "version": FORMAT_VERSION}
            durability.write_file_durably(path, json.dumps(content, sort_keys=True).encode() + b"\n")
            return
        if owner != self._backend:
            raise JournalError(
                f"{self.directory} is the spool of the backend {owner!r}", backend=self._backend
            )

    def _let_go(self) -> None:
        for fd in (self._entries_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._entries_fd = self._lock_fd = -1
        self._shared = None

    def _trim_all(self) -> None:
        with self._refilling, self._pool:
            ready, self._ready = list(self._ready), collections.deque()
            files = self._spare + self._retired + [prepared.file for prepared in ready]
            self._spare, self._retired = [], []
        for prepared in ready:
            self._unlink_entry(prepared.data_name)
        # A record goes only when its data file is gone for good.
        durability.sync_directory(self._entries_fd)
        for file in files:
            self._unlink_entry(recordfile.record_name(file.number))
        durability.sync_directory(self._entries_fd)

    # How it is done: the pool

    def _next_batch(self) -> int:
        """Twice as many when they went quickly, half as many after a quiet time."""
        if not self.wants_refill:
            return len(self._ready)
        now = self._clock.monotonic()
        since_s, self._refilled_at = now - self._refilled_at, now
        if since_s < _BUSY_WITHIN_S:
            self._batch = min(MAX_BATCH, self._batch * 2)
        elif since_s > _QUIET_AFTER_S:
            self._batch = max(MIN_BATCH, self._batch // 2)
        return self._batch

    def _prepare(
        self, wanted: int, spare: list[RecordFile], retired: list[RecordFile], shared: Shared
    ) -> tuple[list[_Prepared], list[RecordFile], list[RecordFile]]:
        """Prepared slots, record files that are left over, and those that may not be used yet."""
        names: list[str] = []
        files: list[RecordFile] = []
        try:
            now_ns = self._clock.now_ns()
            with _some_is_enough(names):
                for index in range(wanted):
                    name = data_name(new_entry_id(now_ns + index))
                    names.append(self._create_data(name))
            reusable = spare + [file for file in retired if not file.oversize]
            with _some_is_enough(reusable or files):
                for _ in range(len(names) - len(reusable)):
                    files.append(self._create_record(shared))  # noqa: PERF401
            # One sync for the whole batch: it makes the new names durable, and it makes sure that the
            # data files of the retired records are gone, so that these may forget their entries.
            durability.sync_directory(self._entries_fd)
        except BaseException:
            for name in (*names, *(recordfile.record_name(file.number) for file in files)):
                self._unlink_entry(name)
            raise
        usable = reusable + files
        for name in names[len(usable) :]:
            self._unlink_entry(name)
        added = [_Prepared(file, name) for file, name in zip(usable, names, strict=False)]
        left = usable[len(added) :]
        for file in [file for file in retired if file.oversize] + left[MAX_SPARE:]:
            self._unlink_entry(recordfile.record_name(file.number))
        return added, left[:MAX_SPARE], []

    def _create_data(self, name: str) -> str:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(name, flags, 0o600, dir_fd=self._entries_fd))
        return name

    def _create_record(self, shared: Shared) -> RecordFile:
        number = next(self._numbers)
        recordfile.create(shared.directory_fd, number)
        return RecordFile(shared.directory_fd, number)

    def _retire(self, slot: Slot) -> None:
        with self._pool:
            self._retired.append(slot.file)

    def _unlink_data(self, slot: Slot) -> None:
        slot.close_data()
        if slot.has_data:
            with translating(self._backend, None, "remove a spool file"):
                self._unlink_entry(slot.data_name)
            slot.has_data = False

    def _unlink_entry(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            durability.unlink(name, self._entries_fd)

    # How it is done: quarantine

    def _move_to_quarantine(self, slot: Slot, record: EntryRecord) -> None:
        with translating(self._backend, record.key, "move an entry to quarantine"):
            self.quarantined.receive(record, slot.data_fd if slot.has_data else None)
            self._unlink_data(slot)
            # At once: an administrator may throw the entry away, and then it must not come back.
            durability.sync_directory(self._entries_fd)
        self._retire(slot)

    def _retry_stranded(self) -> None:
        with self._pool:
            stranded, self._stranded = self._stranded, []
        for slot, record in stranded:
            try:
                self._move_to_quarantine(slot, record)
            except WormfsError as error:
                log.warning("%s: entry %s still waits for its move to quarantine: %s",
                            self._backend, record.entry_id, error)  # fmt: skip
                slot.close_data()
                with self._pool:
                    self._stranded.append((slot, record))

    def _restored_slot(self, entry_id: str, sealed: EntryRecord) -> Slot:
        slot = self.allocate()
        try:
            # The prepared data file makes room for the one that comes back.
            self._unlink_data(slot)
            slot.data_name, slot.has_data = data_name(self.new_id()), True
            record = replace(sealed, data_name=slot.data_name)
            slot.ensure_capacity(payload_bound(record))
            with (
                translating(self._backend, record.key, "take an entry out of quarantine"),
                self.quarantined.open_data(entry_id) as data,
            ):
                durability.publish_link(data.fileno(), slot.data_name, self._entries_fd)
                durability.sync_directory(self._entries_fd)
            slot.write_durably(record)
        except BaseException:
            # Not sealed: it is still in quarantine, whole.
            self._unlink_data(slot)
            self._retire(slot)
            raise
        return slot

    def _finish_restore(self, found: RecoveredEntry) -> None:
        """A crash may have come between the sealed record and the end of the quarantined names.

        They go only when they are names of the very file that is here.
        """
        assert found.record is not None
        entry_id = found.record.entry_id
        if found.size_bytes is None or not self.quarantined.holds(entry_id):
            return
        here = os.stat(found.data_name, dir_fd=self._entries_fd, follow_symlinks=False)
        try:
            with self.quarantined.open_data(entry_id) as data:
                same = os.path.samestat(here, os.fstat(data.fileno()))
        except NotFound:
            # The data's name goes first, so this is the second half of the same work.
            same = True
        if same:
            self.quarantined.forget(entry_id)

    # How it is done: recovery

    def _recover(self) -> list[RecoveredEntry]:
        names = os.listdir(self._entries_fd)
        numbers = sorted(number for number in map(record_number, names) if number is not None)
        images = {number: image for number in numbers if (image := self._parse(number)) is not None}
        sequences = [image.stored.sequence for image in images.values() if image.stored]
        shared = Shared(self._backend, self._entries_path, self._entries_fd, max(sequences, default=0) + 1)
        self._numbers = itertools.count(max(numbers, default=0) + 1)
        newest = _newest(images)
        data = {name for name in names if entry_id_of(name)}
        recovered: list[RecoveredEntry] = []
        for number, image in images.items():
            stored = image.stored
            # What ended stays in its record file until that is used again: it must not shadow others.
            if stored is None or newest[stored.entry.entry_id] != number:
                self._retired.append(self._idle_file(number, image))
                continue
            recovered.append(self._recovered(number, image.half_bytes, stored, shared))
            data.discard(stored.entry.data_name)
        recovered.extend(self._orphan(name) for name in data)
        self._shared = shared
        return sorted(recovered, key=lambda found: found.record.entry_id if found.record else found.data_name)

    def _parse(self, number: int) -> recordfile.Image | None:
        """What a record file holds; ``None`` for one that is not to be used."""
        content = recordfile.read_image(self._entries_fd, number)
        image = recordfile.parse(number, content)
        if image.half_bytes == 0:
            # Its making was cut off, and nothing is in it.
            self._unlink_entry(recordfile.record_name(number))
            return None
        if image.stored is not None:
            # Whether it was durable nobody knows after a kill; from now on it is.
            self._sync_record(number)
        elif image.torn and not self._keep_unreadable(number, content):
            return None
        return image

    def _keep_unreadable(self, number: int, content: bytes) -> bool:
        """A power loss may tear the first record of an entry: its bytes may still name the file.

        Returns whether they are kept elsewhere, so that the record file may be used again.
        """
        name = f"{recordfile.record_name(number)}.{self._clock.now_ns():x}.unreadable"
        path = os.path.join(self.quarantined.directory, name)
        try:
            durability.write_file_durably(path, content.rstrip(b"\0"))
        except OSError as error:
            log.warning("%s: journal record %d cannot be read and stays as it is: %s",
                        self._backend, number, error)  # fmt: skip
            return False
        log.warning("%s: a journal record cannot be read; its bytes are kept as %s", self._backend, path)
        return True

    def _idle_file(self, number: int, image: recordfile.Image) -> RecordFile:
        half = image.stored.half if image.stored else None
        return RecordFile(self._entries_fd, number, image.half_bytes, half)

    def _recovered(
        self, number: int, half_bytes: int, stored: recordfile.Stored, shared: Shared
    ) -> RecoveredEntry:
        entry = stored.entry
        size_bytes, links = self._look(entry.data_name)
        action = classify(entry, size_bytes, links)
        file = RecordFile(self._entries_fd, number, half_bytes, stored.half)
        slot = Slot(shared, file, entry.data_name, entry, size_bytes is not None)
        return RecoveredEntry(action, entry, slot, entry.data_name, size_bytes)

    def _sync_record(self, number: int) -> None:
        fd = os.open(recordfile.record_name(number), os.O_RDWR | os.O_CLOEXEC, dir_fd=self._entries_fd)
        try:
            durability.sync_data(fd)
        finally:
            os.close(fd)

    def _orphan(self, name: str) -> RecoveredEntry:
        size_bytes, links = self._look(name)
        return RecoveredEntry(classify(None, size_bytes, links), None, None, name, size_bytes)

    def _look(self, name: str) -> tuple[int | None, int]:
        try:
            facts = os.stat(name, dir_fd=self._entries_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None, 0
        return facts.st_size, facts.st_nlink

    def _sweep_entry(self, found: RecoveredEntry, slot: Slot, record: EntryRecord) -> Iterator[EntryRecord]:
        if found.action is Action.FINISH_QUARANTINE:
            self.quarantine(slot, record)
        elif found.action is Action.QUARANTINE:
            kept = _as_found(record, found.size_bytes, self._clock.now_ns())
            self.quarantine(slot, kept)
            yield kept
        elif found.action is Action.DISCARD:
            self.discard(slot)
        else:
            self._unlink_data(slot)
            self._retire(slot)

    def _sweep_orphan(self, found: RecoveredEntry) -> Iterator[EntryRecord]:
        if found.action is not Action.QUARANTINE:
            self._unlink_entry(found.data_name)
            return
        fd = os.open(found.data_name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._entries_fd)
        try:
            durability.sync_file(fd)
            record = _unknown(found.data_name, os.fstat(fd), self._clock.now_ns())
            self.quarantined.receive(record, fd)
        except OSError as error:
            failure = translated(error, self._backend, None, f"quarantine {found.data_name}")
            if not isinstance(failure, OutOfSpace):
                raise
            log.warning("%s; it stays in the spool until the next start", failure)
            return
        finally:
            os.close(fd)
        self._unlink_entry(found.data_name)
        yield record


def _newest(images: dict[int, recordfile.Image]) -> dict[str, int]:
    """For each entry the number of the file with its newest record.

    An entry that came back from quarantine may have an older record in the slot that it left.
    """
    newest: dict[str, int] = {}
    for number, image in sorted(
        images.items(), key=lambda item: item[1].stored.sequence if item[1].stored else 0
    ):
        if image.stored is not None:
            newest[image.stored.entry.entry_id] = number
    return newest


def _as_found(record: EntryRecord, size_bytes: int | None, now_ns: int) -> EntryRecord:
    """The record of an entry that a crash sends to quarantine, with the size that is really there."""
    if record.state is EntryState.WRITING:
        note = "the daemon or the machine stopped while it was being written"
        record = replace(record, size_bytes=size_bytes or 0, sha256=None, record=None)
    else:
        there = "are gone" if size_bytes is None else f"are {size_bytes}"
        note = f"the bytes {there}, the journal says {record.size_bytes}"
    return replace(record.moved(EntryState.QUARANTINED, now_ns, note), last_error=note)


def _unknown(name: str, facts: os.stat_result, now_ns: int) -> EntryRecord:
    """What can be said of bytes whose record was lost."""
    note = "bytes without a journal record"
    attributes = FileAttributes(
        mode=facts.st_mode & 0o7777,
        uid=facts.st_uid,
        gid=facts.st_gid,
        atime_ns=facts.st_atime_ns,
        mtime_ns=facts.st_mtime_ns,
    )
    return EntryRecord(
        entry_id=name.removesuffix(".data"),
        state=EntryState.QUARANTINED,
        key=UNKNOWN_KEY,
        size_bytes=facts.st_size,
        sha256=None,
        attributes=attributes,
        writer_uid=facts.st_uid,
        writer_pid=0,
        created_at_ns=facts.st_ctime_ns,
        settle_until_ns=None,
        record=None,
        history=((EntryState.QUARANTINED, now_ns, note),),
        last_error=note,
        data_name=name,
    )


@contextlib.contextmanager
def _some_is_enough(made: list[str] | list[RecordFile]) -> Iterator[None]:
    """A full disk ends the making of more; it is an error only when there is nothing yet."""
    try:
        yield
    except OSError as error:
        if not made or not isinstance(translated(error, "", None, ""), OutOfSpace):
            raise


def _remove_temporary(directory: str) -> None:
    for name in os.listdir(directory):
        if is_temporary(name):
            durability.unlink(os.path.join(directory, name))


def _locked_text(directory: str, holder: bytes) -> str:
    try:
        value = json.loads(holder)
        who = f"process {value['pid']} on {value['host']}"
    except (ValueError, TypeError, KeyError):
        who = "another process"
    return f"{who} uses the spool {directory}; stop it, or give this daemon a state directory of its own"
