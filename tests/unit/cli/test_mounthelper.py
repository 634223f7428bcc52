"""What mount(8) hands to its helper, and what the helper takes. tests/systemd mounts with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from wormfs.cli import mounthelper


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"mountpoint: {tmp_path}/mnt\nbackends: {{a: {{type: local, path: {tmp_path}/a}}}}\n")
    path.chmod(0o600)
    return path


def call(config: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        mounthelper.helper, [str(config), f"{config.parent}/mnt", "-f", *arguments], standalone_mode=False
    )
    return (done.return_value or 0) if done.exception is None else 1, str(done.exception)


def test_what_stands_in_fstab_is_taken(config: Path) -> None:
    options = "rw,_netdev,nofail,allow_other,x-systemd.automount,x-systemd.requires=a,user,noexec"
    assert call(config, "-n", "-v", "-t", "fuse.wormfs", "-o", options.removesuffix(",noexec")) == (0, "None")
    code, problem = call(config, "-o", options)
    assert code == 1 and problem.endswith("mean nothing to wormfs: noexec")
    assert call(config, "-s", "-o", options)[0] == 0


def test_a_read_only_mount_is_not_pretended(config: Path) -> None:
    assert call(config, "-o", "ro")[1].endswith("mean nothing to wormfs: ro")


def test_the_mountpoint_must_be_that_of_the_settings(config: Path) -> None:
    done = CliRunner().invoke(mounthelper.helper, [str(config), "/mnt/other", "-f"], standalone_mode=False)
    assert "put the same into both" in str(done.exception)
