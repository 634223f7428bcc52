"""rename(2), renameat2(2)."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, refused, state, unchanged

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def renameat2(source: Path, target: Path, flags: int) -> None:
    if _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@pytest.mark.row("rename-committed")
def test_a_committed_file_keeps_its_name(place: Place) -> None:
    (place / "f").write_bytes(b"record")
    (place / "d").mkdir()
    with unchanged(place, place / "f"):
        for target in (place / "g", place / "d" / "f"):
            with refused(errno.EPERM):
                (place / "f").rename(target)
            with refused(errno.EPERM):
                renameat2(place / "f", target, NOREPLACE)
    assert place.visible() == {"f", "d"}


@pytest.mark.row("rename-existing")
def test_a_name_that_exists_is_never_replaced(place: Place) -> None:
    (place / "f").write_bytes(b"record")
    (place / "g").write_bytes(b"other")
    (place / "d").mkdir()
    with unchanged(place, place / "f"), unchanged(place, place / "g"):
        with refused(errno.EEXIST):
            (place / "f").rename(place / "g")
        with refused(errno.EEXIST):
            renameat2(place / "f", place / "g", NOREPLACE)
        with (place / "new").open("wb") as file:
            file.write(b"x")
            with refused(errno.EEXIST):
                (place / "new").rename(place / "g")
    (place / "e").mkdir()
    with refused(errno.EEXIST):
        (place / "d").rename(place / "e")


@pytest.mark.row("rename-existing")
def test_nor_one_that_is_only_on_its_way(place: Place, place_in: PlaceIn) -> None:
    with (place / "one").open("wb") as one, (place / "two").open("wb") as two:
        one.write(b"1")
        two.write(b"2")
        with refused(errno.EEXIST):
            (place / "one").rename(place / "two")
    assert (place / "one").read_bytes() + (place / "two").read_bytes() == b"12"


@pytest.mark.row("rename-existing")
def test_nor_one_that_another_host_has_made(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "f").write_bytes(b"ours")
    place.stored(place / "g").write_bytes(b"theirs")
    with refused(errno.EEXIST):
        (place / "f").rename(place / "g")
    assert (place / "g").read_bytes() == b"theirs"


@pytest.mark.row("rename-flags")
@pytest.mark.parametrize("flags", [EXCHANGE, WHITEOUT, 1 << 30])
def test_other_flags(place: Place, flags: int) -> None:
    (place / "f").write_bytes(b"record")
    (place / "g").write_bytes(b"other")
    with unchanged(place, place / "f"), unchanged(place, place / "g"):
        with refused(errno.EINVAL):
            renameat2(place / "f", place / "g", flags)
        if flags != EXCHANGE:  # the kernel wants a target for that
            with refused(errno.EINVAL):
                renameat2(place / "f", place / "h", flags)


@pytest.mark.row("rename-settling")
def test_while_writing(place: Place) -> None:
    (place / "d").mkdir()
    with (place / "f").open("wb", buffering=0) as file:
        file.write(b"one ")
        (place / "f").rename(place / "d" / "g")
        assert place.visible() == {"d"}
        file.write(b"two")
        assert state(place / "d" / "g") == "writing"
    assert (place / "d" / "g").read_bytes() == b"one two"
    assert place.stored(place / "d" / "g").read_bytes() == b"one two"


@pytest.mark.row("rename-settling")
def test_within_the_settle_window(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / ".f.Xy12").write_bytes(b"content")
    inode = (place / ".f.Xy12").stat().st_ino
    (place / ".f.Xy12").rename(place / "f")
    assert place.visible() == {"f"}
    assert (place / "f").read_bytes() == b"content"
    assert (place / "f").stat().st_ino == inode
    (place / ".f.Xy12").write_bytes(b"the old name is free")
    assert place.visible() == {"f", ".f.Xy12"}


@pytest.mark.row("rename-directory")
def test_directories_only_while_they_are_empty(place: Place) -> None:
    (place / "d").mkdir(mode=0o751)
    (place / "d").rename(place / "e")
    assert place.visible() == {"e"}
    assert (place / "e").stat().st_mode & 0o777 == 0o751
    (place / "e" / "f").write_bytes(b"record")
    with unchanged(place, place / "e" / "f"), refused(errno.EPERM):
        (place / "e").rename(place / "d")


@pytest.mark.row("rename-directory")
def test_files_on_their_way_count(place: Place) -> None:
    (place / "d").mkdir()
    with (place / "d" / "f").open("wb") as file:
        file.write(b"x")
        with refused(errno.EPERM):
            (place / "d").rename(place / "e")
    assert (place / "d" / "f").read_bytes() == b"x"


def test_a_directory_into_itself(place: Place) -> None:
    (place / "d").mkdir()
    with refused(errno.EINVAL):
        (place / "d").rename(place / "d" / "e")
    assert place.visible() == {"d"}


@pytest.mark.row("rename-across")
def test_to_another_backend(place: Place, place_in: PlaceIn) -> None:
    other = place_in("other")
    (place / "f").write_bytes(b"record")
    with refused(errno.EXDEV):
        (place / "f").rename(other / "f")


def test_a_new_name_must_be_good(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "f").write_bytes(b"x")
    with refused(errno.EINVAL):
        (place / "f").rename(place / ".wormfs-f")
    with refused(errno.ENAMETOOLONG):
        (place / "f").rename(place / ("x" * 256))
    with refused(errno.ENOENT):
        (place / "f").rename(place / "absent" / "f")
    assert place.visible() == {"f"}
    assert (place / "f").read_bytes() == b"x"
