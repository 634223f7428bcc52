"""A box: a real systemd, booted in half a second from an overlay of this machine's own root.

What the box changes, it changes in memory; its directory ``DISK`` lies on a real disk. It has its own
processes, network, journal and units (none of this machine's). It needs root and the packages
systemd-container and dbus::

    with Box(tmp_path) as box:
        box.write("/etc/wormfs/config.yaml", text)
        box.run("systemctl start wormfs")
        assert "mounted at" in box.journal("wormfs")
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

REPOSITORY = Path(__file__).resolve().parents[2]

DISK = "/srv"
"""In the box: lies on a real disk, outside the overlay, and so keeps what a reboot keeps."""

_BOOT_S = 60.0
_END_S = 30.0
_PAUSE_S = 0.02

_PREPARE = r"""
set -eu
work=$1
mount --make-rprivate /
# Kept here, another test's mount would go on living after its unmount. In /proc/mounts a blank is \040.
awk '$3 ~ /^fuse/ { print $2 }' /proc/mounts | tac | while read -r path; do
    umount -l "$(printf %b "$path")" || true
done
mount -t tmpfs -o mode=0755 tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
mknod -m 666 "$work/fuse" c 10 229
mknod -m 600 "$work/autofs" c 10 235
# nspawn keeps its own things there, and its group is looked for below a pure cgroup2.
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo ready
# A test run that is killed lets go of this pipe: it takes the box along.
read -r _ || true
echo 1 > "/sys/fs/cgroup/$2/cgroup.kill"
"""


class Box:
    """One booted system. Everything of it is gone when the ``with`` block ends."""

    def __init__(self, directory: Path, prepare: Callable[[Path], None] | None = None):
        """``directory``: an own one, on a disk. ``prepare`` gets the box's root before the first boot."""
        self.name = f"wormfs-box-{os.getpid()}-{secrets.token_hex(3)}"
        self.console = directory / "console.log"
        self._directory = directory
        self._work = directory / "box"
        self._prepare = prepare
        self._cgroup = _cgroup_mount() / self.name
        self._holder: subprocess.Popen[str] | None = None
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0
        """PID 1 of the box, as this machine numbers it."""

    def __enter__(self) -> Self:
        try:
            self._hold()
            self.boot()
        except BaseException:
            self.tear_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tear_down()

    # -- what is in it

    def path(self, inside: str) -> Path:
        """Where this machine's programs find a file of the box. Absolute links in it would lead astray."""
        return Path(f"/proc/{self.leader}/root", inside.lstrip("/"))

    def write(self, inside: str, content: str | bytes, mode: int = 0o644, owner: str = "") -> None:
        """Make a file, and the directories above it. ``owner``: ``USER`` or ``USER:GROUP`` of the box."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        if owner:
            self.run(f"chown {owner} {shlex.quote(inside)}")

    def copy(self, source: Path, inside: str, mode: int | None = None) -> None:
        """Copy a file of this machine into the box."""
        self.write(inside, source.read_bytes(), stat.S_IMODE(source.stat().st_mode) if mode is None else mode)

    # -- what runs in it

    def run(
        self,
        command: str,
        *,
        user: str = "",
        check: bool = True,
        timeout_s: float = 60,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the box and wait for it.

        Fails with everything it said when its exit status is not 0, unless ``check`` is off.
        """
        with self._popen(command, user, stdin) as process:
            try:
                out, err = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"{command}: not within {timeout_s} s\n{self.journal()}") from None
        if check and process.returncode:
            said = f"{command}: exit status {process.returncode}\n{out}{err}"
            raise AssertionError(f"{said}\n--- journal\n{self.journal()}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def start(self, command: str, *, user: str = "") -> subprocess.Popen[str]:
        """Start a shell command in the box; its standard streams are pipes. It ends with the box."""
        return self._popen(command, user, "")

    def _popen(self, command: str, user: str, stdin: str | None) -> subprocess.Popen[str]:
        shell = ["runuser", "-u", user, "--", "/bin/sh", "-c"] if user else ["/bin/sh", "-c"]
        return subprocess.Popen(
            ["nsenter", "-t", str(self.leader), "-a", "--", *shell, f"cd / && {command}"],
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: self._join("commands"),  # noqa: PLW1509 (no threads here)
        )

    def journal(self, unit: str = "") -> str:
        """The messages of this boot, of one unit or of all."""
        chosen = f"-u {shlex.quote(unit)}" if unit else ""
        with self._popen(f"journalctl --no-pager -b -o short-monotonic {chosen}", "", None) as process:
            return process.communicate(timeout=60)[0]

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run(f"systemctl show --value -p {name} {shlex.quote(unit)}").stdout.strip()

    def main_pid(self, unit: str) -> int:
        """The main process of a unit as this machine numbers it; 0 when it has none."""
        return self.host_pid(int(self.show(unit, "MainPID")))

    def host_pid(self, inside: int) -> int:
        """The number that this machine gives a process of the box; 0 when there is no such process."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                line = _status_field(pid, "NSpid").split()
                if len(line) > 1 and int(line[-1]) == inside:
                    return pid
        return 0

    def pids(self) -> list[int]:
        """All processes of the box, as this machine numbers them."""
        found: list[int] = []
        for directory, _, _ in os.walk(self._cgroup):
            with contextlib.suppress(OSError):
                found += map(int, Path(directory, "cgroup.procs").read_text().split())
        return found

    def wait_for(self, condition: Callable[[], object], what: str, timeout_s: float = 30) -> None:
        """Fail with the journal when ``condition`` does not become true."""
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"waiting until {what}: not within {timeout_s} s\n{self.journal()}")
            time.sleep(_PAUSE_S)

    # -- its life

    def boot(self) -> None:
        """Start it and wait until everything that starts by itself has started."""
        with self.console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                self._inside_holder(
                    "systemd-nspawn", "--quiet", "--boot", f"--directory={self._work}/root",
                    f"--machine={self.name}", "--register=no", "--keep-unit", "--private-network",
                    "--capability=all", "--console=pipe", "--link-journal=no",
                    f"--bind={self._work}/fuse:/dev/fuse", f"--bind={self._work}/autofs:/dev/autofs",
                    f"--bind={self._directory}/disk:{DISK}", *_hidden_repository(),
                    "systemd.unit=multi-user.target",
                ),
                # Without this, and without all capabilities, rules for devices are silently not enforced.
                env=os.environ | {"SYSTEMD_SECCOMP": "0"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=lambda: self._join("machine"),  # noqa: PLW1509
            )  # fmt: skip
        self._wait_host(lambda: self._find_leader() != 0, "systemd is started")
        self.leader = self._find_leader()
        self._wait_host(self.path("/run/systemd/private").exists, "systemd listens")
        # "degraded" is fine: this machine's packages may bring units that cannot work in a box.
        with self._popen("systemctl is-system-running --wait", "", None) as process:
            process.communicate(timeout=_BOOT_S)

    def reboot(self) -> None:
        """Shut down in order and boot again; what lies in the overlay and on the disk stays."""
        assert self._nspawn is not None
        self.run("systemctl reboot --no-block")
        self._nspawn.wait(120)
        self.leader = 0
        self.boot()

    def power_cycle(self) -> None:
        """Kill everything at once and boot again; what was in memory (/run, open files) is lost."""
        self._cut_off()
        self.boot()

    def tear_down(self) -> None:
        """Leave no process, mount or group behind."""
        self._cut_off()
        self._kill_all("")
        for process in (self._nspawn, self._holder):
            if process is not None:
                process.wait(_END_S)
        if self._holder is not None:
            for stream in (self._holder.stdin, self._holder.stdout):
                assert stream is not None
                stream.close()
        if self._cgroup.exists():
            _remove_group(self._cgroup)
        self._nspawn = self._holder = None
        # Not rmtree: should a mount be left, its files must not go.
        with contextlib.suppress(FileNotFoundError):
            self._work.rmdir()
        shutil.rmtree(self._directory / "disk", ignore_errors=True)

    def _hold(self) -> None:
        """The process that keeps the mount namespace with the overlay, over all boots."""
        self._cgroup.mkdir()
        for name in ("machine", "commands", "holder"):
            (self._cgroup / name).mkdir()
        self._work.mkdir(parents=True)
        (self._directory / "disk").mkdir()
        arguments = [str(self._work), self.name]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "/bin/sh", "-c", _PREPARE, "box", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: self._join("holder"),  # noqa: PLW1509
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise AssertionError("the box's overlay cannot be mounted")
        self._furnish(Path(f"/proc/{self._holder.pid}/root{self._work}/root"))

    def _furnish(self, root: Path) -> None:
        # This machine's own services shall not start there.
        for directory in ("etc/systemd/system", "etc/systemd/network", "var/log/journal"):
            shutil.rmtree(root / directory, ignore_errors=True)
            (root / directory).mkdir(parents=True)
        # As on every Debian: what fstab has with _netdev is mounted at boot.
        wants = root / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir()
        (wants / "remote-fs.target").symlink_to("/lib/systemd/system/remote-fs.target")
        (root / "etc/machine-id").write_text(secrets.token_hex(16) + "\n")
        (root / "etc/fstab").write_text("")
        (root / "etc/hostname").write_text("box\n")
        # A user's program needs a way to the source tree and its interpreter, wherever they lie.
        for parent in REPOSITORY.parents[:-1]:
            shown = root / parent.relative_to("/")
            shown.chmod(stat.S_IMODE(shown.stat().st_mode) | 0o055)
        if self._prepare is not None:
            self._prepare(root)

    def _inside_holder(self, *command: str) -> list[str]:
        assert self._holder is not None
        return ["nsenter", "-t", str(self._holder.pid), "-m", "--", *command]

    def _find_leader(self) -> int:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise AssertionError(f"the box ended: {self.console.read_text(errors='replace')}")
        for child in _children(self._nspawn.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return child
        return 0

    def _wait_host(self, condition: Callable[[], object], what: str) -> None:
        until = time.monotonic() + _BOOT_S
        while not condition():
            if time.monotonic() > until:
                said = self.console.read_text(errors="replace")
                raise AssertionError(f"waiting until {what}: not within {_BOOT_S} s\n{said}")
            time.sleep(_PAUSE_S)

    def _join(self, group: str) -> None:
        """In the child: be part of one of the box's groups, so that nothing of it is missed at the end."""
        (self._cgroup / group / "cgroup.procs").write_text("0")

    def _cut_off(self) -> None:
        """Kill what runs, each before the parent that has to reap it."""
        self._kill_all("commands")
        with contextlib.suppress(OSError):
            _wait_empty(self._cgroup / "commands")
        if self.leader:
            os.kill(self.leader, signal.SIGKILL)
            assert self._nspawn is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(_END_S)
        self._kill_all("machine")
        self.leader = 0

    def _kill_all(self, group: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._cgroup / group / "cgroup.kill").write_text("1")


def _hidden_repository() -> list[str]:
    """nspawn puts file systems of its own over these; a source tree there is shown all the same."""
    hidden = any(REPOSITORY.is_relative_to(path) for path in ("/tmp", "/run", "/dev"))
    return [f"--bind-ro={REPOSITORY}"] if hidden else []


def _cgroup_mount() -> Path:
    """Where this machine has its cgroup2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            return Path(before.split()[4])
    raise AssertionError("this machine has no cgroup2 mounted")


def _wait_empty(group: Path) -> None:
    until = time.monotonic() + _END_S
    while "populated 0" not in (group / "cgroup.events").read_text() and time.monotonic() < until:
        time.sleep(_PAUSE_S)


def _remove_group(group: Path) -> None:
    """Remove it with all below; its processes are killed and on their way out."""
    until = time.monotonic() + _END_S
    while True:
        try:
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)


def _children(pid: int) -> Iterable[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _status_field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2]
    return ""


def stop_process(pid: int) -> None:
    """SIGSTOP: it hangs, and cannot notice."""
    os.kill(pid, signal.SIGSTOP)
