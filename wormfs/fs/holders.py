"""Which close is the last one, and did the writer end well?

FUSE says FLUSH at every close of a duplicated descriptor and RELEASE only when close(2) has already
returned. An error can be reported, and durability be promised, only at the last FLUSH. The kernel
does not say which that is, so wormfs looks at the writer in /proc:

- It still has a descriptor or a mapping of the file: not the last.
- A living descendant of it has one: not the last. A descendant whose parent in between has died is no
  longer found that way; but that parent's own close has been a FLUSH before, so after any FLUSH that
  was not the last, and for writers with unix sockets (which can carry descriptors), all processes and all
  descriptors under way in sockets are looked at.
- Whatever cannot be seen (no pid because of another pid namespace, a writer that is gone, no
  permission) is unclear: the caller then waits for RELEASE, which is always right.

At that moment the writer's task flags tell a process being torn down from one that closed its file, and
its exit code or signal how it ended. The file is recognised by its inode number, which wormfs makes
unique for every file of every backend, never by its path: mounts can be bound and moved.

Everything here blocks (0.1 ms usually) and must run in a thread: reading another
process's maps may wait for a page fault that this very file system has to answer.
Sources: proc(5); linux/include/linux/sched.h (PF_EXITING).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_PF_EXITING: Final = 0x4
_MAX_DESCENDANTS: Final = 4096
_READ_BYTES: Final = 4096
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_START_TOLERANCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Heir:
    """A process that got the file from its writer."""

    pid: int
    started_boot_s: float


@dataclass(frozen=True, slots=True)
class StillOpen:
    """Somebody else has the file open: there will be another close."""

    writer_failed: str | None = None
    """The writer itself is ending badly meanwhile, or one of its children is being killed."""
    heir: Heir | None = None
    """Who has it, where the writer itself has not any more: the writer from now on."""
    alone: bool = False
    """Nobody but the writer can have caused this FLUSH: it closed a duplicate of its own (dup2 and close,
    as shells and dd do). A child that closes it, or dies, is among its children at that moment."""


@dataclass(frozen=True, slots=True)
class LastClose:
    """Nobody has it open any more, and the writer is alive or ended with status 0."""


@dataclass(frozen=True, slots=True)
class WriterFailed:
    """The writer is being torn down by a signal or with a non-zero status."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """It cannot be told; RELEASE will."""


Verdict = StillOpen | LastClose | WriterFailed | Unclear


@dataclass(frozen=True, slots=True)
class OpenFile:
    """What to look for: one file, as its writer's process knows it."""

    pid: int
    """Thread that opened it, 0 where the kernel could not say."""
    opened_boot_s: float
    """When, in seconds since boot: a process that started later has only inherited the pid."""
    inode: int
    name: bytes
    """Last component now, a quick filter before descriptors are looked at closely."""
    shared_before: bool
    """A FLUSH has been seen that was not the last, and was not the writer's own."""
    mappable: bool
    """Opened for reading and writing: only then can a mapping change it (mmap(2), EACCES)."""


def inspect(file: OpenFile) -> Verdict:
    """Tell what the FLUSH that is being handled means."""
    if file.pid <= 0:
        return Unclear()
    try:
        writer = _read_task(file.pid)
    except (OSError, _Executing):
        return Unclear()
    if writer is None or writer.started_boot_s > file.opened_boot_s + _START_TOLERANCE_S:
        return Unclear()
    verdict = writer.verdict()
    held: int | _Nobody | _UnderWay = _UnderWay()
    try:
        # No permission, no descriptor left: whatever hides the answer must not cost the file.
        with contextlib.suppress(OSError, _Hidden, _Executing):
            held = _held_by_family(file, writer)
        if isinstance(held, int):
            return _still_open(file, verdict, held)
    except (OSError, _Hidden, _Executing):
        held = _UnderWay()
    if isinstance(held, _Nobody):
        return verdict
    # When RELEASE comes, nothing of the writer may be left to be seen: how it ends is noted now.
    return StillOpen(verdict.reason) if isinstance(verdict, WriterFailed) else Unclear()


def _still_open(file: OpenFile, verdict: LastClose | WriterFailed, holder: int) -> StillOpen:
    """Somebody has it. Is anybody who had it being killed at this moment?"""
    failed = verdict.reason if isinstance(verdict, WriterFailed) else _killed_child(file.pid)
    if holder == file.pid:
        return StillOpen(failed, alone=not file.shared_before and len(list(_family(file.pid))) == 1)
    task = _read_task(holder)
    return StillOpen(failed, None if task is None else Heir(holder, task.started_boot_s))


def _killed_child(pid: int) -> str | None:
    """A descendant that a signal is tearing down: this FLUSH is most likely its own.

    Only signals count: that some command of a shell script ends with another status than 0 is nothing
    special. A process that is dead already (a zombie) has flushed before.
    """
    for child in _family(pid):
        task = _read_task(child) if child != pid else None
        if task is not None and task.exiting and not task.dead and task.exit_code & 0x7F:
            return f"{task.command} was killed by signal {task.exit_code & 0x7F}"
    return None


def ended_badly(pid: int, opened_boot_s: float) -> str | None:
    """Why the writer is dying, if it is and can still be seen; for RELEASE. Blocks; in a thread only."""
    try:
        task = _read_task(pid) if pid > 0 else None
    except (OSError, _Executing):
        return None
    if task is None or task.started_boot_s > opened_boot_s + _START_TOLERANCE_S:
        return None
    verdict = task.verdict()
    return verdict.reason if isinstance(verdict, WriterFailed) else None


@dataclass(frozen=True, slots=True)
class _Nobody:
    """No process has it."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """It may be on its way through a socket."""


class _Hidden(Exception):
    """The writer has more descendants than anybody should look through at a close."""


class _Executing(Exception):
    """A process is inside execve(2) and cannot be looked at without waiting for it."""


def _read(path: str) -> bytes:
    """All of a small file of /proc. Every close waits for this, so without Python's file objects."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = chunk = os.read(fd, _READ_BYTES)
        while len(chunk) == _READ_BYTES:
            chunk = os.read(fd, _READ_BYTES)
            text += chunk
        return text
    finally:
        os.close(fd)


def _must_not_be_executing(pid: int) -> None:
    """Raise _Executing where looking at a process could end in a deadlock.

    In execve(2) the kernel closes what is close-on-exec, waits for our answer to that FLUSH, and
    keeps most of /proc/PID locked meanwhile (exec_update_lock): who reads there waits for us, we for
    the lock, and ps for both. statm can be read; the new memory has no text yet at that point. A
    process that begins execve right after this is no danger: its FLUSH is handled in another thread,
    which sees it.
    """
    try:
        pages = _read(f"/proc/{pid}/statm").split()  # size, resident, shared, text, ...
    except (FileNotFoundError, ProcessLookupError):
        return
    if pages and pages[0] != b"0" and pages[3] == b"0":
        raise _Executing


@dataclass(frozen=True, slots=True)
class _Task:
    """The fields of /proc/PID/stat that matter."""

    command: str
    exiting: bool
    dead: bool
    started_boot_s: float
    exit_code: int

    def verdict(self) -> LastClose | WriterFailed:
        if not self.exiting:
            return LastClose()
        if signal := self.exit_code & 0x7F:
            return WriterFailed(f"{self.command} was killed by signal {signal}")
        if status := self.exit_code >> 8:
            return WriterFailed(f"{self.command} ended with status {status} with the file open")
        return LastClose()


def _read_task(pid: int) -> _Task | None:
    _must_not_be_executing(pid)
    try:
        text = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    command, _, rest = text.partition(b"(")[2].rpartition(b")")
    fields = rest.split()  # fields[0] is field 3 of proc(5)
    return _Task(
        command=command.decode("utf-8", "replace"),
        exiting=bool(int(fields[6]) & _PF_EXITING),
        dead=fields[0] in (b"Z", b"X"),
        started_boot_s=int(fields[19]) / _CLOCK_TICKS,
        exit_code=int(fields[49]),
    )


def _held_by_family(file: OpenFile, writer: _Task) -> int | _Nobody | _UnderWay:
    """Which process has the file, of the writer and all who can have got it from it.

    A writer that is being torn down may have closed its sockets a moment ago, so it is taken for one that
    had some.
    """
    has_sockets = False
    for pid in _family(file.pid):
        found = _look_at(pid, file)
        if found.holds:
            return pid
        has_sockets = has_sockets or bool(found.sockets)
    if not (has_sockets or file.shared_before or writer.exiting):
        return _Nobody()
    return _held_by_anybody(file, has_sockets)


def _held_by_anybody(file: OpenFile, has_sockets: bool) -> int | _Nobody | _UnderWay:
    in_flight = False
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            found = _look_at(int(name), file)
        except PermissionError:
            # A process that only a stronger one may look at. It can have inherited the file only if it is
            # younger than that, and be given it only over a socket; else it has nothing to do with it.
            if has_sockets or _is_younger(int(name), file):
                return _UnderWay()
            continue
        if found.holds:
            return int(name)
        in_flight = in_flight or any(_descriptors_under_way(int(name), fd) for fd in found.sockets)
    return _UnderWay() if in_flight else _Nobody()


def _is_younger(pid: int, file: OpenFile) -> bool:
    """Whether a process may have been started since the file was opened."""
    task = _read_task(pid)
    return task is not None and task.started_boot_s > file.opened_boot_s - _START_TOLERANCE_S


def _family(pid: int) -> Iterator[int]:
    """The process and all its living descendants."""
    waiting, seen = [pid], 0
    while waiting:
        current = waiting.pop()
        seen += 1
        if seen > _MAX_DESCENDANTS:
            raise _Hidden
        yield current
        waiting.extend(_children(current))


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            children.extend(map(int, _read(f"/proc/{pid}/task/{thread}/children").split()))
    except (FileNotFoundError, ProcessLookupError):
        return children
    return children


@dataclass(frozen=True, slots=True)
class _Found:
    holds: bool
    sockets: tuple[str, ...] = ()
    """Numbers of descriptors that are unix sockets."""


def _look_at(pid: int, file: OpenFile) -> _Found:
    directory = f"/proc/{pid}/fd"
    sockets: list[str] = []
    _must_not_be_executing(pid)
    try:
        for fd in os.listdir(directory):
            try:
                target = os.readlink(f"{directory}/{fd}")
            except FileNotFoundError:
                continue
            if target.startswith("socket:"):
                if _descriptors_under_way(pid, fd) is not None:
                    sockets.append(fd)
            elif _may_be(target, file.name) and _may_write(pid, fd, file.inode):
                return _Found(holds=True)
        if file.mappable and _maps(pid, file.inode):
            return _Found(holds=True)
    except (FileNotFoundError, ProcessLookupError):
        return _Found(holds=False)
    return _Found(holds=False, sockets=tuple(sockets))


def _may_be(target: str, name: bytes) -> bool:
    last = os.fsencode(target).rpartition(b"/")[2]
    return last == name or last == name + b" (deleted)"


def _may_write(pid: int, fd: str, inode: int) -> bool:
    """Whether a descriptor is of this file and can change it: a reader will never be its last writer.

    From fdinfo ("flags:", and "ino:" since Linux 5.14): no system call that would ask this file system.
    """
    writes = found = False
    try:
        for line in _read(f"/proc/{pid}/fdinfo/{fd}").splitlines():
            if line.startswith(b"flags:"):
                writes = int(line[6:], 8) & os.O_ACCMODE != os.O_RDONLY
            elif line.startswith(b"ino:"):
                found = int(line[4:]) == inode
    except FileNotFoundError:
        return False
    return found and writes


def _maps(pid: int, inode: int) -> bool:
    wanted = b" %d " % inode
    with open(f"/proc/{pid}/maps", "rb") as file:
        return any(wanted in line for line in file)


def _descriptors_under_way(pid: int, fd: str) -> int | None:
    """How many descriptors wait in a unix socket's queue; ``None`` for sockets that can carry none.

    ("scm_fds:" stands in fdinfo of unix sockets only, since Linux 5.5.)
    """
    try:
        for line in _read(f"/proc/{pid}/fdinfo/{fd}").splitlines():
            if line.startswith(b"scm_fds:"):
                return int(line[8:])
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None
