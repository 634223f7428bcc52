"""Bytes that were kept and never published: an administrator decides about them.

Each entry is two files, ``<entry id>.data`` with the bytes and ``<entry id>.json`` with what is known
of them, readable by people. Everything here but ``receive`` and ``forget`` may be called by the command
line while the daemon runs; a lock on ``discarded.log`` keeps two decisions apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from wormfs import durability
from wormfs.clock import NS_PER_S, Clock
from wormfs.errors import InvalidArgument, JournalError, NotFound
from wormfs.oserrors import translated
from wormfs.spool.export import digest_of, export
from wormfs.spool.journal import (
    EntryRecord,
    data_name,
    decode_readable,
    encode_readable,
    is_entry_id,
    readable_text,
)
from wormfs.spool.recovery import entry_id_of

DISCARDED_LOG: Final = "discarded.log"
JSON_FORMAT: Final = "wormfs quarantined entry"
JSON_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class QuarantinedEntry:
    """One entry as it lies there."""

    entry_id: str
    record: EntryRecord | None
    """What is known of it; ``None`` when its JSON is missing or cannot be understood."""
    size_bytes: int | None
    """Of the data; ``None`` when there are no bytes any more."""
    since_ns: int
    """When it was put here."""
    problem: str | None = None
    """Why ``record`` is ``None``."""


@dataclass(frozen=True, slots=True)
class Totals:
    """How much lies there."""

    entries: int
    size_bytes: int


class Quarantine:
    """The ``quarantine/`` directory of one spool. Every method may block on the disk.

    Methods raise NotFound for an entry that is not there, InvalidArgument for an id that cannot be one.
    """

    def __init__(self, directory: str, clock: Clock, backend: str = ""):
        """``directory``: the quarantine directory itself; it need not exist for reading."""
        self.directory = directory
        self._clock = clock
        self._backend = backend

    def entries(self) -> Iterator[QuarantinedEntry]:
        """All of them, oldest entry first."""
        for entry_id in self._ids():
            with contextlib.suppress(NotFound):  # discarded meanwhile
                yield self.get(entry_id)

    def get(self, entry_id: str) -> QuarantinedEntry:
        """One entry. Raises NotFound."""
        data, text = self._data_path(entry_id), self._json_path(entry_id)
        size_bytes: int | None = None
        since_ns: int | None = None
        with contextlib.suppress(FileNotFoundError):
            facts = os.lstat(data)
            size_bytes, since_ns = facts.st_size, facts.st_ctime_ns
        record: EntryRecord | None = None
        problem: str | None = None
        try:
            with open(text, "rb") as file:
                record = _from_text(file.read(), text)
        except FileNotFoundError:
            problem = "its description is missing"
        except JournalError as error:
            problem = str(error)
            if since_ns is None:
                since_ns = self._clock.now_ns()
        if record is not None and record.history:
            since_ns = record.history[-1][1]
        if since_ns is None:
            raise NotFound(f"no entry {entry_id} is in quarantine", backend=self._backend)
        return QuarantinedEntry(entry_id, record, size_bytes, since_ns, problem)

    def totals(self) -> Totals:
        """How many entries there are, and their bytes: reads the directory, but no entry."""
        ids: set[str] = set()
        size_bytes = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self.directory) as files:
            for file in files:
                entry_id = _id_in(file.name)
                if entry_id is None:
                    continue
                ids.add(entry_id)
                if file.name.endswith(".data"):
                    with contextlib.suppress(FileNotFoundError):  # discarded meanwhile
                        size_bytes += file.stat(follow_symlinks=False).st_size
        return Totals(len(ids), size_bytes)

    def open_data(self, entry_id: str) -> BinaryIO:
        """The bytes, for reading. Raises NotFound when there are none."""
        try:
            return open(self._data_path(entry_id), "rb", buffering=0, opener=_without_following)
        except FileNotFoundError as error:
            raise NotFound(f"entry {entry_id} has no bytes in quarantine", backend=self._backend) from error

    def digest(self, entry_id: str, progress: Callable[[int], None] | None = None) -> str:
        """The SHA-256 of the bytes, in hex. Blocks as long as reading them takes."""
        with self.open_data(entry_id) as source:
            return digest_of(source, progress)

    def export(self, entry_id: str, target: str, progress: Callable[[int], None] | None = None) -> str:
        """Copy the bytes to the new file ``target``, durably; returns their SHA-256.

        Args:
            progress: is told the number of bytes after each part.

        Raises AlreadyExists when ``target`` exists (it is never overwritten), DigestMismatch when the
        bytes are not those that were recorded (the copy is removed), OutOfSpace.
        """
        entry = self.get(entry_id)
        with self.open_data(entry_id) as source:
            return export(source, target, entry.record.sha256 if entry.record else None, progress)

    def discard(self, entry_id: str, who: str, why: str) -> None:
        """Remove an entry for good; ``discarded.log`` says who did it and why, durably, before.

        Raises NotFound, OutOfSpace (then nothing was removed).
        """
        with self.decision() as (log_fd, directory_fd):
            entry = self.get(entry_id)
            self._log(log_fd, directory_fd, entry, who, why)
            self._remove(entry_id, directory_fd)

    def expire(self, max_age_s: float | None, max_bytes: int | None, who: str = "settings") -> list[str]:
        """Discard what is older than ``max_age_s``, then the oldest until at most ``max_bytes`` are left.

        Only for an administrator's explicit settings; ``None`` sets no bound. Returns the ids.
        """
        gone: list[str] = []
        kept = sorted(self.entries(), key=lambda entry: (entry.since_ns, entry.entry_id))
        total = sum(entry.size_bytes or 0 for entry in kept)
        now_ns = self._clock.now_ns()
        for entry in kept:
            if max_age_s is not None and now_ns - entry.since_ns > max_age_s * NS_PER_S:
                why = f"older than {max_age_s:g} s"
            elif max_bytes is not None and total > max_bytes:
                why = f"quarantine holds more than {max_bytes} bytes"
            else:
                continue
            with contextlib.suppress(NotFound):  # somebody discarded it at the same moment
                self.discard(entry.entry_id, who, why)
                gone.append(entry.entry_id)
            total -= entry.size_bytes or 0
        return gone

    @contextlib.contextmanager
    def decision(self) -> Iterator[tuple[int, int]]:
        """Hold the lock under which entries leave; gives the log's and the directory's descriptors."""
        directory_fd = self._open_directory()
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                log_fd = os.open(DISCARDED_LOG, flags, 0o600, dir_fd=directory_fd)
            except OSError as error:
                raise translated(error, self._backend, None, f"open {DISCARDED_LOG}") from error
            try:
                fcntl.flock(log_fd, fcntl.LOCK_EX)
                yield log_fd, directory_fd
            finally:
                os.close(log_fd)
        finally:
            os.close(directory_fd)

    def receive(self, record: EntryRecord, data_fd: int | None) -> None:
        """Give a spool entry its place here; durable when it returns. For the store.

        The data gets a second name here, nothing is copied; the caller takes the first away afterwards.
        May be repeated after a crash. Raises OSError.
        """
        directory_fd = self._open_directory()
        try:
            if data_fd is not None:
                self._link(data_fd, record.entry_id, directory_fd)
            durability.step("spool.quarantine-linked")
            content = {"format": JSON_FORMAT, "version": JSON_VERSION, "entry": encode_readable(record)}
            # Its sync of the directory is also what makes the data's new name durable.
            durability.write_file_durably(
                record.entry_id + ".json", readable_text(content).encode("utf-8"), directory_fd=directory_fd
            )
            durability.step("spool.quarantined-synced")
        finally:
            os.close(directory_fd)

    def forget(self, entry_id: str) -> None:
        """Remove the names of an entry that is in the spool again; durable. For the store."""
        directory_fd = self._open_directory()
        try:
            self._remove(entry_id, directory_fd)
        finally:
            os.close(directory_fd)

    def holds(self, entry_id: str) -> bool:
        """Whether the entry has a name here."""
        return os.path.lexists(self._data_path(entry_id)) or os.path.lexists(self._json_path(entry_id))

    def _link(self, data_fd: int, entry_id: str, directory_fd: int) -> None:
        try:
            durability.publish_link(data_fd, data_name(entry_id), directory_fd)
        except FileExistsError:
            there = os.stat(data_name(entry_id), dir_fd=directory_fd, follow_symlinks=False)
            # The same file: an earlier attempt came this far.
            if not os.path.samestat(there, os.fstat(data_fd)):
                raise

    def _log(self, log_fd: int, directory_fd: int, entry: QuarantinedEntry, who: str, why: str) -> None:
        line = {
            "at_ns": self._clock.now_ns(),
            "entry": encode_readable(entry.record) if entry.record else None,
            "entry_id": entry.entry_id,
            "size_bytes": entry.size_bytes,
            "who": who,
            "why": why,
        }
        text = json.dumps(line, sort_keys=True).encode("ascii") + b"\n"
        length = os.fstat(log_fd).st_size
        if length and os.pread(log_fd, 1, length - 1) != b"\n":
            # A crash cut the last line off; it must not swallow this one.
            text = b"\n" + text
        try:
            durability.write_fully(log_fd, text)
            durability.sync_file(log_fd)
            durability.sync_directory(directory_fd)
        except OSError as error:
            raise translated(error, self._backend, None, f"write {DISCARDED_LOG}") from error

    @staticmethod
    def _remove(entry_id: str, directory_fd: int) -> None:
        # The description goes last: bytes that nobody can name would be the worse rest of a crash.
        for name in (data_name(entry_id), entry_id + ".json"):
            with contextlib.suppress(FileNotFoundError):
                durability.unlink(name, directory_fd)
        durability.sync_directory(directory_fd)

    def _ids(self) -> list[str]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted({entry_id for name in names if (entry_id := _id_in(name)) is not None})

    def _open_directory(self) -> int:
        try:
            return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"there is no quarantine at {self.directory}", backend=self._backend) from error

    def _data_path(self, entry_id: str) -> str:
        return os.path.join(self.directory, data_name(self._checked(entry_id)))

    def _json_path(self, entry_id: str) -> str:
        return os.path.join(self.directory, self._checked(entry_id) + ".json")

    def _checked(self, entry_id: str) -> str:
        # It comes from a command line and goes into a path.
        if not is_entry_id(entry_id):
            raise InvalidArgument(f"{entry_id!r} is not the id of an entry", backend=self._backend)
        return entry_id


def _id_in(name: str) -> str | None:
    """The entry that a file here belongs to; ``None`` for other files."""
    if name.endswith(".json"):
        name = name.removesuffix(".json") + ".data"
    return entry_id_of(name)


def _from_text(content: bytes, path: str) -> EntryRecord:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise JournalError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("format") != JSON_FORMAT:
        raise JournalError(f"{path} is not the description of a quarantined entry")
    if value.get("version") != JSON_VERSION:
        raise JournalError(f"{path} has version {value.get('version')!r}; this wormfs knows {JSON_VERSION}")
    return decode_readable(value.get("entry"))


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
