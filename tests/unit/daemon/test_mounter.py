"""The mounter does what it is for, at its own place, and nothing else."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import environment
from wormfs.fuse import mounterclient
from wormfs.fuse.mounting import mounts, unmount_here


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@pytest.fixture
def mounter(tmp_path: Path, mountpoint: Path) -> Iterator[str]:
    """A running mounter, as ``wormfs mounter`` starts it; told of its readiness, not waited for by luck."""
    config = tmp_path / "config.yaml"
    # Of the rest of the settings it need not know, and secrets it could not read.
    config.write_text(
        f"mountpoint: {mountpoint}\nbackends: {{x: {{type: ftp, password: {{file: /none}}}}}}\n"
    )
    config.chmod(0o600)
    address = tmp_path / "socket"
    notify = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notify))
        manager.settimeout(20)
        command = [sys.executable, "-m", "wormfs", "mounter", "--config", str(config), str(address)]
        variables = environment(tmp_path) | {"NOTIFY_SOCKET": str(notify)}
        with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert manager.recv(1000).startswith(b"READY=1")
                yield str(address)
            finally:
                process.terminate()
                process.communicate(timeout=20)
                while mounted(mountpoint):
                    unmount_here(str(mountpoint), lazy=True)


def mounted(path: Path) -> list[tuple[str, str]]:
    return [(one.kind, one.source) for one in mounts() if one.mountpoint == str(path)]


def test_it_mounts_and_unmounts_its_own_place(mounter: str, mountpoint: Path) -> None:
    assert os.stat(mounter).st_mode & 0o777 == 0o660
    connection = mounterclient.mount(mounter, str(mountpoint), "wormfs#x")
    try:
        assert mounted(mountpoint) == [("fuse.wormfs", "wormfs#x")]
        assert not os.get_inheritable(connection)
        # It is the device: the kernel says hello on it.
        assert len(os.read(connection, 1 << 21)) > 40
        mounterclient.unmount(mounter, str(mountpoint), lazy=False)
        assert mounted(mountpoint) == []
    finally:
        os.close(connection)


@pytest.mark.parametrize(
    "path", ["", ".", "/", "/etc", "{}/a/b", "{}/..", "{}/.", "{}/", "{}x", "{}/../x", "{}/..\0", "{}/x\0"]
)
def test_no_other_place(mounter: str, mountpoint: Path, path: str) -> None:
    with pytest.raises(PermissionError):
        mounterclient.mount(mounter, path.format(mountpoint), "wormfs")
    with pytest.raises(PermissionError):
        mounterclient.unmount(mounter, path.format(mountpoint), lazy=True)


def test_no_link_leads_it_elsewhere(mounter: str, mountpoint: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    (mountpoint / "x").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        mounterclient.mount(mounter, str(mountpoint / "x"), "wormfs")
    assert mounted(elsewhere) == mounted(mountpoint / "x") == []


def test_it_mounts_below_its_own_place(mounter: str, mountpoint: Path) -> None:
    place = mountpoint / "x"
    place.mkdir()
    connection = mounterclient.mount(mounter, str(place), "wormfs#x")
    try:
        assert mounted(place) == [("fuse.wormfs", "wormfs#x")]
    finally:
        mounterclient.unmount(mounter, str(place), lazy=True)
        os.close(connection)


def test_what_others_have_mounted_there_stays(mounter: str, mountpoint: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "test", mountpoint], check=True)
    with pytest.raises(OSError) as refused:
        mounterclient.unmount(mounter, str(mountpoint), lazy=True)
    assert refused.value.errno == errno.EINVAL
    assert mounted(mountpoint) == [("tmpfs", "test")]


@pytest.mark.parametrize("message", [b"no json", b"[]", b"{}", b'{"op": "reboot", "path": "%s"}', b"\xff"])
def test_nonsense_is_refused_and_does_no_harm(mounter: str, mountpoint: Path, message: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(mounter)
        connection.send(message.replace(b"%s", os.fsencode(mountpoint)))
        assert b'"errno": 0' not in connection.recv(1000)
    assert mounted(mountpoint) == []


def test_without_a_mounter_the_error_says_who_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"the mounter at .* does not answer") as refused:
        mounterclient.mount(str(tmp_path / "socket"), "/mnt", "wormfs")
    assert refused.value.errno == errno.ENOENT
    mounterclient.raise_read_ahead(str(tmp_path / "socket"), "/mnt", 1024)
