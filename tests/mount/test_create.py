"""open(2) with O_CREAT for a name that may or may not be there."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, as_www_data, eventually, refused, state, unchanged, works

NEW = os.O_CREAT | os.O_WRONLY


@pytest.mark.row("create")
def test_a_new_file_is_there_at_once_and_committed_by_close(place: Place) -> None:
    path = place / "f"
    fd = os.open(path, NEW | os.O_TRUNC, 0o640)
    assert place.visible() == {"f"}
    assert state(path) == "writing"
    assert not place.stored(path).exists()
    os.write(fd, b"content")
    os.close(fd)
    assert state(path) == "committed"
    assert path.read_bytes() == place.stored(path).read_bytes() == b"content"


@pytest.mark.row("create")
def test_mode_and_umask_decide_as_everywhere(place: Place) -> None:
    before = os.umask(0o027)
    try:
        (place / "f").write_bytes(b"x")
        (place / "d").mkdir()
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "f").stat().st_mode) == 0o440, "0640, and read-only"
    assert stat.S_IMODE((place / "d").stat().st_mode) == 0o750


@pytest.mark.row("create")
def test_a_file_belongs_to_who_makes_it(place: Place) -> None:
    done = as_www_data("sh", "-c", "echo mine > f", cwd=place.path)
    assert (done.returncode, done.stderr) == (0, "")
    found = (place / "f").stat()
    assert (found.st_uid, found.st_gid) == (33, 33)
    stored = place.stored(place / "f").stat()
    assert (stored.st_uid, stored.st_gid) == (33, 33)


@pytest.mark.row("create")
def test_a_setgid_directory_hands_its_group_down(place: Place) -> None:
    directory = place / "d"
    directory.mkdir()
    os.chown(directory, -1, 33)
    directory.chmod(0o2775)
    (directory / "f").write_bytes(b"x")
    (directory / "inner").mkdir()
    assert (directory / "f").stat().st_gid == 33
    inner = (directory / "inner").stat()
    assert (inner.st_gid, stat.S_IMODE(inner.st_mode) & stat.S_ISGID) == (33, stat.S_ISGID)


@pytest.mark.row("create")
def test_what_stands_in_the_way_is_told_at_open(place: Place) -> None:
    with refused(errno.ENOENT):
        os.open(place / "absent" / "f", NEW)
    (place / "f").write_bytes(b"x")
    with refused(errno.ENOTDIR):
        os.open(place / "f" / "g", NEW)
    (place / "d").mkdir()
    with refused(errno.EISDIR):
        os.open(place / "d", NEW)


@pytest.mark.row("create")
def test_a_directory_that_went_at_the_backend_is_told_at_open(place: Place) -> None:
    (place / "d").mkdir()
    directory_fd = os.open(place / "d", os.O_RDONLY)
    try:
        place.stored(place / "d").rmdir()
        with refused(errno.ENOENT, errno.EIO):
            os.open("f", NEW, dir_fd=directory_fd)
    finally:
        os.close(directory_fd)


@pytest.mark.row("create")
def test_others_may_not_create_in_a_closed_directory(place: Place) -> None:
    (place / "d").mkdir(mode=0o755)
    done = as_www_data("sh", "-c", "echo x > d/f", cwd=place.path)
    assert done.returncode != 0 and "Permission denied" in done.stderr
    assert os.listdir(place / "d") == []


@pytest.mark.row("create-exclusive")
def test_exclusive_create_of_a_committed_file(place: Place) -> None:
    (place / "f").write_bytes(b"first")
    with unchanged(place, place / "f"), refused(errno.EEXIST):
        os.open(place / "f", NEW | os.O_EXCL)


@pytest.mark.row("create-exclusive")
def test_exclusive_create_of_a_file_being_written(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"first")
        with refused(errno.EEXIST):
            os.open(place / "f", NEW | os.O_EXCL)
    assert (place / "f").read_bytes() == b"first"


@pytest.mark.row("create-exclusive")
def test_exclusive_create_of_a_settling_file(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "f").write_bytes(b"first")
    with refused(errno.EEXIST):
        os.open(place / "f", NEW | os.O_EXCL)
    assert (place / "f").read_bytes() == b"first"


@pytest.mark.row("create-exclusive")
def test_exclusive_create_of_a_name_that_another_host_has_made(place: Place) -> None:
    place.stored(place / "f").write_bytes(b"theirs")
    with refused(errno.EEXIST):
        os.open(place / "f", NEW | os.O_EXCL)
    assert (place / "f").read_bytes() == b"theirs"


@pytest.mark.row("create-exclusive")
@pytest.mark.row("close-last")
def test_another_host_wins_while_the_file_is_written(place: Place) -> None:
    fd = os.open(place / "f", NEW | os.O_EXCL)
    os.write(fd, b"ours")
    place.stored(place / "f").write_bytes(b"theirs")
    with refused(errno.EEXIST):
        os.close(fd)
    assert place.quarantined() == [("f", b"ours")]
    assert place.stored(place / "f").read_bytes() == b"theirs"
    assert (place / "f").read_bytes() == b"theirs"


@pytest.mark.row("create-exclusive")
def test_identical_bytes_of_another_host_are_a_success_only_without_excl(place: Place) -> None:
    for name, flags, expected in [("plain", NEW, None), ("exclusive", NEW | os.O_EXCL, errno.EEXIST)]:
        fd = os.open(place / name, flags)
        os.write(fd, b"same")
        place.stored(place / name).write_bytes(b"same")
        if expected is None:
            os.close(fd)
        else:
            with refused(expected):
                os.close(fd)
        assert (place / name).read_bytes() == b"same"
    assert place.quarantined() == []


@pytest.mark.row("create")
@pytest.mark.row("cache")
@pytest.mark.parametrize("flags", [0, os.O_EXCL, os.O_TRUNC])
def test_a_name_that_another_host_has_freed_is_free_here(place: Place, flags: int) -> None:
    place.stored(place / "f").write_bytes(b"theirs")
    assert (place / "f").stat().st_size == 6
    place.stored(place / "f").unlink()
    if flags & os.O_EXCL:  # the kernel decides, from a name that it may keep for a second
        eventually(lambda: not (place / "f").exists(), "the name is forgotten")
    fd = os.open(place / "f", NEW | flags)
    os.write(fd, b"ours")
    os.close(fd)
    assert place.stored(place / "f").read_bytes() == b"ours"


@pytest.mark.row("create")
def test_a_name_is_free_again_after_an_unlink(place: Place) -> None:
    for content in (b"one", b"two"):
        fd = os.open(place / "f", NEW | os.O_EXCL)
        os.write(fd, content)
        if content == b"one":
            (place / "f").unlink()
        os.close(fd)
    assert (place / "f").read_bytes() == b"two"
    assert works("cat", place / "f") == "two"
