"""A real daemon for tests: its settings written, started, waited for, and surely gone afterwards.

``daemons`` is the fixture: ``daemon = daemons({"exams": {...}})``, then ``daemon.start()``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from wormfs.fuse.mounting import mounts, unmount

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_S = 20.0

Backends = Mapping[str, Mapping[str, object]]


class Daemon:
    """One daemon with its own mountpoint, state directory and local backends below ``base``."""

    def __init__(self, base: Path, backends: Backends | None = None, **settings: object):
        self.base = base
        self.mountpoint = base / "mnt"
        self.state_directory = base / "state"
        self.config = base / "wormfs.yaml"
        self.log = base / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        if backends is None:
            backends = {"archive": self.local("archive")}
        self.write_config(backends, **settings)

    def local(self, name: str, **settings: object) -> dict[str, object]:
        """The settings of a local backend in a new directory."""
        path = self.base / "data" / name
        path.mkdir(parents=True, exist_ok=True)
        return {"type": "local", "path": str(path), **settings}

    def data(self, name: str = "archive") -> Path:
        """Where a local backend keeps its files."""
        return self.base / "data" / name

    def write_config(self, backends: Backends, **settings: object) -> None:
        content = {
            "mountpoint": str(self.mountpoint),
            "state_directory": str(self.state_directory),
            "stop_timeout": "5s",
            # A check at a moment of its own choosing would disturb tests that count and break things.
            "backends": {name: {"check_interval": 0, **backend} for name, backend in backends.items()},
            **settings,
        }
        self.config.write_text(yaml.safe_dump(content))
        self.config.chmod(0o600)

    # -- commands

    def run(self, command: str, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """``wormfs COMMAND --config ... ARGUMENTS``."""
        return self.wormfs(command, "--config", str(self.config), *arguments, timeout_s=timeout_s)

    def begin(self, command: str) -> subprocess.Popen[str]:
        """``wormfs COMMAND --config ...``, not waited for."""
        return subprocess.Popen(
            [sys.executable, "-m", "wormfs", command, "--config", str(self.config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.base,
            env=environment(self.base),
        )

    def wormfs(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wormfs", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=self.base,
            env=environment(self.base),
            check=False,
        )

    def status(self) -> dict[str, Any]:
        """What ``wormfs status --json`` says."""
        done = self.run("status", "--json")
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def worker_pid(self, name: str = "archive") -> int:
        """0 while there is none."""
        return int(self.status()["backends"][name]["pid"] or 0)

    # -- the process

    def start(self, *, wait: bool = True, **variables: str) -> None:
        """``wormfs mount`` in the foreground, its log in a file; waits until every backend is mounted."""
        said = len(self.log_text())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wormfs", "mount", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.base,
                env=environment(self.base) | variables,
                start_new_session=True,
            )
        if wait:
            names = yaml.safe_load(self.config.read_text())["backends"]
            for name in names:
                # Not is_mounted: what is mounted there may be left of an earlier run.
                line = f"{name}: mounted at "
                self.wait_for(lambda line=line: line in self.log_text()[said:], f"{name} is mounted")

    def wait_mounted(self, *names: str) -> None:
        """Wait until the backends' own mounts are there."""
        for name in names:
            self.wait_for(lambda name=name: self.is_mounted(name), f"{name} is mounted")

    def is_mounted(self, name: str) -> bool:
        return any(mount.mountpoint == str(self.mountpoint / name) for mount in mounts())

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Fail with the daemon's log when ``condition`` does not become true, or the daemon dies before."""
        until = time.monotonic() + timeout_s
        while not condition():
            ended = self.process is not None and self.process.poll() is not None
            if time.monotonic() > until or (ended and not condition()):
                why = "the daemon ended" if ended else f"not within {timeout_s} s"
                pytest.fail(f"waiting until {what}: {why}\n{self.log_text()}")
            time.sleep(0.02)

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = WAIT_S) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        assert self.process is not None
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the daemon does not end\n{self.log_text()}")
        self.process = None
        return status

    def mounted(self) -> list[str]:
        """Everything that is mounted at or below the mountpoint."""
        top = str(self.mountpoint)
        return [mount.mountpoint for mount in mounts() if f"{mount.mountpoint}/".startswith(f"{top}/")]

    def clean_up(self) -> None:
        """Leave no process and no mount behind, whatever the test did."""
        for pid in processes_of(self.base):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(WAIT_S)
        for mountpoint in reversed(self.mounted()):
            with contextlib.suppress(OSError):
                unmount(mountpoint, lazy=True)
        until = time.monotonic() + WAIT_S
        while processes_of(self.base) and time.monotonic() < until:
            time.sleep(0.02)


def environment(base: Path) -> dict[str, str]:
    """For processes that must find wormfs from any directory, and must be found again by ``processes_of``."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        # Marks the whole family: workers get the environment, not the command line.
        "WORMFS_TEST_BASE": str(base),
    }


def processes_of(base: Path) -> list[int]:
    """The living daemon and worker processes of a test: those whose environment names its directory."""
    wanted = f"WORMFS_TEST_BASE={base}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                variables = Path("/proc", entry, "environ").read_bytes().split(b"\0")
                if wanted in variables and int(entry) != os.getpid():
                    found.append(int(entry))
    return found


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons in directories of their own; takes all of them down at the end."""
    made: list[Daemon] = []

    def make(backends: Backends | None = None, **settings: object) -> Daemon:
        base = tmp_path / f"daemon{len(made)}"
        base.mkdir()
        made.append(Daemon(base, backends, **settings))
        return made[-1]

    yield make
    for daemon in made:
        daemon.clean_up()
