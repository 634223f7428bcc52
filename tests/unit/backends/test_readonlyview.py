"""What is reached through the view cannot be written, and is otherwise the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wormfs.backends.local import readonlyview


@pytest.fixture
def view(tmp_path: Path) -> Iterator[int]:
    directory_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    view_fd = readonlyview.of(directory_fd)
    os.close(directory_fd)
    yield view_fd
    os.close(view_fd)


def test_it_is_the_same_file_and_cannot_be_written(tmp_path: Path, view: int) -> None:
    (tmp_path / "f").write_bytes(b"content")
    assert os.listdir(view) == ["f"]
    fd = os.open("f", os.O_RDONLY, dir_fd=view)
    assert os.path.samestat(os.fstat(fd), (tmp_path / "f").stat())
    assert os.read(fd, 100) == b"content"
    for again in (f"/proc/self/fd/{fd}", f"/proc/self/fd/{view}/f"):
        with pytest.raises(OSError, match="Read-only") as refused:
            os.open(again, os.O_RDWR)
        assert refused.value.errno == errno.EROFS
    with pytest.raises(OSError, match="Read-only"):
        os.open("g", os.O_WRONLY | os.O_CREAT, dir_fd=view)
    os.close(fd)
    (tmp_path / "f").write_bytes(b"elsewhere as ever")


def test_it_is_no_mount_that_anybody_sees(tmp_path: Path, view: int) -> None:
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not os.get_inheritable(view)


def test_what_is_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        readonlyview.of(99999)
