"""What every mount over a server has to stand, whatever the server: tools, Moodle, two daemons, kills."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from tests.crash.real import Logged, wait_settled, wait_until, worker_pids, writers
from tests.mount.conftest import Detached
from tests.support.daemon import Daemon
from tests.support.tools import as_www_data
from wormfs.model import Key

PROGRAMS = Path(__file__).parent.parent / "mount"
RACE = PROGRAMS / "programs" / "race.py"
MOODLE = PROGRAMS / "php" / "moodle.php"


class Plain(Protocol):
    """Where the files lie."""

    def plain(self, key: Key) -> bytes:
        """The bytes under ``key``, read with no wormfs in sight."""
        ...


@contextlib.contextmanager
def detached() -> Iterator[Callable[[Mapping[str, object]], Detached]]:
    """Mounts a backend as ``archive`` by a daemon that is no child of the tests; all is gone at the end."""
    made: list[Detached] = []

    def mount(settings: Mapping[str, object]) -> Detached:
        base = Path(tempfile.mkdtemp(prefix="wormfs-server-"))
        base.chmod(0o755)
        daemon = Detached(base, {"archive": settings})
        made.append(daemon)
        daemon.start()
        return daemon

    try:
        yield mount
    finally:
        for daemon in made:
            daemon.clean_up()
            assert daemon.mounted() == []
            shutil.rmtree(daemon.base)


def run(*words: object, cwd: Path | None = None) -> str:
    """A program that must succeed; what it prints."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def use_tools(daemon: Daemon, tmp_path: Path) -> Path:
    """cp -a, rsync, tar, diff, ls and df, on a backend with ``capacity: 20GiB``.

    Returns the tree that lies below ``copied``, ``synced`` and ``untarred`` in the mount then.
    """
    mount = daemon.mountpoint / "archive"
    source = tmp_path / "source"
    (source / "below" / "deep").mkdir(parents=True)
    for number, size in enumerate((0, 1, 4096, 100_000, 20_000_000)):
        (source / "below" / f"file {number} ä").write_bytes(random.Random(number).randbytes(size))
    os.utime(source / "below" / "file 1 ä", (1_600_000_000, 1_500_000_000))
    run("cp", "-a", source, mount / "copied")
    # It sets the mode after close: without a settle window only one that changes nothing.
    run("rsync", "-rp", "--inplace", "--whole-file", "--chmod=F400", f"{source}/", mount / "synced")
    run("tar", "-cf", tmp_path / "all.tar", "-C", source, ".")
    (mount / "untarred").mkdir()
    run("tar", "-xf", tmp_path / "all.tar", "-C", mount / "untarred", "--no-same-owner")
    for copy in ("copied", "synced", "untarred"):
        run("diff", "-r", source, mount / copy)
    assert (mount / "copied/below/file 1 ä").stat().st_mtime == 1_500_000_000
    listing = run("ls", "-lR", mount / "copied")
    assert "20000000" in listing and "100000" in listing
    # A listing must not make the kernel keep a mode that it does not tell.
    assert {line.split()[0] for line in listing.splitlines() if "file" in line} == {"-r--r--r--"}
    assert run("df", "-B1", "--output=size", mount).split()[1] == str(20 << 30)
    with pytest.raises(PermissionError):
        (mount / "copied/below/file 1 ä").write_bytes(b"other")
    assert "Traceback" not in daemon.log_text()
    return source


def use_moodle(daemon: Daemon, storage: Plain, size: int) -> None:
    """Moodle's own steps in PHP, with an archive of ``size`` bytes."""
    mount = daemon.mountpoint / "archive"
    script, source = daemon.base / "moodle.php", daemon.base / "archive.zip"
    shutil.copy(MOODLE, script)
    source.write_bytes(random.Random(size).randbytes(size))
    (mount / "storage").mkdir()
    if (mount / "storage").stat().st_mode & 0o777 != 0o777:
        (mount / "storage").chmod(0o777)
    done = as_www_data("php", script, mount / "storage", source, "7", timeout_s=120)
    assert (done.returncode, done.stderr) == (0, ""), done
    steps = {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}
    expected = hashlib.sha256(source.read_bytes()).hexdigest()
    assert steps["space"]["free"] > 1 << 30
    assert steps["store"]["ok"] is True
    assert steps["retrieve"]["sha256"] == [expected, expected]
    assert steps["delete"]["ok"] is False
    assert steps["rmdir"]["removed"] == 3
    assert hashlib.sha256(storage.plain(Key(b"storage/job-7/archive.zip"))).hexdigest() == expected


def race(one: Daemon, two: Daemon, storage: Plain, names: int, tmp_path: Path) -> None:
    """Eight programs over two daemons create the same names: one wins each, and nothing is mixed."""
    place, other = one.mountpoint / "archive" / "p", two.mountpoint / "archive" / "p"
    place.mkdir()
    done = run(sys.executable, "-I", RACE, 8, names, os.O_EXCL, tmp_path, place, other)
    for number, told in enumerate(map(json.loads, done.splitlines())):
        winners = [racer for racer, words in enumerate(told) if words == "None"]
        assert len(winners) == 1, told
        assert set(told) <= {"None", f"open {errno.EEXIST}", f"open {errno.EBUSY}", f"close {errno.EEXIST}"}
        expected = f"{winners[0]:04}".encode() * 5000
        assert storage.plain(Key(b"p/%d" % number)) == expected
        assert (place / str(number)).read_bytes() == (other / str(number)).read_bytes() == expected


def kill_under_load(daemon: Daemon, rounds: int, restart: Callable[[], None] | None) -> Logged:
    """Kill the worker under eight writers, or the server, ``rounds`` times; what was acknowledged then.

    ``restart``: kills the server and starts it again a moment later. ``None``: the worker is killed.
    """
    chance = random.Random(3)
    with writers(daemon.mountpoint / "archive", daemon.base / "logs") as load:
        for number in range(rounds):
            begun = load.stored_so_far()
            load.start(8, str(number))
            wait_until(lambda begun=begun: load.stored_so_far() > begun + 5)
            time.sleep(chance.uniform(0, 0.3))
            if restart is not None:
                # What is written now is safe in the spool, and close says that it is not at the server.
                restart()
                time.sleep(1)
                for process in load._running:
                    process.kill()
                    process.wait()
                load._running.clear()
                daemon.run("spool", "retry", "--all")
            else:
                (pid,) = worker_pids(daemon)
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: worker_pids(daemon) not in ([pid], []))
                load.wait()
            wait_settled(daemon)
        logged = load.logged()
    assert logged.stored
    return logged


def must_show(daemon: Daemon, logged: Logged) -> None:
    """What was acknowledged is there in the mount, whole and committed."""
    wait_settled(daemon)
    mount = daemon.mountpoint / "archive"
    for key, digest in logged.stored.items():
        assert hashlib.sha256((mount / os.fsdecode(key)).read_bytes()).hexdigest() == digest, key
        assert os.getxattr(mount / os.fsdecode(key), "user.wormfs.state") == b"committed", key
