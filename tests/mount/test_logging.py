"""The log of a real daemon: who was refused what, what a loop leaves, and the level at run time."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Detached
from tests.support.daemon import Daemon
from tests.support.tools import WWW_DATA, eventually

_ATTEMPTS = """
import os, sys
os.chdir(sys.argv[1])
with open("/proc/self/comm", "wb") as comm:
    comm.write(b"x\\n\\x1b[31m', uid 0")
def attempt(name, action):
    try:
        action()
    except OSError as error:
        print(name, error.errno)
    else:
        print(name, "allowed")
attempt("open", lambda: os.open("mine", os.O_WRONLY))
attempt("open-trunc", lambda: os.open("mine", os.O_RDONLY | os.O_TRUNC))
attempt("truncate", lambda: os.truncate("mine", 0))
attempt("chmod", lambda: os.chmod("mine", 0o777))
attempt("utime", lambda: os.utime("mine", (1, 1)))
attempt("setxattr", lambda: os.setxattr("mine", "user.note", b"x"))
attempt("unlink", lambda: os.unlink("mine"))
attempt("rename", lambda: os.rename("mine", "moved"))
attempt("onto", lambda: os.rename("fresh", "mine"))
print("--")
attempt("excl", lambda: os.open("mine", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
attempt("mkdir", lambda: os.mkdir("mine"))
attempt("link", lambda: os.link("mine", "second"))
print(os.getpid())
"""


@pytest.fixture(scope="module")
def daemon(module_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    made = module_daemon(other={})
    made.start()
    yield made


def asked(text: str) -> list[tuple[str, str, int, int, str]]:
    """Operation, file, uid, pid and program of each refusal."""
    found = re.findall(
        r"info \w+: (\w+) refused: (\S+): .*; asked by uid (\d+), pid (\d+), program (.*)$",
        text,
        re.MULTILINE,
    )
    return [(operation, file, int(uid), int(pid), program) for operation, file, uid, pid, program in found]


def as_www_data(*command: object) -> str:
    return subprocess.run(
        ["setpriv", f"--reuid={WWW_DATA}", f"--regid={WWW_DATA}", "--clear-groups", *map(str, command)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def attempts(daemon: Daemon, directory: Path, *prefix: object) -> tuple[dict[str, str], int, str]:
    """What became of each attempt on a record, the pid that made them, and what the log says of it."""
    before = len(daemon.log_text())
    command = [*map(str, prefix), sys.executable, "-c", _ATTEMPTS, str(directory)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    told, _, quiet = output.partition("--\n")
    assert "allowed" not in output
    return (
        dict(line.split() for line in told.splitlines()),
        int(quiet.split()[-1]),
        daemon.log_text()[before:],
    )


@pytest.fixture
def directory(daemon: Daemon, request: pytest.FixtureRequest) -> Path:
    """With a record of www-data's, and an empty file that could still be renamed."""
    made = daemon.mountpoint / "other" / request.node.name
    made.mkdir()
    made.chmod(0o777)
    as_www_data("bash", "-c", 'cd "$0" && echo a record > mine && : > fresh', made)
    return made


def test_every_refused_overwrite_is_told_with_who_asked(daemon: Daemon, directory: Path) -> None:
    tried, pid, log = attempts(daemon, directory)
    assert len(tried) == 9
    refusals = asked(log)
    assert [operation for operation, *_ in refusals] == [
        "open", "open", "setattr", "setattr", "setattr", "setxattr", "unlink", "rename", "rename",
    ]  # fmt: skip
    assert {file for _, file, *_ in refusals} == {f"other/{directory.name}/mine"}
    assert {(uid, asker) for _, _, uid, asker, _ in refusals} == {(0, pid)}
    # What the process calls itself can forge neither a line nor another field.
    assert {program for *_, program in refusals} == {'"x\\\\n\\\\x1b[31m\', uid 0"'}


def test_what_the_kernel_refuses_by_the_mode_alone_does_not_reach_wormfs(
    daemon: Daemon, directory: Path
) -> None:
    """A record has no write bits: whoever is not root gets EACCES from the kernel for whatever needs them."""
    tried, pid, log = attempts(
        daemon, directory, "setpriv", f"--reuid={WWW_DATA}", f"--regid={WWW_DATA}", "--clear-groups"
    )
    by_mode = {name for name, number in tried.items() if number == str(errno.EACCES)}
    assert by_mode == {"open", "open-trunc", "truncate", "setxattr"}
    assert [(operation, uid, asker) for operation, _, uid, asker, _ in asked(log)] == [
        (operation, WWW_DATA, pid) for operation in ("setattr", "setattr", "unlink", "rename", "rename")
    ]


def test_a_loop_leaves_few_lines_and_hides_nobody(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams={"empty_grace": "0s"})
    daemon.start()
    root = daemon.mountpoint / "exams"
    root.chmod(0o777)
    names = [f"f{number}" for number in range(20)]
    for name in names:
        (root / name).write_text("a record")
    loop = (
        "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(40):\n for name in sorted(os.listdir()):\n"
        "  try: os.unlink(name)\n  except PermissionError: pass\n"
    )
    as_www_data(sys.executable, "-c", loop, root)
    with pytest.raises(PermissionError):
        (root / "f1").unlink()
    uids = [uid for _, _, uid, _, _ in asked(daemon.log_text())]
    assert (uids.count(WWW_DATA), uids.count(0)) == (60, 1)
    trail = (daemon.state_directory / "audit" / "exams.jsonl").read_text().splitlines()
    refused = [line for line in map(json.loads, trail) if line["event"] == "refused"]
    assert [line["uid"] for line in refused] == [WWW_DATA] * 60 + [0]
    # Each is counted where it costs nothing, and the log says at the end how many there were.
    assert daemon.run("umount").returncode == 0
    said = re.findall(r"\((?:and|repeated) (\d+) [\w ]+ within \d+ s\)", daemon.log_text())
    assert sum(map(int, said)) == 20 * 40 - 60 and len(said) <= 10


def test_the_level_changes_by_signal_everywhere_and_stays_for_new_workers(
    fresh_daemon: Callable[..., Daemon],
) -> None:
    daemon = fresh_daemon(exams={"empty_grace": "0s"})
    daemon.start()
    file = daemon.mountpoint / "exams" / "f"
    file.write_text("a record")
    supervisor = int(daemon.status()["pid"])

    def refusals() -> int:
        with pytest.raises(PermissionError):
            file.unlink()
        return daemon.log_text().count("unlink refused")

    def change(number: int, level: str, told: int = 2) -> None:
        before = daemon.log_text().count(f"log level is now {level}")
        os.kill(supervisor, number)
        # The supervisor and its worker say so, whatever the level.
        eventually(
            lambda: daemon.log_text().count(f"log level is now {level}") == before + told,
            f"level {level} everywhere",
        )

    assert refusals() == 1
    change(signal.SIGUSR2, "warning")
    assert refusals() == 1
    worker = daemon.worker_pid("exams")
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: daemon.worker_pid("exams") not in (0, worker), "a new worker")
    daemon.wait_mounted("exams")
    assert refusals() == 1
    change(signal.SIGUSR1, "info")
    assert refusals() == 2
    change(signal.SIGUSR1, "debug")
    # There is no more: the worker has nothing to change.
    change(signal.SIGUSR1, "debug", told=1)
    # Sent to the whole unit, it reaches the workers, too: that must not end them.
    worker = daemon.worker_pid("exams")
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(worker, number)
    assert refusals() == 3 and daemon.worker_pid("exams") == worker


def test_the_level_of_the_command_line(fresh_daemon: Callable[..., Detached]) -> None:
    daemon = fresh_daemon(exams={"empty_grace": "0s"})
    done = daemon.run("mount", "--daemon", "--log-level", "warning")
    assert done.returncode == 0, done.stderr
    (daemon.mountpoint / "exams" / "f").write_text("a record")
    with pytest.raises(PermissionError):
        (daemon.mountpoint / "exams" / "f").unlink()
    assert daemon.run("umount").returncode == 0
    assert Path(daemon.state_directory / "wormfs.log").read_text() == ""


def test_a_level_that_does_not_exist(fresh_daemon: Callable[..., Daemon]) -> None:
    done = fresh_daemon().run("mount", "--log-level", "loud")
    assert done.returncode == 2 and "'loud' is not one of" in done.stderr
