"""The audit trail: one line for everything that happens to a committed file, kept for years.

``<state directory>/audit/<backend>.jsonl`` holds one JSON object a line, only ever appended to;
docs/audit.md names the fields. The file is private to the daemon's user, to whom the state directory
belongs, whoever makes it. Several processes and threads
may write to the same file: each line is one ``write(2)`` with ``O_APPEND``, under ``flock``.

Names of files can be personal ("exams/mueller-anna.pdf") and a line cannot be taken out again, so a line
names its file by a salted hash (:meth:`AuditLog.subject`). Whoever knows the path finds its lines; the
lines alone tell nothing. The salt lies beside the logs, private; where it is destroyed, nobody finds
anything any more.

Two ways in, because a commit must not wait for a second disk and an erasure must not go unrecorded:

* :meth:`AuditLog.note`: some 20 µs, never raises. The line survives the end of the process at once and
  the end of the machine after a second (``run`` syncs). A log that cannot be written is no reason to lose
  a file: up to ``_MOST_KEPT`` lines wait in memory, and the log says so loudly.
* :meth:`AuditLog.note_durably`: returns when the line is on stable storage, or raises. For what may not
  be done unrecorded: erasures, holds, retention.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import errno
import fcntl
import hmac
import json
import logging
import os
import re
import secrets
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from wormfs import durability, ownership, threads
from wormfs.clock import NS_PER_S, Clock
from wormfs.errors import BackendFault, Unavailable
from wormfs.model import Key

log = logging.getLogger(__name__)

VERSION: Final = 1
"""Of the line's format; a field may be added without a new one."""

Fact = str | int | float | bool | list[str] | None

_SYNC_EVERY_S: Final = 1.0
_MOST_KEPT: Final = 10_000
_SALT_BYTES: Final = 32
_SALT: Final = re.compile(r"[0-9a-f]{64}")
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Event(enum.Enum):
    """What a line tells of. The values are written; they never change their meaning."""

    COMMITTED = "committed"
    """The backend holds a file."""
    REFUSED = "refused"
    """Somebody tried to change or remove a committed file and was not let."""
    RETAINED = "retained"
    """A file's date was moved: later, or to 'for ever'."""
    HELD = "held"
    """A legal hold was put on a file."""
    RELEASED = "released"
    """A legal hold was taken off a file."""
    ERASING = "erasing"
    """An erasure was decided and begins now."""
    ERASED = "erased"
    """A file is gone from the backend: its tombstone."""
    NOT_ERASED = "not-erased"
    """An erasure that had begun did not come to its end; the file may still be there."""
    CLOCK = "clock"
    """The clock that decides on retention jumped, or an administrator accepted a jump."""
    VERIFYING = "verifying"
    """A verification begins, or goes on after an interruption."""
    FOUND = "found"
    """A verification found something wrong."""
    VERIFIED = "verified"
    """A verification ended: what it looked at and what it found."""
    EXPORTED = "exported"
    """Files were copied out together, as a BagIt bag for example."""
    GAP = "gap"
    """Lines are missing here: the log could not be written and memory was full."""


def audit_path(state_directory: str | Path, backend: str) -> Path:
    """Where the audit trail of a backend lies."""
    return Path(state_directory) / "audit" / f"{backend}.jsonl"


class AuditLog:
    """The audit trail of one backend, open for appending. See the module's text.

    Every method may be called from any thread; ``run`` is for the event loop.
    """

    def __init__(self, state_directory: str | Path, backend: str, clock: Clock):
        """Opens the log, made when missing. Blocks for the disk. Raises Unavailable."""
        self._backend = backend
        self._clock = clock
        self.path = audit_path(state_directory, backend)
        # Two, so that a note need not wait for a sync. Who needs both takes the second first.
        self._writing = threading.Lock()
        self._syncing = threading.Lock()
        self._kept: deque[bytes] = deque()
        self._lost = 0
        self._written = 0
        """Lines that this process has written."""
        self._synced = 0
        """How many of these are on stable storage."""
        self._torn = False
        self.problem: str | None = None
        """Why it cannot be written now, for ``wormfs status``; ``None`` while all is well."""
        try:
            durability.make_path_durably(os.fspath(self.path.parent), 0o700)
            self._owner = self.path.parent.parent.stat()
            ownership.give_directory_to_owner(self.path.parent, self._owner)
            self._salt = _salt(self.path.parent, self._owner)
            self._fd = self._open()
            durability.sync_directory_path(os.fspath(self.path.parent))
        except OSError as error:
            raise Unavailable(
                f"the audit trail {self.path} cannot be opened: {error.strerror} ({error.filename})",
                backend=backend,
            ) from error

    # Names for what must not be named

    def subject(self, key: Key) -> str:
        """What stands for the path ``key`` in the log: HMAC-SHA256 with the salt over ``backend NUL key``."""
        return hmac.digest(self._salt, self._backend.encode() + b"\0" + key, "sha256").hex()

    def content(self, sha256: str) -> str:
        """What stands for a content once it is erased: HMAC-SHA256 with the salt over its SHA-256 in hex."""
        return hmac.digest(self._salt, b"content\0" + sha256.encode(), "sha256").hex()

    # Writing

    def note(self, event: Event, key: Key | None = None, **facts: Fact) -> None:
        """Append a line; on the disk within about a second. Never raises for a log that cannot be written.

        Args:
            key: the file; the line holds its ``subject`` only. Put no names into ``facts`` either.
            facts: whatever belongs to the event; see docs/audit.md.
        """
        line = self._line(event, key, facts)
        with self._writing:
            self._write_or_keep(line)

    def note_durably(self, event: Event, key: Key | None = None, **facts: Fact) -> None:
        """Append a line and return when it, and all before it, is on stable storage. Blocks.

        Raises Unavailable when that fails: what was to be recorded must then not be done. The line may
        be in the log all the same.
        """
        line = self._line(event, key, facts)
        try:
            with self._writing:
                self._write_kept()
                self._write(line)
                mine = self._written
            self._sync(mine)
        except OSError as error:
            self._complain(error)
            raise Unavailable(
                f"the audit trail {self.path} cannot be written ({error.strerror or error}), and this must "
                "not be done unrecorded",
                backend=self._backend,
                key=key,
            ) from error
        self._recovered()

    def sync(self) -> None:
        """Bring all lines so far to stable storage. Blocks; never raises for a log that cannot be written."""
        try:
            self._follow_rotation()
            with self._writing:
                self._write_kept()
                newest = self._written
            self._sync(newest)
        except OSError as error:
            self._complain(error)
        else:
            self._recovered()

    async def run(self) -> None:
        """Sync what was noted, at most every second. Runs until cancelled; syncs once more then."""
        try:
            while True:
                await trio.sleep(_SYNC_EVERY_S)
                if self._synced < self._written or self._kept:
                    await threads.run(self.sync)
        finally:
            with trio.CancelScope(shield=True):
                await threads.run(self.sync)

    def close(self) -> None:
        """Sync and close. Nothing may be noted afterwards."""
        self.sync()
        with self._syncing, self._writing:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    # Inside; who writes holds the lock

    def _line(self, event: Event, key: Key | None, facts: Mapping[str, Fact]) -> bytes:
        line: dict[str, Fact] = {"v": VERSION, "at": _at(self._clock.now_ns()), "event": event.value}
        if key is not None:
            line["file"] = self.subject(key)
        line.update(facts)
        return _encode(line).encode() + b"\n"

    def _write_or_keep(self, line: bytes) -> None:
        if self._kept:
            # Order is kept, and a full disk is not asked once per commit: ``run`` tries again.
            self._keep(line)
            return
        try:
            self._write(line)
        except OSError as error:
            self._keep(line)
            self._complain(error)

    def _keep(self, line: bytes) -> None:
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(line)
        else:
            self._lost += 1

    def _write_kept(self) -> None:
        while self._kept:
            self._write(self._kept[0])
            self._kept.popleft()
        if self._lost:
            self._write(self._line(Event.GAP, None, {"lines": self._lost}))
            self._lost = 0

    def _write(self, line: bytes) -> None:
        """One line, whole or not at all. Raises OSError."""
        if self._fd < 0:
            raise OSError(errno.EBADF, "it has been closed")
        with _locked(self._fd):
            if self._torn:
                os.write(self._fd, b"\n")
                self._torn = False
            written = os.write(self._fd, line)
            if written < len(line):
                self._take_back(written)
            self._written += 1

    def _take_back(self, written: int) -> None:
        """The disk became full in the middle of a line."""
        try:
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
        except OSError:
            # chattr +a, for example: the next line begins on a line of its own.
            self._torn = True
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _sync(self, wanted: int) -> None:
        """Return when the first ``wanted`` lines of this process are on stable storage. Takes the lock.

        Whoever comes while another one syncs waits, and often has nothing left to do. Raises OSError.
        """
        with self._syncing:
            if self._synced >= wanted:
                return
            written = self._written
            durability.sync_data(self._fd)
            self._synced = written

    def _open(self) -> int:
        fd = os.open(self.path, _FLAGS, 0o600)
        try:
            ownership.give_to_owner(fd, self._owner)
            self._look_for_a_cut(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _look_for_a_cut(self, fd: int) -> None:
        with _locked(fd):
            size = os.fstat(fd).st_size
            # A power loss may have cut the last line.
            self._torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"

    def _follow_rotation(self) -> None:
        """Somebody moved the file away (logrotate): go on in a new one. Raises OSError."""
        try:
            if os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
                return
        except FileNotFoundError:
            log.info("%s: %s was moved away; a new one is begun", self._backend, self.path)
        self._sync(self._written)
        with self._syncing, self._writing:
            old, self._fd = self._fd, self._open()
            durability.sync_data(old)
            os.close(old)
        durability.sync_directory_path(os.fspath(self.path.parent))

    def _complain(self, error: OSError) -> None:
        reason = f"{self.path}: {error.strerror or error}"
        if self.problem != reason:
            self.problem = reason
            log.error(
                "%s: ALERT: the audit trail cannot be written (%s). Files are taken as before and up to %d "
                "lines are kept in memory; nothing is erased until it can be written again",
                self._backend, reason, _MOST_KEPT,
            )  # fmt: skip

    def _recovered(self) -> None:
        if self.problem is not None:
            self.problem = None
            log.warning("%s: the audit trail is written again", self._backend)


def read(path: Path, containing: bytes = b"") -> Iterator[Mapping[str, Any]]:
    """The lines of an audit trail in order, streamed; lines that were cut by a power loss are left out.

    Args:
        containing: only lines with these bytes, such as a ``subject``; much faster than looking at all.

    Needs no lock and may run beside a writer; nothing where there is no log. Raises BackendFault.
    """
    try:
        with open(path, "rb") as lines:
            for line in lines:
                if containing in line and line.endswith(b"\n"):
                    with contextlib.suppress(ValueError):
                        parsed = json.loads(line)
                        if isinstance(parsed, dict):
                            yield parsed
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackendFault(f"the audit trail {path} cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def _locked(fd: int) -> Iterator[None]:
    """Alone among processes; threads of one process share the lock."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _at(now_ns: int) -> str:
    """ISO 8601 in UTC with microseconds."""
    seconds, rest_ns = divmod(now_ns, NS_PER_S)
    day = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{day:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06}Z"


def _salt(directory: Path, owner: os.stat_result) -> bytes:
    """The salt of this state directory, made at the first start. Raises OSError."""
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Every backend has a process of its own, and all of them start at the same time.
        fcntl.flock(directory_fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            return _kept_salt(directory / "salt", owner)
        salt = secrets.token_bytes(_SALT_BYTES).hex().encode()
        durability.write_file_durably("salt", salt, directory_fd=directory_fd, mode=0o600)
        return _kept_salt(directory / "salt", owner)
    finally:
        os.close(directory_fd)


def _kept_salt(path: Path, owner: os.stat_result) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        ownership.give_to_owner(file.fileno(), owner)
        text = file.read(2 * _SALT_BYTES + 1).decode("ascii", "replace")
    if not _SALT.fullmatch(text):
        # Never replaced: with another one no file's lines would be found again.
        raise OSError(errno.EINVAL, "it holds no salt; restore it", os.fspath(path))
    return bytes.fromhex(text)
