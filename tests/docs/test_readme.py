"""README.md and the handbook are followed literally, in a copy of the source tree.

Blocks that can be run have a mark in front of them, an HTML comment that nobody sees::

    <!-- run: background -->                 make run; the blocks below it run while it does
    <!-- run: exit 1, says "not permitted" -->
    <!-- run: after the end, exit 0 -->      after Ctrl-C
    <!-- run: below another directory, exit 0 -->   absolute paths are moved to a directory of the test
    <!-- run: in the handbook's directory, exit 0 -->   the same, in the order of ``_HANDBOOK``
    <!-- run: at the handbook's end, exit 0 -->
    <!-- run: in the box by tests/systemd/service.py -->   that file runs it, on a booted systemd
    <!-- run: against a server by tests/ftp/test_recovery.py -->
    <!-- not run: why not -->

A block has one mark or the other.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import environment, processes_of
from wormfs.fuse.mounting import mounts, unmount

WAIT_S = 60.0
_BLOCK = re.compile(
    r"(?:<!-- (?:run: (?P<mark>[^\n]*)|not run: (?P<reason>[^\n]*)) -->\n)?```sh\n(?P<text>.*?)```", re.DOTALL
)
_MOVED = ("/srv/worm", "/etc/wormfs", "/mnt/worm", "/var/lib/wormfs", "/media/usb")
_HANDBOOK = ("quickstart", "recovery", "verification", "operations")
_HERE = "in the handbook's directory"
_AT_THE_END = "at the handbook's end"
_ELSEWHERE = re.compile(r"(?:in the box|against a server) by (\S+)")
_MARKS = ("background", "exit", "after the end", "below another directory", _HERE, _AT_THE_END)


@dataclass(frozen=True)
class Block:
    """One block of commands and what is promised of it."""

    mark: str
    text: str
    reason: str = ""
    """Why it is not run."""

    @property
    def exit_code(self) -> int:
        found = re.search(r"exit (\d+)", self.mark)
        assert found, f"no exit status is promised: {self}"
        return int(found[1])

    @property
    def says(self) -> str:
        """What stands in the output."""
        found = re.search(r'says (?:"(.*)"$|(.*)$)', self.mark)
        return (found[1] or found[2]) if found else ""


def blocks(text: str) -> list[Block]:
    return [
        Block(match["mark"] or "", match["text"], match["reason"] or "") for match in _BLOCK.finditer(text)
    ]


class Tree:
    """A copy of the source tree, installed as ``scripts/install run`` would find it."""

    def __init__(self, repository: Path, base: Path):
        self.base = base
        self.path = base / "wormfs-tree"
        self.running: subprocess.Popen[bytes] | None = None
        self.log = base / "run.log"
        built = shutil.ignore_patterns(
            ".git", ".venv", "var", "mnt", "__pycache__", ".*_cache", ".hypothesis"
        )
        shutil.copytree(repository, self.path, ignore=built)
        programs = self.path / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, arguments in (("python", ""), ("wormfs", "-m wormfs")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
            program.chmod(0o755)
        stamp = "{ pwd -P; cat pyproject.toml constraints.txt scripts/install; } | sha256sum"
        installed = subprocess.run(["bash", "-c", stamp], cwd=self.path, capture_output=True, check=True)
        (self.path / ".venv" / ".installed-run").write_bytes(installed.stdout)

    def environment(self) -> dict[str, str]:
        programs = f"{self.path / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return environment(self.base) | {"PYTHONPATH": str(self.path), "PATH": programs, "LC_ALL": "C"}

    def run(self, commands: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.path,
            env=self.environment() | variables,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )

    def start(self, commands: str) -> str:
        """Run in the background, as in a terminal of its own; what it printed until it invites to stop it."""
        with self.log.open("wb") as log:
            self.running = subprocess.Popen(
                ["bash", "-c", f"exec {commands}"],
                cwd=self.path,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + WAIT_S
        while "Ctrl-C here unmounts" not in self.log.read_text():
            assert self.running.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)
        return self.log.read_text()

    def press_ctrl_c(self) -> str:
        """What a terminal does: SIGINT to the whole group. What is said last."""
        assert self.running is not None
        os.killpg(self.running.pid, signal.SIGINT)
        # make waits for the daemon and then ends by the same signal.
        assert self.running.wait(WAIT_S) == -signal.SIGINT, self.log.read_text()
        self.running = None
        return self.log.read_text().splitlines()[-1]

    def mounted(self) -> list[str]:
        return [mount.mountpoint for mount in mounts() if mount.mountpoint.startswith(f"{self.base}/")]

    def clean_up(self) -> None:
        for pid in processes_of(self.base):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.running is not None:
            self.running.wait(WAIT_S)
        for mountpoint in reversed(self.mounted()):
            with contextlib.suppress(OSError):
                unmount(mountpoint, lazy=True)
        shutil.rmtree(self.base)


@pytest.fixture
def tree(repository: Path) -> Iterator[Tree]:
    base = Path(tempfile.mkdtemp(prefix="wormfs-docs-"))
    base.chmod(0o755)  # www-data, too, is to get at the mount
    made = Tree(repository, base)
    yield made
    made.clean_up()


@pytest.fixture(scope="module")
def readme(repository: Path) -> list[Block]:
    return blocks((repository / "README.md").read_text())


def check(block: Block, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == block.exit_code, (block, done)
    assert block.says in done.stdout + done.stderr, (block, done)


def test_five_minutes(tree: Tree, readme: list[Block]) -> None:
    [first] = [block for block in readme if block.mark == "background"]
    meanwhile = [block for block in readme if block.mark.startswith("exit")]
    afterwards = [block for block in readme if block.mark.startswith("after the end")]
    assert len(meanwhile) >= 5 and len(afterwards) == 1, "the marks of README.md have changed"
    said = tree.start(first.text)
    assert f"{tree.path}/mnt/archive: mounted (local)" in said
    for block in meanwhile:
        check(block, tree.run(block.text))
    assert "refused" in tree.log.read_text(), "every refusal stands in the log"
    assert tree.press_ctrl_c().endswith("info wormfs: stopped")
    assert tree.mounted() == []
    check(afterwards[0], tree.run(afterwards[0].text))


def test_what_the_first_run_invites_to(tree: Tree) -> None:
    for round_number in (1, 2):
        tried = [line.strip() for line in tree.start("make run").splitlines() if line.startswith("  ")]
        assert len(tried) == 3, tried
        copied, refused, shown = map(tree.run, tried)
        # The second time, the name of the first is taken for good: another one is offered.
        assert copied.returncode == 0, (round_number, copied)
        assert refused.returncode == 1 and "Operation not permitted" in refused.stderr
        assert shown.returncode == 0 and "wormfs#archive" in shown.stdout
        assert tree.press_ctrl_c().endswith("info wormfs: stopped")
    assert len(list((tree.path / "var" / "archive").glob("hostname*"))) == 2


def test_a_real_archive(tree: Tree, readme: list[Block]) -> None:
    [block] = [block for block in readme if block.mark.startswith("below another directory")]

    def moved(text: str) -> str:
        return re.sub("|".join(map(re.escape, _MOVED)), lambda path: f"{tree.base}{path[0]}", text)

    example = tree.path / "config.example.yaml"
    example.write_text(moved(example.read_text()).replace("#state_directory:", "state_directory:"))
    settings = {"WORMFS_CONFIG": moved("/etc/wormfs/config.yaml")}
    check(block, tree.run(moved(block.text), **settings))
    mounted = Path(moved("/mnt/worm/exams"))
    assert mounted.owner() == "www-data"
    as_writer = "su -s /bin/sh www-data -c"
    stored = tree.run(f"{as_writer} 'cp /etc/hostname {mounted}/'")
    assert stored.returncode == 0, stored
    for around in ("ls", "rm -f", "touch"):
        done = tree.run(f"{as_writer} '{around} {moved('/srv/worm/exams')}/hostname'")
        assert "Permission denied" in done.stderr, "only root passes the directory above the files"
    assert tree.run("wormfs umount", **settings).returncode == 0
    assert tree.mounted() == []


def test_the_handbook(tree: Tree, repository: Path) -> None:
    """One installation for all pages: what the quickstart makes, the others use."""

    def moved(text: str) -> str:
        return re.sub("|".join(map(re.escape, _MOVED)), lambda path: f"{tree.base}{path[0]}", text)

    example = tree.path / "config.example.yaml"
    example.write_text(moved(example.read_text()).replace("#state_directory:", "state_directory:"))
    variables = {"WORMFS_CONFIG": moved("/etc/wormfs/config.yaml"), "HOME": str(tree.path)}
    last = []
    followed = 0
    for page in _HANDBOOK:
        for block in blocks((repository / "docs" / f"{page}.md").read_text()):
            if block.mark.startswith(_HERE):
                check(block, tree.run(moved(block.text), **variables))
                followed += 1
            elif block.mark.startswith(_AT_THE_END):
                last.append(block)
        if page == "quickstart":
            store_archives(Path(moved("/mnt/worm/exams")))
            Path(moved("/media/usb")).mkdir(parents=True)
    assert followed >= 12 and len(last) == 1, "the marks of the pages have changed"
    check(last[0], tree.run(moved(last[0].text), **variables))
    assert tree.mounted() == []


def store_archives(mounted: Path) -> None:
    """The files of which the pages speak."""
    for name in ("job-17/quiz.zip", "2026-summer/essays.zip"):
        path = mounted / name
        path.parent.mkdir()
        path.write_bytes(name.encode() * 1000)


def readable(repository: Path) -> list[Path]:
    """The pages whose blocks people type in."""
    return [
        repository / "README.md",
        repository / "systemd" / "README.md",
        *sorted((repository / "docs").glob("*.md")),
    ]


def unmarked(repository: Path, text: str) -> list[Block]:
    """Blocks of which nobody says whether they are run, or by something that is not there."""

    def bad(block: Block) -> bool:
        if not block.mark:
            return not block.reason.strip()
        if elsewhere := _ELSEWHERE.fullmatch(block.mark):
            return not (repository / elsewhere[1]).is_file()
        return not block.mark.startswith(_MARKS)

    return [block for block in blocks(text) if bad(block)]


def test_every_block_is_run_or_says_why_not(repository: Path) -> None:
    pages = readable(repository)
    assert {str(page): bad for page in pages if (bad := unmarked(repository, page.read_text()))} == {}


@pytest.mark.parametrize(
    "mark", ["", "<!-- not run:  -->", "<!-- run: somehow -->", "<!-- run: in the box by tests/gone.py -->"]
)
def test_the_rule_on_marks_finds_what_nobody_runs(repository: Path, mark: str) -> None:
    assert len(unmarked(repository, f"{mark}\n```sh\nls\n```\n")) == 1


def test_blocks_that_are_not_run_can_at_least_be_read_by_a_shell(repository: Path) -> None:
    for page in readable(repository):
        for block in blocks(page.read_text()):
            done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
            assert done.stderr == "", (page, block)
