"""The Debian package, built once from this tree, and a newer version of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.box import DISK, Box

NEWER = "99.0.0"
LIBRARIES = "/usr/lib/wormfs/lib/python3.11/site-packages"
SETTINGS = "/etc/wormfs/config.yaml"
MOUNTED = "/mnt/worm/exams"
STORED = f"{DISK}/worm/exams"


@dataclass(frozen=True)
class Package:
    """A built package, unpacked as root would get it."""

    file: Path
    tree: Path
    said: str
    """What the build printed."""
    lintian: subprocess.Popen[str]
    """Its verdict, which takes its time."""

    def files(self) -> Iterator[Path]:
        return (Path(at, name) for at, _, names in os.walk(self.tree) for name in names)


def run(*command: str | Path, timeout_s: float = 800, **variables: str) -> str:
    """Run a command of this machine; its output. It must succeed."""
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def package(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    directory = tmp_path_factory.mktemp("package")
    said = run(repository / "scripts" / "deb", directory / "dist", TMPDIR=str(directory))
    [file] = (directory / "dist").iterdir()
    run("dpkg-deb", "-R", file, directory / "tree")
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", "--display-level", ">=warning", file]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True) as lintian:
        yield Package(file, directory / "tree", said, lintian)
        lintian.kill()
    # Large, and pytest would keep it for three runs.
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def newer(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same with a higher version, so that it need not be built a second time."""
    directory = tmp_path_factory.mktemp("newer")
    tree = directory / "tree"
    shutil.copytree(package.tree, tree, symlinks=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {NEWER}", control.read_text()))
    init = tree / LIBRARIES.lstrip("/") / "wormfs" / "__init__.py"
    init.write_text(re.sub(r"(?m)^__version__ = .*$", f'__version__ = "{NEWER}"', init.read_text()))
    # Byte code is not compared with its source.
    (init.parent / "__pycache__" / "__init__.cpython-311.pyc").unlink()
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, directory / "newer.deb")
    shutil.rmtree(tree)
    yield directory / "newer.deb"
    shutil.rmtree(directory)


class Host:
    """A booted system on which the package is installed, used and removed."""

    def __init__(self, box: Box):
        self.box = box

    def install(self, file: Path) -> str:
        """What was said. dpkg alone, and no new index of manual pages: three times as fast as apt."""
        return self._command(f"dpkg --no-triggers -i {self._bring(file)}")

    def apt_install(self, file: Path) -> str:
        """As an administrator does it."""
        return self._command(f"apt-get -qy install {self._bring(file)}")

    def start_upgrade(self, file: Path) -> subprocess.Popen[str]:
        return self.box.start(f"apt-get -qy install {self._bring(file)} 2>&1")

    def remove(self) -> str:
        return self._command("dpkg --no-triggers -r wormfs")

    def purge(self) -> str:
        return self._command("dpkg --no-triggers -P wormfs")

    def version(self) -> str:
        """Of the package that is fully installed; empty if none is."""
        done = self.box.run("dpkg-query -W -f '${db:Status-Status} ${Version}' wormfs", check=False)
        return done.stdout.removeprefix("installed ") if done.stdout.startswith("installed ") else ""

    def _bring(self, file: Path) -> str:
        inside = f"/tmp/{file.name}"
        if not self.box.path(inside).exists():
            self.box.copy(file, inside)
        return inside

    def _command(self, command: str) -> str:
        return self.box.run(f"{command} 2>&1", timeout_s=240).stdout

    def configure(self, **keys: str) -> None:
        """Settings of one local backend on the box's disk, over those that the package has laid there."""
        self.box.run(f"install -d -m 0700 {DISK}/worm")
        self.box.run(f"install -d -m 0750 -o www-data -g www-data {STORED}")
        own = "".join(
            f"    {key}: {value}\n" for key, value in {"type": "local", "path": STORED, **keys}.items()
        )
        # In place: owner and mode are those that the package gave it.
        self.box.path(SETTINGS).write_text(f"mountpoint: /mnt/worm\nbackends:\n  exams:\n{own}")

    def start(self) -> None:
        self.box.run("systemctl enable --now wormfs")

    def store(self, name: str, content: str) -> None:
        self.box.run(f"cat > {MOUNTED}/{name}", user="www-data", stdin=content)

    def read(self, name: str) -> str:
        return self.box.run(f"cat {MOUNTED}/{name}", user="www-data").stdout

    def mounts(self) -> list[str]:
        """Where wormfs is mounted."""
        lines = self.box.run("cat /proc/mounts").stdout.splitlines()
        return [line.split()[1] for line in lines if line.split()[2] == "fuse.wormfs"]

    def state(self) -> str:
        return self.box.show("wormfs", "ActiveState")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Box(tmp_path) as box:
        yield Host(box)
