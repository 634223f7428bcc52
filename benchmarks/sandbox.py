"""Mounts and processes of a measuring run, and that none of them outlives it.

As root everything runs in a mount namespace of its own, so that even after SIGKILL of the program no mount is
left on the machine; every child gets a signal when its parent dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_MNT_DETACH = 2
_POLL_S = 0.02


class BenchError(Exception):
    """Something that was to be measured did not work; the text says what and why."""


class Impossible(BenchError):
    """This machine cannot measure it; nothing that is measured is broken. The text says what is missing."""


_libc = ctypes.CDLL(None, use_errno=True)


def private_mounts() -> None:
    """Gives this process and its children mounts of their own (root only; else nothing happens)."""
    if os.geteuid() != 0:
        return
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise BenchError(f"unshare: {os.strerror(ctypes.get_errno())}")
    if _libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) != 0:
        raise BenchError(f"making / private: {os.strerror(ctypes.get_errno())}")


def many_open_files() -> None:
    """Raises the limit of open files as far as allowed: passthrough_ll opens every name the kernel knows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_files_allowed() -> int:
    """How many files a child may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def tied(command: Sequence[str]) -> list[str]:
    """The command, so that it gets SIGTERM when this program dies without stopping it."""
    return ["setpriv", "--pdeathsig", "TERM", "--", *command]


def _mount_table() -> list[list[str]]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [line.split() for line in lines]


def _unescape(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def is_mounted(path: Path) -> bool:
    """Whether a file system is mounted exactly at ``path``. Asks the kernel's table, never the mount."""
    return any(_unescape(fields[4]) == str(path) for fields in _mount_table())


def file_system_type(path: Path) -> str:
    """The type of the file system that holds ``path``, such as ``ext4``."""
    best, kind = "", "unknown"
    for fields in _mount_table():
        point = _unescape(fields[4])
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= len(best):
            best, kind = point, fields[fields.index("-") + 1]
    return kind


def detach_below(path: Path) -> None:
    """Unmounts, lazily, everything at and below ``path``, the innermost first."""
    points = [Path(_unescape(fields[4])) for fields in _mount_table()]
    for point in reversed(points):
        if point == path or path in point.parents:
            if os.geteuid() == 0:
                _libc.umount2(os.fsencode(point), _MNT_DETACH)
            else:
                subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False, capture_output=True)


class Daemon:
    """A file system daemon in the foreground, in a session of its own, with its output in ``log``."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = list(command)
        self._log = log
        with log.open("ab") as output:
            # A session of its own: Ctrl-C must reach it through stop(), in order, and not from the terminal.
            self._process = subprocess.Popen(
                tied(self._command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Blocks until ``ready``. Raises BenchError with the end of the log if the daemon ends or hangs."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            code = self._process.poll()
            if code is not None:
                raise BenchError(f"{self._command[0]} ended with {code}: {self._tail()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self._command[0]} did not mount within {timeout_s:.0f} s: {self._tail()}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float) -> bool:
        """SIGTERM, then, after ``timeout_s``, ``kill``. True if SIGTERM was enough for all of it. Blocks.

        However it ends, also by a signal to this program: nothing of the daemon is left.
        """
        helpers = _identified(descendants(self.pid))
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        except BaseException:
            self.kill()
            raise
        return _kill_remaining(helpers) == 0

    def kill(self) -> None:
        """SIGKILL to the daemon and its children at once."""
        helpers = _identified(descendants(self.pid))
        self._process.kill()
        _kill_remaining(helpers)
        self._process.wait()

    def _tail(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return " | ".join(text.splitlines()[-3:]) or "(no output)"


def descendants(pid: int) -> list[int]:
    """The children, grandchildren and so on of a process, as they are now."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            text = " ".join(p.read_text() for p in Path(f"/proc/{parent}/task").glob("*/children"))
        except OSError:
            continue  # ended while we looked
        children = [int(word) for word in text.split()]
        found += children
        waiting += children
    return found


def _start_ticks(pid: int) -> str | None:
    """When a process was started; None if it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _identified(pids: Sequence[int]) -> dict[int, str]:
    """Process ids with their start, so that a reused id is never taken for the process we knew."""
    return {pid: ticks for pid in pids if (ticks := _start_ticks(pid)) is not None}


def _kill_remaining(known: dict[int, str]) -> int:
    """SIGKILL to those of ``known`` that still run. Returns how many did."""
    remaining = [pid for pid, ticks in known.items() if _start_ticks(pid) == ticks]
    for pid in remaining:
        with contextlib.suppress(ProcessLookupError):  # it may have been faster
            os.kill(pid, signal.SIGKILL)
    return len(remaining)


def serves_fuse(pid: int) -> bool:
    """Whether the process has /dev/fuse open."""
    try:
        return any(os.readlink(entry) == "/dev/fuse" for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # ended while we looked


def memory_mib(pid: int, field: str) -> float:
    """``VmHWM`` (peak) or ``VmRSS`` (now) of a process in MiB. Raises BenchError if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    except OSError as error:
        raise BenchError(f"process {pid} is gone: {error}") from error
    raise BenchError(f"process {pid} has no {field}")


def reset_peak(pid: int) -> None:
    """Starts VmHWM of a process anew from what it uses now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
