"""wormfs installed in a box as systemd/README.md says, its settings, and small questions to it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.box import DISK, REPOSITORY, Box
from wormfs.daemon.control import ControlClient
from wormfs.errors import Unavailable

UNIT = "wormfs.service"
CONFIG = "/etc/wormfs/config.yaml"
MOUNT = "/mnt/worm"
FTP_PORT = 2121
DATA = f"{DISK}/worm"
"""Root's and closed, as docs/quickstart.md wants it: the daemon passes it all the same."""
BIN = REPOSITORY / ".venv" / "bin"

_README = REPOSITORY / "systemd" / "README.md"
# Too slow for tests in the shipped unit. The rest of it is what is tested.
_DROP_IN = "[Service]\nRestartSec=100ms\n"


# The services do not see these; where the source tree lies in one, it is shown to them.
_HIDDEN = ("/tmp", "/var/tmp", "/home", "/root")
_TREE = f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={REPOSITORY}\n"


def prepare(root: Path) -> None:
    """The root of a box that has not booted yet: wormfs is installed, and no service of it."""
    for program in ("wormfs", "mount.fuse.wormfs"):
        (root / "usr/local/bin" / program).symlink_to(BIN / program)
    if any(REPOSITORY.is_relative_to(hidden) for hidden in _HIDDEN):
        for unit in ("wormfs", "wormfs-verify", "wormfs-expire"):
            directory = root / f"etc/systemd/system/{unit}.service.d"
            directory.mkdir(parents=True)
            (directory / "tree.conf").write_text(_TREE)


def commands_under(heading: str) -> str:
    """The commands that systemd/README.md tells under a heading."""
    section = re.split(rf"^## {heading}$", _README.read_text(), flags=re.MULTILINE)[1]
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE))


def install(box: Box) -> None:
    """Install the service as systemd/README.md says, word by word; it runs once, then it is stopped."""
    box.write(
        CONFIG, f"mountpoint: {MOUNT}\nbackends: {{exams: {{type: local, path: {DATA}/exams}}}}\n", 0o600
    )
    box.run(f"install -d {DATA}/exams")
    box.run(f"set -e; cd {REPOSITORY}; {commands_under('Installing')}")
    assert "1 of 1 backends mounted" in box.show(UNIT, "StatusText")
    box.run(f"systemctl disable -q --now {UNIT} wormfs-verify.timer")
    box.write(f"/etc/systemd/system/{UNIT}.d/quick.conf", _DROP_IN)
    box.run("systemctl daemon-reload")


class Service:
    """The installed service in a booted box."""

    def __init__(self, box: Box):
        self.box = box

    def local(self, name: str, **settings: object) -> dict[str, object]:
        """The settings of a local backend, whose directory is made as docs/quickstart.md says."""
        path = f"{DATA}/{name}"
        self.box.run(f"install -d -m 0700 {DATA}; install -d -m 0755 -o www-data -g www-data {path}")
        return {"type": "local", "path": path, **settings}

    def configure(self, backends: Mapping[str, Mapping[str, object]], **settings: object) -> None:
        content = {
            "mountpoint": MOUNT,
            "stop_timeout": "5s",
            "backends": {name: dict(backend) for name, backend in backends.items()},
            **settings,
        }
        self.box.write(CONFIG, yaml.safe_dump(content), 0o640, "root:wormfs")

    def status(self) -> dict[str, Any]:
        """What the daemon answers to ``wormfs status``; empty when none runs."""
        client = ControlClient(self.box.path("/var/lib/wormfs"))
        try:
            return client.request({"request": "status"}, timeout_s=10)
        except Unavailable:
            return {}

    def backend(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.status().get("backends", {}).get(name, {})
        return found

    def wait_ready(self, *names: str) -> None:
        for name in names:
            self.box.wait_for(
                lambda name=name: self.backend(name).get("state") == "ready", f"{name} is mounted"
            )

    def mounted(self) -> list[str]:
        """What the whole box sees mounted at or below the mountpoint."""
        lines = self.box.path("/proc/1/mounts").read_text().splitlines()
        found = [line.split()[1] for line in lines if line.split()[2] == "fuse.wormfs"]
        return sorted(found)

    def serve_ftp(self, directory: str, password: str) -> None:
        """An FTP server for the user ``archivist``, a unit of the box; listens when this returns."""
        options = {"root": directory, "user": "archivist", "password": password, "port": FTP_PORT}
        program = f"{BIN}/python -B {REPOSITORY}/tests/support/pyftpd.py {shlex.quote(json.dumps(options))}"
        self.box.run(f"mkdir -p {directory}; systemd-run -q --collect --unit=ftpserver {program}")
        self.box.wait_for(self._answers, "it serves")

    def _answers(self) -> bool:
        asked = f"exec 3<>/dev/tcp/127.0.0.1/{FTP_PORT}"
        return self.box.run(f"bash -c {shlex.quote(asked)}", check=False).returncode == 0

    def put(self, path: str, text: str, user: str = "www-data") -> None:
        """Store a file as Moodle does: PHP's copy(), by the web server's user."""
        code = f"file_put_contents('/tmp/source', {text!r});exit(copy('/tmp/source', '{path}') ? 0 : 1);"
        self.box.run(f"rm -f /tmp/source; php -r {shlex.quote(code)}", user=user)


def processes(service: Service) -> list[int]:
    """The service's processes, as this machine numbers them."""
    inside = service.box.run("cat /sys/fs/cgroup/system.slice/wormfs.service/cgroup.procs").stdout.split()
    assert inside
    return [service.box.host_pid(int(pid)) for pid in inside]


def writer(box: Box, path: str) -> subprocess.Popen[str]:
    """A program of www-data with a file open that it has begun to write; see ``finish``."""
    program = f"exec 3> {path}; printf 'first ' >&3; echo begun; read line; printf second >&3"
    program += "; exec 3>&-; echo done"
    process = box.start(program, user="www-data")
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


def finish(writing: subprocess.Popen[str]) -> None:
    out, err = writing.communicate("go on\n", timeout=30)
    assert (out, err) == ("done\n", "")


def runtime_drop_in(box: Box, line: str | None) -> None:
    """Change the unit until it is called with ``None``."""
    path = f"/run/systemd/system/{UNIT}.d/test.conf"
    if line is None:
        box.run(f"rm {path}")
    else:
        box.write(path, f"[Service]\n{line}\n")
    box.run("systemctl daemon-reload")
