"""kill -9 of the worker at every step of an erasure: the file or its tombstone, nothing in between."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, processes_of
from tests.support.tools import eventually, refused
from wormfs import audit, durability

STEPS = [step for step in durability.STEPS if step.startswith("erase.")]
CONTENT = b"record" * 1000


def kill_family(daemon: Daemon) -> None:
    for pid in processes_of(daemon.base):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not processes_of(daemon.base), "all processes are gone")


def tombstones(daemon: Daemon) -> list[object]:
    lines = audit.read(audit.audit_path(daemon.state_directory, "exams"))
    return [line["erasure"] for line in lines if line["event"] == "erased"]


def intents(daemon: Daemon) -> list[Path]:
    return list((daemon.state_directory / "erasing" / "exams").glob("*"))


@pytest.mark.row("erase-cut-off")
@pytest.mark.parametrize("step", STEPS)
def test_kill_at_every_step(fresh_daemon: Callable[..., Daemon], step: str) -> None:
    daemon = fresh_daemon(exams={"immutable": True, "erase": "always"})
    try:
        _kill_and_look(daemon, step)
    finally:
        daemon.clean_up()
        subprocess.run(["chattr", "-R", "-i", daemon.data("exams")], check=False, capture_output=True)


def _answers(directory: Path) -> bool:
    try:
        os.listdir(directory)
    except OSError:
        return False
    return True


def _kill_and_look(daemon: Daemon, step: str) -> None:
    daemon.start(**{durability.CRASH_VARIABLE: step})
    path, stored = daemon.mountpoint / "exams" / "f", daemon.data("exams") / "f"
    path.write_bytes(CONTENT)
    (path.parent / "other").write_bytes(CONTENT)
    first = daemon.worker_pid("exams")
    with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
        path.unlink()
    eventually(lambda: daemon.worker_pid("exams") != first, "the worker is dead")
    kill_family(daemon)
    # As the disk is now: all of it, or nothing.
    if stored.exists():
        assert stored.read_bytes() == CONTENT
        assert STEPS.index(step) < STEPS.index("erase.unlinked")
    else:
        assert tombstones(daemon) or intents(daemon)
    daemon.start()
    # The dead mount of the killed one may still be there for a moment.
    eventually(lambda: _answers(path.parent), "the new mount answers")
    assert not stored.exists()
    with refused(errno.ENOENT):
        path.stat()
    assert len(tombstones(daemon)) == 1
    assert intents(daemon) == []
    path.write_bytes(b"a new file of that name")
    assert daemon.run("umount").returncode == 0
    daemon.start()
    assert path.read_bytes() == b"a new file of that name"
    assert (path.parent / "other").read_bytes() == CONTENT
    assert len(tombstones(daemon)) == 1
