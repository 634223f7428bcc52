"""wormfs.durability: steps that a crash test can name, and changes that leave nothing half done."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wormfs import durability


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, by path, in order: the module's functions can be replaced by a test's own."""
    paths: list[str] = []

    def note(fd: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{fd}"))

    for name in ("sync_file", "sync_data", "sync_directory"):
        monkeypatch.setattr(durability, name, note)
    return paths


def crash(at: str, *steps: str) -> int:
    """The exit status of a process that passes ``steps`` with WORMFS_CRASH_AT set to ``at``."""
    code = "import sys\nfrom wormfs import durability\nfor name in sys.argv[1:]: durability.step(name)"
    environment = dict(os.environ, WORMFS_CRASH_AT=at)
    return subprocess.run(
        [sys.executable, "-c", code, *steps], env=environment, capture_output=True, check=False
    ).returncode


def test_steps_are_named_once() -> None:
    assert len(set(durability.STEPS)) == len(durability.STEPS)


def test_an_unknown_step_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match=r"local\.linkd"):
        durability.step("local.linkd")
    with pytest.raises(AssertionError, match=r"local\.linkd"):
        durability.CrashPoint("local.linkd")
    assert crash("local.linkd") == 1


def test_without_the_variable_nothing_happens() -> None:
    for name in durability.STEPS:
        durability.step(name)
    assert crash("", *durability.STEPS) == 0


def test_a_process_dies_at_the_step_and_count_asked_for() -> None:
    assert crash("local.linked", "local.prepared", "local.linked") == -signal.SIGKILL
    assert crash("local.linked:2", "local.linked", "local.prepared") == 0
    assert crash("local.linked:2", "local.linked", "local.linked") == -signal.SIGKILL


def test_every_step_in_the_code_is_listed_and_the_other_way_round(repository: Path) -> None:
    written: set[str] = set()
    for path in sorted((repository / "wormfs").rglob("*.py")):
        if path.name == "durability.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                written.add(node.value)
            # A step that is handed on as a variable is checked when it is reached.
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "durability.step"
                and isinstance(node.args[0], ast.Constant)
            ):
                assert node.args[0].value in durability.STEPS, path
    assert set(durability.STEPS) <= written


SUITES = {
    "spool": "tests/crash/test_kill.py",
    "local": "tests/crash/test_kill.py",
    "moodle": "tests/moodle/test_mounts.py",
    "moodle-erase": "tests/moodle/test_mounts.py",
    "erase": "tests/mount/test_erase_kill.py",
}
"""Where daemons are killed at the steps that begin so."""


def test_every_step_has_a_suite_that_kills_there(repository: Path) -> None:
    """Not each step is passed on each backend, so each suite takes the steps that it reaches."""
    assert {step.partition(".")[0] for step in durability.STEPS} == set(SUITES)
    for prefix, suite in SUITES.items():
        tree = ast.parse((repository / suite).read_text())
        chosen = {
            constant.value
            for node in ast.walk(tree)
            if isinstance(node, ast.comprehension) and ast.unparse(node.iter) == "durability.STEPS"
            for constant in ast.walk(node)
            if isinstance(constant, ast.Constant)
        }
        assert f"{prefix}." in chosen, f"{suite} does not walk the steps {prefix}.*"
        assert "durability.CRASH_VARIABLE" in ast.unparse(tree), f"{suite} kills nobody"


def test_nobody_imports_a_function_by_name(repository: Path) -> None:
    for path in sorted((repository / "wormfs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "wormfs.durability"), path


def test_a_file_is_replaced_as_a_whole_and_synced(tmp_path: Path, synced: list[str]) -> None:
    target = tmp_path / "entry"
    durability.write_file_durably(str(target), b"old")
    durability.write_file_durably(str(target), b"new", mode=0o640)
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["entry"]
    assert [path.split("/")[-1].split(".")[0] for path in synced] == ["entry", tmp_path.name] * 2


def test_a_file_is_written_relative_to_a_directory(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "below").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY)
    durability.write_file_durably(b"plain", b"1", directory_fd=fd)
    durability.write_file_durably("below/deep", b"2", directory_fd=fd)
    os.close(fd)
    assert (tmp_path / "plain").read_bytes() == b"1"
    assert (tmp_path / "below/deep").read_bytes() == b"2"
    assert synced[1::2] == [str(tmp_path), str(tmp_path / "below")]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "entry"
    durability.write_file_durably(str(target), b"old")

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durability, "sync_file", fail)
    with pytest.raises(OSError, match="Input/output error"):
        durability.write_file_durably(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["entry"]


def test_a_link_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"first")
    fd = os.open(tmp_path, os.O_RDONLY)
    with (tmp_path / "spooled").open("w+b") as source:
        with pytest.raises(FileExistsError):
            durability.publish_link(source.fileno(), "taken", fd)
        durability.publish_link(source.fileno(), b"free", fd)
        durability.unlink("spooled", fd)
        durability.remove_durably("free", fd)
        with pytest.raises(FileNotFoundError):
            durability.publish_link(source.fileno(), b"again", fd)
    os.close(fd)
    assert (tmp_path / "taken").read_bytes() == b"first"


def test_a_link_is_of_the_open_file_not_of_its_old_name(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with (tmp_path / "spooled").open("w+b") as source:
        source.write(b"mine")
        source.flush()
        durability.rename(tmp_path / "spooled", tmp_path / "moved")  # type: ignore[arg-type]
        (tmp_path / "spooled").write_bytes(b"not mine")
        durability.publish_link(source.fileno(), "published", fd)
    os.close(fd)
    assert (tmp_path / "published").read_bytes() == b"mine"


def test_directories_are_made_and_removed_with_their_parent_synced(tmp_path: Path, synced: list[str]) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert durability.make_directory_durably("new", 0o700, fd) is True
    assert durability.make_directory_durably("new", 0o700, fd) is False
    durability.remove_directory_durably("new", fd)
    durability.sync_directory_path(str(tmp_path))
    os.close(fd)
    assert synced == [str(tmp_path)] * 4
