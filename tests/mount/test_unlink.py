"""unlink(2)."""

from __future__ import annotations

import errno
import os

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, as_www_data, refused, state, unchanged


@pytest.mark.row("unlink-committed")
def test_a_committed_file_stays(place: Place) -> None:
    (place / "f").write_bytes(b"record")
    with unchanged(place, place / "f"):
        with refused(errno.EPERM):
            (place / "f").unlink()
        assert as_www_data("rm", "-f", place / "f").returncode != 0
    assert place.visible() == {"f"}


@pytest.mark.row("unlink-committed")
def test_so_does_one_that_another_host_has_made(place: Place) -> None:
    place.stored(place / "f").write_bytes(b"theirs")
    with refused(errno.EPERM):
        (place / "f").unlink()
    assert place.stored(place / "f").read_bytes() == b"theirs"


@pytest.mark.row("unlink-writing")
def test_what_is_being_written_goes_and_its_writer_goes_on(place: Place) -> None:
    fd = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"one")
    (place / "f").unlink()
    assert place.visible() == set()
    (place / "f").write_bytes(b"a new file of that name")
    # POSIX would let the writer go on into nowhere; wormfs may say that the file is gone.
    with refused(errno.EPERM, errno.ENOENT, errno.EIO):
        os.write(fd, b"two")
    os.fstat(fd)
    os.close(fd)
    assert (place / "f").read_bytes() == b"a new file of that name"
    assert state(place / "f") == "committed"
    assert place.quarantined() == []


@pytest.mark.row("unlink-writing")
def test_what_settles_goes(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "f").write_bytes(b"x")
    (place / "f").unlink()
    assert place.visible() == set()
    assert not place.stored(place / "f").exists()
    with refused(errno.ENOENT):
        (place / "f").unlink()
    assert place.quarantined() == []


@pytest.mark.row("unlink-writing")
def test_a_reader_of_a_settling_file_keeps_it(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "f").write_bytes(b"x" * 100_000)
    with (place / "f").open("rb") as file:
        (place / "f").unlink()
        assert file.read() == b"x" * 100_000


def test_wrong_kinds(place: Place) -> None:
    (place / "d").mkdir()
    with refused(errno.EISDIR):
        (place / "d").unlink()
    with refused(errno.ENOENT):
        (place / "absent").unlink()
