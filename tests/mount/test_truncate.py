"""truncate(2), ftruncate(2)."""

from __future__ import annotations

import errno
import os

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, as_www_data, refused, sha256, unchanged


@pytest.mark.row("truncate-writing")
def test_shorter_longer_and_over(place: Place) -> None:
    with (place / "f").open("wb", buffering=0) as file:
        file.write(b"0123456789" * 100_000)
        os.ftruncate(file.fileno(), 5)
        assert os.fstat(file.fileno()).st_size == 5
        os.ftruncate(file.fileno(), 10)
        os.pwrite(file.fileno(), b"end", 10)
    assert (place / "f").read_bytes() == b"01234" + bytes(5) + b"end"
    assert os.getxattr(place / "f", "user.wormfs.sha256").decode() == sha256(place / "f")


@pytest.mark.row("truncate-writing")
def test_by_name_while_it_is_open(place: Place) -> None:
    with (place / "f").open("wb", buffering=0) as file:
        file.write(b"0123456789")
        os.truncate(place / "f", 3)
    assert (place / "f").read_bytes() == b"012"


@pytest.mark.row("truncate-writing")
def test_phps_exclusive_lock_truncates(place: Place) -> None:
    with (place / "f").open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), 0)
        file.write(b"x")
    assert (place / "f").read_bytes() == b"x"


@pytest.mark.row("truncate-committed")
@pytest.mark.parametrize("size", [0, 3, 6, 100])
def test_a_committed_file_keeps_its_length(place: Place, size: int) -> None:
    (place / "f").write_bytes(b"record")
    with unchanged(place, place / "f"):
        with refused(errno.EPERM):
            os.truncate(place / "f", size)
        done = as_www_data("truncate", "-s", str(size), place / "f")
        assert done.returncode != 0


def test_a_settling_file_is_opened_to_change_its_length(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "f").write_bytes(b"0123456789")
    with refused(errno.EPERM):
        os.truncate(place / "f", 3)
    fd = os.open(place / "f", os.O_RDWR)
    os.ftruncate(fd, 3)
    os.close(fd)
    assert (place / "f").read_bytes() == b"012"


@pytest.mark.row("write-after-error")
def test_absurd_lengths(place: Place) -> None:
    fd = os.open(place / "f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"x")
    with refused(errno.EINVAL):
        os.ftruncate(fd, -1)
    assert os.fstat(fd).st_size == 1
    # What the spool could not do makes the file one that is not whole.
    with refused(errno.EFBIG, errno.ENOSPC):
        os.ftruncate(fd, (1 << 63) - 1)
    with refused(errno.EFBIG, errno.ENOSPC):
        os.close(fd)
    assert place.visible() == set()
    assert place.quarantined() == [("f", b"x")]
