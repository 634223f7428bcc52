"""fsync(2), fdatasync(2), sync_file_range and syncfs."""

from __future__ import annotations

import os

import pytest

from tests.support.tools import Place, state, works


@pytest.mark.row("fsync")
def test_fsync_does_not_seal(place: Place) -> None:
    with (place / "f").open("wb", buffering=0) as file:
        for part in (b"one ", b"two ", b"three"):
            file.write(part)
            os.fsync(file.fileno())
            os.fdatasync(file.fileno())
            assert state(place / "f") == "writing"
    assert state(place / "f") == "committed"
    assert (place / "f").read_bytes() == b"one two three"


@pytest.mark.row("fsync")
def test_fsync_of_what_is_committed_and_of_directories(place: Place) -> None:
    (place / "f").write_bytes(b"x")
    for path in (place / "f", place.path, place.root):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    works("sync", place / "f", place.path)
    works("sync", "-f", place / "f")
