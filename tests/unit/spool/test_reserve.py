"""The reserve: "no room" is said early, and the file system is not asked at every write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.spool.conftest import HandClock
from wormfs.errors import NotFound, OutOfSpace
from wormfs.spool.reserve import DEFAULT_BYTES, MEASURE_EVERY_BYTES, SpaceReserve


def mib(_total_bytes: int) -> int:
    return 1 << 20


class Disk:
    """statvfs with numbers that a test chooses; counts the calls."""

    def __init__(self, total_bytes: int, free_bytes: int) -> None:
        self.total_bytes, self.free_bytes, self.calls = total_bytes, free_bytes, 0

    def statvfs(self, _path: str | int) -> os.statvfs_result:
        self.calls += 1
        free = self.free_bytes // 4096
        return os.statvfs_result((4096, 4096, self.total_bytes // 4096, free, free, 0, 0, 0, 0, 255))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(1 << 40, 1 << 39)
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    return disk


def test_the_default_is_a_gib_or_five_percent(disk: Disk, clock: HandClock) -> None:
    assert SpaceReserve("/", clock).free_bytes() == disk.free_bytes - DEFAULT_BYTES
    disk.total_bytes, disk.free_bytes = 1000 << 20, 500 << 20
    assert SpaceReserve("/", clock).free_bytes() == (450 << 20)
    assert SpaceReserve("/", clock, lambda total: total // 10).free_bytes() == (400 << 20)
    assert SpaceReserve("/", clock, mib).free_bytes() == (499 << 20)


def test_the_file_system_is_asked_every_16_mib_or_second(disk: Disk, clock: HandClock) -> None:
    reserve = SpaceReserve("/", clock)
    for _ in range(MEASURE_EVERY_BYTES // 8192):
        reserve.check(8192)
    assert disk.calls == 1
    reserve.check(8192)
    reserve.check(8192)
    assert disk.calls == 2
    clock.seconds += 1
    reserve.check(1)
    assert disk.calls == 3


def test_the_last_byte_before_the_reserve_is_given_and_no_more(disk: Disk, clock: HandClock) -> None:
    disk.free_bytes = (1 << 20) + 8192
    reserve = SpaceReserve("/", clock, mib)
    reserve.check(4096)
    disk.free_bytes -= 4096
    reserve.check(4096)
    disk.free_bytes -= 4096
    reserve.check(0)
    with pytest.raises(OutOfSpace):
        reserve.check(1)
    with pytest.raises(OutOfSpace):
        reserve.check(1 << 40)
    disk.free_bytes += 4096
    reserve.check(4096)


def test_below_the_reserve_even_nothing_is_refused(disk: Disk, clock: HandClock) -> None:
    disk.free_bytes = 4096
    with pytest.raises(OutOfSpace):
        SpaceReserve("/", clock, mib).check(0)


def test_a_real_disk_that_fills(
    small_disk: Path, clock: HandClock, fill_disk: Callable[[Path], Path]
) -> None:
    reserve = SpaceReserve(str(small_disk), clock, mib)
    reserve.check(4096)
    ballast = fill_disk(small_disk)
    clock.seconds += 1
    with pytest.raises(OutOfSpace):
        reserve.check(4096)
    ballast.unlink()
    reserve.check(4096)


def test_a_directory_that_is_gone_is_said(tmp_path: Path, clock: HandClock) -> None:
    with pytest.raises(NotFound):
        SpaceReserve(str(tmp_path / "gone"), clock).check(1)
