"""Writers on a real mount, and what must be true after a daemon was killed under them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash.archive import visible
from tests.support.daemon import Daemon, processes_of
from wormfs.backends import registry
from wormfs.model import Key

WRITER = r"""
import hashlib, os, random, sys
directory, log, seed, limit = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
chance = random.Random(seed)
log = open(log, "a", buffering=1)
number = 0
while number != limit:
    number += 1
    name = f"{seed}-{number}"
    content = chance.randbytes(chance.choice([0, 1, 100, 4096, 70_000, 300_000]))
    digest = hashlib.sha256(content).hexdigest()
    path = os.path.join(directory, name)
    try:
        if chance.random() < 0.2:
            directory_path = path + ".d"
            os.mkdir(directory_path)
            log.write(f"made {name}.d\n")
            path = os.path.join(directory_path, "file")
            name += ".d/file"
        log.write(f"tried {name} {digest}\n")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            for start in range(0, len(content), 8192):
                os.write(fd, content[start:start + 8192])
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        log.write(f"stored {name} {digest}\n")
    except OSError as error:
        log.write(f"refused {name} {error.errno}\n")
        if limit < 0:
            sys.exit(0)
"""
"""Stores files and notes each in its own log once close has returned 0. Without a limit it ends with the
first error, which the death of the daemon gives it."""


@dataclass
class Logged:
    """What the writers say."""

    tried: dict[bytes, str]
    stored: dict[bytes, str]
    made: set[bytes]


class Writers:
    """Several writer processes with a log each, for one mount."""

    def __init__(self, directory: Path, logs: Path) -> None:
        self._directory = directory
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []
        logs.mkdir(exist_ok=True)

    def start(self, count: int, round_: str, limit: int = -1) -> None:
        for number in range(count):
            seed = f"{round_}-{number}"
            command = [
                sys.executable,
                "-c",
                WRITER,
                str(self._directory),
                str(self._logs / seed),
                seed,
                str(limit),
            ]
            self._running.append(subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL))

    def wait(self, timeout_s: float = 60.0) -> None:
        running, self._running = self._running, []
        try:
            for process in running:
                assert process.wait(timeout_s) == 0
        finally:
            for process in running:
                process.kill()
                process.wait()

    def logged(self) -> Logged:
        logged = Logged({}, {}, set())
        for log in self._logs.iterdir():
            for line in log.read_text().splitlines():
                word, name, *rest = line.split()
                key = os.fsencode(name)
                if word == "tried":
                    logged.tried[key] = rest[0]
                elif word == "stored":
                    logged.stored[key] = rest[0]
                elif word == "made":
                    logged.made.add(key)
        return logged

    def stored_so_far(self) -> int:
        return sum(log.read_text().count("stored ") for log in self._logs.iterdir())


@contextlib.contextmanager
def writers(directory: Path, logs: Path) -> Iterator[Writers]:
    made = Writers(directory, logs)
    try:
        yield made
    finally:
        for process in made._running:
            process.kill()
            process.wait()


def wait_settled(daemon: Daemon, name: str = "archive") -> None:
    """Wait until the worker is mounted, answers, and has brought everything that was sealed to its end."""

    def settled() -> bool:
        backend = daemon.status()["backends"].get(name, {})
        spool = backend.get("spool") or {}
        return backend.get("state") == "ready" and not spool.get("waiting", 1)

    daemon.wait_mounted(name)
    daemon.wait_for(settled, "everything sealed is committed")


def examine(daemon: Daemon, logged: Logged) -> None:
    """What was acknowledged is there, whole, with its record; nothing else but whole files; then stop and
    look for staging files. The daemon runs when this is called."""
    wait_settled(daemon)
    mount, root = daemon.mountpoint / "archive", daemon.data()
    for key, digest in logged.stored.items():
        content = (mount / os.fsdecode(key)).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, f"{key!r} is read with other bytes"
        shown = os.getxattr(mount / os.fsdecode(key), "user.wormfs.state")
        assert shown == b"committed", f"{key!r} is {shown!r}"
    for key in logged.made:
        assert (mount / os.fsdecode(key)).is_dir(), key
    on_disk = visible(root)
    backend = registry.create("archive", "local", {"path": str(root)})
    backend.start()
    try:
        for key, found in on_disk.items():
            if found is None:
                continue
            assert key in logged.tried, f"{key!r} is there, and nobody made it"
            digest = hashlib.sha256(found).hexdigest()
            assert digest == logged.tried[key], f"{key!r} is visible and not whole"
            record = backend.record(Key(key))
            assert record is not None and record.sha256 == digest, f"{key!r}: {record}"
            links = os.stat(root / os.fsdecode(key)).st_nlink
            assert links == 1, f"{key!r} has {links} names: its staging file is left"
    finally:
        backend.close()
    in_mount = {os.path.relpath(os.path.join(folder, name), mount).encode()
                for folder, folders, files in os.walk(mount) for name in folders + files}  # fmt: skip
    assert in_mount == set(on_disk), "the mount shows something else than the disk"
    assert daemon.stop() == 0
    left = os.listdir(spool_of(daemon) / "entries")
    assert left == [], f"staging files are left: {left}"
    check_quarantine(daemon, logged)


def check_quarantine(daemon: Daemon, logged: Logged) -> None:
    """Everything there has a description, and is nothing that was acknowledged."""
    for path in (spool_of(daemon) / "quarantine").glob("*.json"):
        described = json.loads(path.read_text())["entry"]
        key = described["key"]
        assert isinstance(key, str)
        assert key.encode() not in logged.stored, f"{key} was acknowledged and is in quarantine"
        data = path.with_suffix(".data")
        assert data.stat().st_size == described["size_bytes"], data


def spool_of(daemon: Daemon) -> Path:
    """The one spool of this daemon's local backend."""
    (spool,) = (daemon.data() / ".wormfs" / "spool").iterdir()
    return spool


def worker_pids(daemon: Daemon) -> list[int]:
    """Living workers of the daemon, found without asking it."""
    assert daemon.process is not None
    tasks = Path(f"/proc/{daemon.process.pid}/task")
    # A child belongs to the thread that started it.
    children = [path.read_text().split() for path in tasks.glob("*/children")]
    return [int(pid) for pids in children for pid in pids]


def kill_family(daemon: Daemon) -> None:
    """The supervisor and its workers, as when the machine's power goes but its page cache stays."""
    for pid in processes_of(daemon.base):
        os.kill(pid, signal.SIGKILL)
    assert daemon.process is not None
    daemon.process.wait(20)
    daemon.process = None
    wait_until(lambda: not processes_of(daemon.base))


def wait_until(condition: object, timeout_s: float = 30.0) -> None:
    """For what no daemon can tell."""
    assert callable(condition)
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not become true"
        time.sleep(0.01)
