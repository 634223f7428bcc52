"""Directories that must not lie inside each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from wormfs.config import InvalidSettings, parse


def conflicts(text: str) -> list[str]:
    try:
        parse(text, "f.yaml")
    except InvalidSettings as error:
        return [str(problem) for problem in error.problems]
    return []


def settings(*, mountpoint: str = "/mnt/worm", state: str = "/var/lib/wormfs", **backends: str) -> str:
    lines = [f"mountpoint: {mountpoint}", f"state_directory: {state}", "backends:"]
    for name, directories in backends.items():
        path, _, spool = directories.partition(" ")
        lines.append(f"  {name}: {{type: local, path: {path}{', spool: ' + spool if spool else ''}}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        settings(a="/srv/a", b="/srv/b"),
        settings(a="/srv/a", b="/srv/ab"),
        settings(a="/srv/a /srv/a/.wormfs/s"),
        settings(a="/srv/a /fast/a", b="/srv/b /fast/b"),
        settings(a="/srv/a /var/lib/wormfs/spool/a"),
        settings(a="/var/lib/wormfs/a"),
        settings(a="/mnt/worm2"),
    ],
)
def test_directories_apart_are_good(text: str) -> None:
    assert conflicts(text) == []


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (settings(mountpoint="/", a="/srv/a"), 1, "cannot be the mountpoint"),
        (settings(mountpoint="//", a="/srv/a"), 1, "cannot be the mountpoint"),
        (settings(a="/mnt/worm/a"), 4, "lies inside mountpoint ('/mnt/worm')"),
        (settings(a="/mnt"), 4, "contains mountpoint"),
        (settings(a="/"), 4, "contains mountpoint"),
        (settings(a="/mnt/worm/"), 4, "is the same as mountpoint"),
        (settings(a="/srv/a", b="/srv/a/b"), 5, "lies inside backends.a.path ('/srv/a')"),
        (settings(a="/srv/a/b", b="/srv/a"), 5, "contains backends.a.path"),
        (settings(a="/srv/a", b="/srv//a/"), 5, "is the same as backends.a.path"),
        (settings(state="/mnt/worm/s", a="/srv/a"), 2, "lies inside mountpoint"),
        (settings(state="/mnt", a="/srv/a"), 2, "contains mountpoint"),
        (
            settings(state="/srv/a/s", a="/srv/a"),
            4,
            "contains state_directory ('/srv/a/s'): it would be visible",
        ),
        (settings(a="/var/lib/wormfs/spool/a"), 4, "spools are kept there"),
        (settings(a="/srv/a /srv/a/spool"), 4, "it would be visible in the mount"),
        (settings(a="/srv/a /srv"), 4, "spools are kept there"),
        (settings(a="/srv/a /mnt/worm/x"), 4, "lies inside mountpoint"),
        (settings(a="/srv/a /srv/s", b="/srv/b /srv/s"), 5, "give each spool a directory of its own"),
        (settings(a="/srv/a", b="/srv/b /srv/a/.wormfs/b"), 5, "it would be visible"),
        (settings(a="/srv/a /var/lib/wormfs"), 4, "choose a directory below or apart from it"),
    ],
)
def test_directories_inside_each_other_are_refused(text: str, line: int, message: str) -> None:
    found = conflicts(text)
    assert found[0].startswith(f"f.yaml:{line}: ")
    assert any(message in problem for problem in found), found


def test_other_problems_do_not_hide_a_conflict() -> None:
    found = conflicts(settings(a="/mnt/worm/a") + "\nnonsense: 1\n  # \nlog_level: x\n")
    assert len(found) == 3


def test_symbolic_links_do_not_hide_a_conflict(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    found = conflicts(settings(a=str(tmp_path / "real"), b=str(tmp_path / "alias")))
    assert len(found) == 1 and "is the same as backends.a.path" in found[0]
