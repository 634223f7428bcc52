"""open(2) of names that exist."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, as_www_data, python, refused, run, state, unchanged

WRITING = {
    "O_WRONLY": os.O_WRONLY,
    "O_RDWR": os.O_RDWR,
    "O_WRONLY|O_TRUNC": os.O_WRONLY | os.O_TRUNC,
    "O_WRONLY|O_APPEND": os.O_WRONLY | os.O_APPEND,
    "O_RDONLY|O_TRUNC": os.O_RDONLY | os.O_TRUNC,
    "O_WRONLY|O_CREAT": os.O_WRONLY | os.O_CREAT,
    "O_WRONLY|O_CREAT|O_TRUNC": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "O_RDWR|O_DIRECT": os.O_RDWR | os.O_DIRECT,
}


@pytest.fixture
def committed(place: Place) -> Path:
    path = place / "f"
    path.write_bytes(b"a record" * 1000)
    assert state(path) == "committed"
    return path


@pytest.mark.row("open-write-committed")
@pytest.mark.parametrize("name", WRITING)
def test_a_committed_file_is_not_opened_for_writing(place: Place, committed: Path, name: str) -> None:
    with unchanged(place, committed), refused(errno.EPERM):
        os.open(committed, WRITING[name])


@pytest.mark.row("open-write-committed")
def test_an_unprivileged_user_is_stopped_by_the_mode(place: Place, committed: Path) -> None:
    with unchanged(place, committed):
        done = as_www_data("sh", "-c", "echo x >> f", cwd=place.path)
        assert done.returncode != 0 and "Permission denied" in done.stderr


@pytest.mark.row("open-write-committed")
def test_its_own_writer_is_stopped_by_the_mode_too(place: Place) -> None:
    assert as_www_data("sh", "-c", "echo mine > f", cwd=place.path).returncode == 0
    with unchanged(place, place / "f"):
        done = as_www_data("sh", "-c", "echo x > f", cwd=place.path)
        assert done.returncode != 0 and "Permission denied" in done.stderr


@pytest.mark.row("open-write-committed")
def test_a_file_that_another_host_has_put_there_is_not_opened_for_writing(place: Place) -> None:
    stored = place.stored(place / "f")
    stored.write_bytes(b"theirs")
    stored.chmod(0o666)
    with refused(errno.EPERM, errno.EACCES):
        os.open(place / "f", os.O_WRONLY | os.O_TRUNC)
    assert stored.read_bytes() == b"theirs"


@pytest.mark.row("open-write-writing")
@pytest.mark.parametrize("name", WRITING)
def test_one_writer_at_a_time(place: Place, name: str) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"first")
        file.flush()
        with refused(errno.EBUSY):
            os.open(place / "f", WRITING[name])
    assert (place / "f").read_bytes() == b"first"


@pytest.mark.row("open-read-writing")
def test_nobody_else_reads_a_file_being_written(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"half an arch")
        file.flush()
        done = run("cat", place / "f")
        assert done.returncode != 0 and "busy" in done.stderr
        assert run("stat", "-c", "%s", place / "f").stdout == "12\n"
        assert (place / "f").read_bytes() == b"half an arch", "the creator may"
    assert run("cat", place / "f").stdout == "half an arch"


@pytest.mark.row("open-read-writing")
def test_the_creator_reads_back_through_its_own_descriptor(place: Place) -> None:
    fd = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"0123456789")
    assert os.pread(fd, 4, 3) == b"3456"
    duplicate = os.dup(fd)
    os.close(fd)
    os.pwrite(duplicate, b"XX", 4)
    assert os.pread(duplicate, 10, 0) == b"0123XX6789"
    os.close(duplicate)
    assert (place / "f").read_bytes() == b"0123XX6789"


@pytest.mark.row("open-read-committed")
def test_a_committed_file_is_read_by_many_at_once(committed: Path) -> None:
    readers = [
        python("import sys; sys.stdout.write(str(len(open(sys.argv[1], 'rb').read())))", committed)
        for _ in range(8)
    ]
    assert [reader.communicate()[0] for reader in readers] == [b"8000"] * 8


@pytest.mark.row("open-read-committed")
def test_read_at_any_place(place: Place) -> None:
    content = bytes(range(256)) * 4096
    (place / "f").write_bytes(content)
    fd = os.open(place / "f", os.O_RDONLY)
    try:
        for offset, size in [(0, 10), (4095, 4098), (len(content) - 5, 100), (len(content), 10), (10**12, 5)]:
            assert os.pread(fd, size, offset) == content[offset : offset + size]
        with refused(errno.EBADF):
            os.write(fd, b"x")
    finally:
        os.close(fd)


@pytest.mark.row("open-read-settling")
def test_a_settling_file_is_read_from_the_spool(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "f").write_bytes(b"settling")
    assert state(place / "f") == "settling"
    assert not place.stored(place / "f").exists()
    assert run("cat", place / "f").stdout == "settling"
    assert run("stat", "-c", "%s", place / "f").stdout == "8\n"


def test_open_as_another_kind(place: Place, committed: Path) -> None:
    with refused(errno.ENOTDIR):
        os.open(committed, os.O_RDONLY | os.O_DIRECTORY)
    with refused(errno.EISDIR):
        os.open(place.path, os.O_WRONLY)
    with refused(errno.ENOENT):
        os.open(place / "absent", os.O_RDONLY)
    with refused(errno.ENOENT):
        os.open(place / "absent", os.O_WRONLY)
