"""statfs(2): each backend's own numbers. The root's are in test_root.py."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.tools import Place, works


@pytest.mark.row("statfs")
def test_the_backends_own_numbers(place: Place) -> None:
    shown, real = os.statvfs(place.path), os.statvfs(place.data)
    assert shown.f_blocks * shown.f_frsize == real.f_blocks * real.f_frsize // 4096 * 4096
    assert abs(shown.f_bavail * shown.f_frsize - real.f_bavail * real.f_frsize) < 20 << 30
    assert shown.f_namemax == 255
    assert 1 << 30 < shown.f_bavail * shown.f_frsize < 1 << 63


@pytest.mark.row("statfs")
def test_every_tool_sees_them(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(big={}, small={})
    works("mount", "-t", "tmpfs", "-o", "size=64m,mode=0777", "none", daemon.data("small"))
    try:
        daemon.start()
        path = daemon.mountpoint / "small"
        total = 64 << 20
        assert works("stat", "-f", "-c", "%b %S", path).split() == [str(total // 4096), "4096"]
        assert works("df", "-B1", "--output=size", path).split()[1] == str(total)
        assert works("df", "-B1", "--output=source", path).split()[1] == "wormfs#small"
        free = float(works("php", "-r", "echo disk_free_space($argv[1]);", "--", path))
        assert 0 < free <= total
        big = os.statvfs(daemon.mountpoint / "big")
        assert big.f_blocks * big.f_frsize != total
        daemon.clean_up()
    finally:
        works("umount", "-l", daemon.data("small"))
