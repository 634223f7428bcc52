"""What is in the package, file by file."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.packages.conftest import LIBRARIES, Package, run

# Building and pip take long on a busy machine.
pytestmark = pytest.mark.timeout(900)


def test_no_file_tells_where_it_was_built(package: Package, repository: Path, tmp_path: Path) -> None:
    """Neither the source tree nor the directory of the build, which was below TMPDIR."""
    places = [str(repository), str(package.tree.parent), str(Path.home() / ".cache")]
    found = [
        (file, place)
        for file in package.files()
        if not file.is_symlink()
        for place in places
        if place.encode() in file.read_bytes()
    ]
    assert found == []


def test_everything_is_roots_and_only_root_may_change_it(package: Package) -> None:
    listed = run("dpkg-deb", "-c", package.file).splitlines()
    assert len(listed) > 1000
    assert [line for line in listed if line.split()[1] != "root/root"] == []
    # Links have no mode of their own. Neither setuid nor sticky, nor writable for others.
    modes = {line.split()[0] for line in listed if not line.startswith("l")}
    assert modes == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"}


def test_every_module_has_its_byte_code_and_it_is_never_written_again(package: Package) -> None:
    """Else root's commands would write it at run time, and removing the package would leave it behind."""
    modules = [file for file in package.files() if file.suffix == ".py"]
    assert len(modules) > 500
    for module in modules:
        compiled = module.parent / "__pycache__" / f"{module.stem}.cpython-311.pyc"
        # Bits 0 and 1: made from a hash of the source, and not compared with it.
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", compiled


def test_the_libraries_are_those_that_were_tested_together(package: Package, repository: Path) -> None:
    """Those of constraints.txt, with every option of wormfs that is not for working on it."""
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (repository / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    libraries = package.tree / LIBRARIES.lstrip("/")
    there = {
        name.lower().replace("_", "-"): version
        for name, version in (
            path.name.removesuffix(".dist-info").rsplit("-", 1) for path in libraries.glob("*.dist-info")
        )
    }
    del there["wormfs"]
    assert there.items() - pinned.items() == set()
    options = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    environment = (repository / "debian" / "environment").read_text()
    [extras] = [
        line.removeprefix("extras=") for line in environment.splitlines() if line.startswith("extras=")
    ]
    assert set(extras.split(",")) == set(options) - {"test", "dev"}


def test_the_scripts_of_the_maintainer_are_valid_for_a_plain_shell(package: Package) -> None:
    for name in ("postinst", "prerm", "postrm"):
        script = package.tree / "DEBIAN" / name
        assert subprocess.run(["dash", "-n", script], check=False).returncode == 0


def test_a_build_leaves_the_source_tree_as_it_was(package: Package, repository: Path) -> None:
    assert package.said == f"{package.file}\n"
    assert [
        name
        for name in ("wormfs.egg-info", "debian/wormfs", "debian/changelog")
        if (repository / name).exists()
    ] in (
        [],
        ["wormfs.egg-info"],  # of the environment in .venv
    )
