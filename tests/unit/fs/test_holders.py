"""Which close is the last one: real processes that hold a real file in every way there is."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from wormfs.fs import holders
from wormfs.fs.holders import LastClose, OpenFile, StillOpen, Unclear, Verdict, WriterFailed

SLEEPER = "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that holds what is passed to it, ready when this returns."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(program: str = SLEEPER, fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            pass_fds=fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some file"
    path.touch()
    return path


def file_of(path: Path, pid: int, *, shared_before: bool = False) -> OpenFile:
    return OpenFile(
        pid=pid,
        opened_boot_s=time.clock_gettime(time.CLOCK_BOOTTIME),
        inode=path.stat().st_ino,
        name=os.fsencode(path.name),
        shared_before=shared_before,
        mappable=True,
    )


def settled(file: OpenFile) -> Verdict:
    """The verdict when no other program of this machine has descriptors under way in its sockets: at times
    one has, and then all that could be shared is unclear."""
    until = time.monotonic() + 10
    while True:
        verdict = holders.inspect(file)
        unsure = verdict == Unclear() or (isinstance(verdict, StillOpen) and verdict.heir is None)
        if not unsure or time.monotonic() > until:
            return verdict
        time.sleep(0.01)


def test_nobody_has_it(start: Start, path: Path) -> None:
    assert holders.inspect(file_of(path, start().pid)) == LastClose()


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_the_writer_has_another_descriptor(start: Start, path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    writer = start(fds=(fd,))
    os.close(fd)
    assert holders.inspect(file_of(path, writer.pid)) == StillOpen(alone=True)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH])
def test_who_only_reads_is_never_the_last_writer(start: Start, path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    reader = start(fds=(fd,))
    os.close(fd)
    assert holders.inspect(file_of(path, reader.pid)) == LastClose()


def test_another_file_of_the_same_name_is_another_file(start: Start, path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    fd = os.open(tmp_path / "other" / path.name, os.O_WRONLY | os.O_CREAT)
    writer = start(fds=(fd,))
    os.close(fd)
    assert holders.inspect(file_of(path, writer.pid)) == LastClose()


def test_a_mapping_counts(start: Start, path: Path) -> None:
    path.write_bytes(bytes(mmap.PAGESIZE))
    fd = os.open(path, os.O_RDWR)
    # mmap keeps a descriptor of its own, which must go, too.
    program = f"import mmap, os; m = mmap.mmap({fd}, 0); os.closerange(3, 100); {SLEEPER}"
    writer = start(program, fds=(fd,))
    os.close(fd)
    file = file_of(path, writer.pid)
    assert holders.inspect(file) == StillOpen(alone=True)
    # A file that was opened to be written only cannot be changed through a mapping.
    assert holders.inspect(replace(file, mappable=False)) == LastClose()


def test_a_child_counts(start: Start, path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    program = f"""
import os, sys
if os.fork() == 0:
    sys.stdin.read(); os._exit(0)
os.close({fd})
{SLEEPER}"""
    writer = start(program, fds=(fd,))
    os.close(fd)
    verdict = holders.inspect(file_of(path, writer.pid))
    # The writer has let go of it, so the child is the writer now.
    assert isinstance(verdict, StillOpen) and verdict.heir is not None and verdict.heir.pid != writer.pid


def test_a_stranger_counts_only_after_the_file_was_shared(start: Start, path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    start(fds=(fd,))
    os.close(fd)
    writer = start()
    assert holders.inspect(file_of(path, writer.pid)) == LastClose()
    verdict = settled(file_of(path, writer.pid, shared_before=True))
    assert isinstance(verdict, StillOpen) and verdict.heir is not None and verdict.heir.pid != writer.pid


def test_a_descriptor_under_way_in_a_socket_is_unclear(start: Start, path: Path) -> None:
    ours, theirs = socket.socketpair()
    fd = os.open(path, os.O_WRONLY)
    with ours, theirs:
        program = f"""
import socket
a = socket.socket(fileno={ours.fileno()})
socket.send_fds(a, [b"x"], [{fd}])
import os; os.close({fd})
{SLEEPER}"""
        writer = start(program, fds=(ours.fileno(), theirs.fileno(), fd))
        os.close(fd)
        assert holders.inspect(file_of(path, writer.pid)) == Unclear()


def test_a_killed_writer(start: Start, path: Path) -> None:
    writer = start()
    file = file_of(path, writer.pid)
    writer.kill()
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
    assert isinstance(verdict := settled(file), WriterFailed)
    assert f"killed by signal {signal.SIGKILL.value}" in verdict.reason
    assert holders.ended_badly(file.pid, file.opened_boot_s) == verdict.reason


@pytest.mark.parametrize("status", [0, 3])
def test_an_exit_status_tells_how_it_ended(start: Start, path: Path, status: int) -> None:
    writer = start(
        f"import os, sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read(); os._exit({status})"
    )
    file = file_of(path, writer.pid)
    assert writer.stdin is not None
    writer.stdin.close()
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
    verdict = settled(file)
    writer.stdin = None
    assert isinstance(verdict, WriterFailed if status else LastClose)


def test_what_cannot_be_known_is_unclear(start: Start, path: Path) -> None:
    writer = start()
    file = file_of(path, writer.pid)
    assert holders.inspect(replace(file, pid=0)) == Unclear()
    # A process that has only inherited the number.
    assert holders.inspect(replace(file, opened_boot_s=file.opened_boot_s - 3600)) == Unclear()
    assert holders.ended_badly(writer.pid, file.opened_boot_s - 3600) is None
    writer.kill()
    writer.wait()
    assert holders.inspect(file) == Unclear()
    assert holders.ended_badly(file.pid, file.opened_boot_s) is None


def test_no_descriptor_left_is_unclear_and_never_an_error(start: Start, path: Path) -> None:
    """Regression: EMFILE here sent whole files to quarantine."""
    writer = start()
    file = file_of(path, writer.pid)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        verdict, ended = holders.inspect(file), holders.ended_badly(file.pid, file.opened_boot_s)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (verdict, ended) == (Unclear(), None)
