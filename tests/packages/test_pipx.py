"""Installing with pipx, as docs/install.md says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.packages.conftest import run
from wormfs import __version__

# Building and pip take long on a busy machine.
pytestmark = pytest.mark.timeout(900)


def test_pipx_installs_the_tree_with_the_pinned_libraries(repository: Path, tmp_path: Path) -> None:
    tree = tmp_path / "wormfs"
    # A copy: a build writes into the tree.
    tree.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "config.example.yaml"):
        shutil.copy(repository / name, tree)
    shutil.copytree(repository / "wormfs", tree / "wormfs", ignore=shutil.ignore_patterns("__pycache__"))
    places = {"PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    run("pipx", "install", f"--pip-args=-c {tree}/constraints.txt", f"{tree}[ftp]", **places)
    program = tmp_path / "bin" / "wormfs"
    assert run(program, "--version") == f"wormfs, version {__version__}\n"
    (tree / "config.example.yaml").chmod(0o640)
    assert run(program, "config", "check", "--config", tree / "config.example.yaml")
    python = tmp_path / "home" / "venvs" / "wormfs" / "bin" / "python"
    listed = (
        run(python, "-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check").lower().split()
    )
    pinned = (repository / "constraints.txt").read_text().lower().splitlines()
    assert [
        line for line in listed if line.startswith(("trio==", "pyfuse3==", "pydantic==", "ftputil=="))
    ] == [
        line
        for name in ("ftputil", "pydantic", "pyfuse3", "trio")
        for line in pinned
        if line.startswith(f"{name}==")
    ]
    shutil.rmtree(tmp_path)
