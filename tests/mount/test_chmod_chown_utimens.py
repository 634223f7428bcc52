"""chmod(2), chown(2), utimensat(2)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, as_www_data, eventually, refused, state, unchanged

WHEN_NS = 1_000_000_000_123_456_789


def dressed(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns


@pytest.mark.row("attributes-writing")
def test_they_are_kept_in_the_record(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        os.fchown(file.fileno(), 1234, 4321)
        os.utime(file.fileno(), ns=(WHEN_NS, WHEN_NS))
        assert dressed(place / "f") == (0o600, 1234, 4321, WHEN_NS)
    assert dressed(place / "f") == (0o400, 1234, 4321, WHEN_NS)
    assert dressed(place.stored(place / "f")) == (0o400, 1234, 4321, WHEN_NS)


@pytest.mark.row("attributes-writing")
def test_in_the_settle_window(place_in: PlaceIn) -> None:
    place = place_in("settling")
    (place / "f").write_bytes(b"x")
    (place / "f").chmod(0o644)
    os.chown(place / "f", 1234, 4321)
    os.utime(place / "f", ns=(WHEN_NS, WHEN_NS))
    assert state(place / "f") == "settling"
    assert dressed(place / "f") == (0o644, 1234, 4321, WHEN_NS)
    eventually(lambda: state(place / "f") == "committed", "it settles")
    assert dressed(place / "f") == (0o444, 1234, 4321, WHEN_NS)


@pytest.mark.row("attributes-writing")
def test_setuid_goes_with_a_new_owner(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fchmod(file.fileno(), 0o6755)
        os.fchown(file.fileno(), 1234, 4321)
    assert (place / "f").stat().st_mode & 0o7777 == 0o555


@pytest.mark.row("attributes-writing")
def test_only_the_owner_may(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "f").write_bytes(b"x")
    for command in (("chmod", "777"), ("chown", "33"), ("touch", "-d", "2001-01-01")):
        done = as_www_data(*command, place / "f")
        assert done.returncode != 0, command
    assert (place / "f").stat().st_uid == 0


@pytest.fixture
def committed(place: Place) -> Path:
    path = place / "f"
    path.write_bytes(b"record")
    assert state(path) == "committed"
    return path


@pytest.mark.row("attributes-committed")
@pytest.mark.parametrize("mode", [0o664, 0o666, 0o400, 0o000, 0o555, 0o4444])
def test_the_mode_is_fixed(place: Place, committed: Path, mode: int) -> None:
    with unchanged(place, committed), refused(errno.EPERM):
        committed.chmod(mode)


@pytest.mark.row("attributes-committed")
def test_what_changes_nothing_works(place: Place, committed: Path) -> None:
    found = committed.stat()
    with unchanged(place, committed):
        committed.chmod(0o444)
        committed.chmod(0o644)  # what the writer gave and the record has
        os.chown(committed, found.st_uid, found.st_gid)
        os.chown(committed, -1, -1)
        os.utime(committed, ns=(found.st_atime_ns, found.st_mtime_ns))
        as_www_data("cat", committed)


@pytest.mark.row("attributes-committed")
def test_owner_and_times_are_fixed(place: Place, committed: Path) -> None:
    with unchanged(place, committed):
        with refused(errno.EPERM):
            os.chown(committed, 33, -1)
        with refused(errno.EPERM):
            os.chown(committed, -1, 33)
        with refused(errno.EPERM):
            os.utime(committed)
        with refused(errno.EPERM):
            os.utime(committed, ns=(WHEN_NS, WHEN_NS))


def test_directories_may_change(place: Place) -> None:
    (place / "d").mkdir()
    (place / "d").chmod(0o2750)
    os.chown(place / "d", 1234, 4321)
    os.utime(place / "d", ns=(WHEN_NS, WHEN_NS))
    assert dressed(place / "d") == (0o2750, 1234, 4321, WHEN_NS)
    assert dressed(place.stored(place / "d")) == (0o2750, 1234, 4321, WHEN_NS)
    with refused(errno.EISDIR):
        os.truncate(place / "d", 0)
