"""Rules of the files that are committed."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

# In pieces, so that this file does not break its own rule.
_HOSTS = ["pypi" + ".org", "python" + "hosted.org", "registry.npm" + "js.org", "proxy.go" + "lang.org"]
_HOSTS += ["deb.deb" + "ian.org", "index" + "-url"]
_THIS_MACHINE = re.compile(r"(?<![\w.$}-])/wor" + r"k/|/opt/py" + "pi")
_TOP_LEVEL = {
    *(".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"),
    *(
        "benchmarks",
        "config.example.yaml",
        "constraints.txt",
        "debian",
        "docs",
        "monitoring",
        "pyproject.toml",
    ),
    *("scripts", "systemd", "tests", "wormfs"),
}


@pytest.fixture(scope="module")
def files(repository: Path) -> list[Path]:
    """What git would commit; without git (an unpacked archive), everything but what is built."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={repository}", "ls-files", "-coz", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
    )
    if listing.returncode == 0:
        names = [name.decode() for name in listing.stdout.split(b"\0") if name]
        found = [repository / name for name in names]
    else:
        built = {".git", ".venv", "var", "mnt", "__pycache__", ".hypothesis", "wormfs.egg-info"}
        found = [
            path for path in repository.rglob("*") if not built & set(path.relative_to(repository).parts)
        ]
    found = [path for path in found if path.is_file()]
    assert len(found) > 20
    return found


def test_no_file_names_a_package_registry_or_a_path_of_one_machine(files: list[Path]) -> None:
    broken = []
    for path in files:
        text = path.read_bytes().decode("utf-8", "replace")
        broken += [f"{path}: {host}" for host in _HOSTS if host in text]
        broken += [f"{path}: {match[0]}" for match in _THIS_MACHINE.finditer(text)]
    assert broken == []


def test_the_rule_on_paths_finds_them() -> None:
    assert _THIS_MACHINE.search('open("/wor' + 'k/main/x")')
    assert not _THIS_MACHINE.search("$HOME/wor" + "k/x frame/wor" + "k/x")


def test_the_top_level_holds_only_what_habit_expects(repository: Path, files: list[Path]) -> None:
    top = {path.relative_to(repository).parts[0] for path in files}
    assert top - _TOP_LEVEL - {".git"} == set()


def test_every_dependency_is_pinned(repository: Path) -> None:
    def canonical(requirement: str) -> str:
        return re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-")

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    lines = (repository / "constraints.txt").read_text().splitlines()
    pinned = {canonical(line) for line in lines if line and not line.startswith("#")}
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    assert {canonical(requirement) for requirement in wanted} - pinned == set()


def test_scripts_can_be_executed_and_are_valid_bash(repository: Path) -> None:
    directories = (repository / "scripts", repository / "debian")
    scripts = [path for directory in directories for path in directory.iterdir() if path.is_file()]
    for script in [*scripts, repository / ".ci" / "run"]:
        if script.read_bytes().startswith(b"#!/bin/bash"):
            assert script.stat().st_mode & 0o111 == 0o111, script
            assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
