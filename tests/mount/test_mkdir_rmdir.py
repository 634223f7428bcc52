"""mkdir(2), rmdir(2)."""

from __future__ import annotations

import errno
import os

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, as_www_data, refused, works


@pytest.mark.row("mkdir")
def test_a_directory_is_one_at_the_backend(place: Place) -> None:
    before = os.umask(0)
    try:
        (place / "d").mkdir(mode=0o777)
    finally:
        os.umask(before)
    stored = place.stored(place / "d")
    assert stored.is_dir() and stored.stat().st_mode & 0o777 == 0o777
    assert os.listdir(place / "d") == []
    (place / "d").rmdir()
    assert not stored.exists() and place.visible() == set()


@pytest.mark.row("mkdir")
def test_it_belongs_to_who_makes_it(place: Place) -> None:
    assert as_www_data("mkdir", "-p", "a/b/c", cwd=place.path).returncode == 0
    assert (place / "a" / "b" / "c").stat().st_uid == 33
    assert place.stored(place / "a" / "b" / "c").stat().st_uid == 33
    assert as_www_data("rmdir", "-p", "a/b/c", cwd=place.path).returncode == 0
    assert place.visible() == set()


@pytest.mark.row("mkdir")
def test_a_name_can_be_used_again_and_again(place: Place) -> None:
    for _ in range(20):
        (place / "d").mkdir()
        (place / "d").rmdir()
    (place / "d").write_bytes(b"a file now")
    assert (place / "d").read_bytes() == b"a file now"


@pytest.mark.row("mkdir")
def test_a_name_that_is_taken(place: Place, place_in: PlaceIn) -> None:
    (place / "d").mkdir()
    (place / "f").write_bytes(b"x")
    slow = place_in("slow")
    (slow / "f").write_bytes(b"x")
    for path in (place / "d", place / "f", slow / "f"):
        with refused(errno.EEXIST):
            path.mkdir()
    place.stored(place / "theirs").mkdir()
    with refused(errno.EEXIST):
        (place / "theirs").mkdir()


@pytest.mark.row("rmdir-used")
def test_a_directory_with_files_stays(place: Place, place_in: PlaceIn) -> None:
    (place / "d" / "e").mkdir(parents=True)
    (place / "d" / "e" / "f").write_bytes(b"record")
    for path in (place / "d", place / "d" / "e"):
        with refused(errno.ENOTEMPTY):
            path.rmdir()
    slow = place_in("slow")
    (slow / "d").mkdir()
    (slow / "d" / "f").write_bytes(b"on its way")
    with refused(errno.ENOTEMPTY):
        (slow / "d").rmdir()
    (slow / "d" / "f").unlink()
    (slow / "d").rmdir()


@pytest.mark.row("rmdir-used")
def test_a_directory_with_a_file_being_written_stays(place: Place) -> None:
    (place / "d").mkdir()
    with (place / "d" / "f").open("wb") as file:
        file.write(b"x")
        with refused(errno.ENOTEMPTY):
            (place / "d").rmdir()
    assert (place / "d" / "f").read_bytes() == b"x"


def test_wrong_kinds(place: Place) -> None:
    (place / "f").write_bytes(b"x")
    with refused(errno.ENOTDIR):
        (place / "f").rmdir()
    with refused(errno.ENOENT):
        (place / "absent").rmdir()
    with refused(errno.ENOTDIR):
        (place / "f" / "d").mkdir()


def test_the_working_directory_may_go(place: Place) -> None:
    (place / "d").mkdir()
    works("sh", "-c", "cd d && rmdir ../d && ! mkdir x 2>/dev/null", cwd=place.path)
    assert place.visible() == set()
