"""readdir: streamed, steady, and able to go back."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, eventually, memory_kib, state, works

MANY = 100_000
GROWTH_KIB = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = _libc.readdir.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
for _function in (_libc.readdir, _libc.telldir, _libc.rewinddir, _libc.closedir):
    _function.argtypes = [ctypes.c_void_p]


class _Dirent(ctypes.Structure):
    _fields_ = [
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("length", ctypes.c_uint16),
        ("kind", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    ]


class Directory:
    """opendir(3) and its family."""

    def __init__(self, path: Path):
        self.stream = _libc.opendir(os.fsencode(path))
        assert self.stream

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        _libc.closedir(self.stream)

    def __iter__(self) -> Iterator[str]:
        while (name := self.next()) is not None:
            yield name

    def next(self) -> str | None:
        while found := _libc.readdir(self.stream):
            name = _Dirent.from_address(found).name
            if name not in (b".", b".."):
                return os.fsdecode(name)
        return None

    def tell(self) -> int:
        return int(_libc.telldir(self.stream))

    def seek(self, position: int) -> None:
        _libc.seekdir(self.stream, position)

    def rewind(self) -> None:
        _libc.rewinddir(self.stream)


def fill(place: Place, count: int, prefix: str = "old") -> set[str]:
    """Files that another host has made."""
    names = {f"{prefix}{number:06}" for number in range(count)}
    directory_fd = os.open(place.data, os.O_RDONLY)
    for name in names:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o444, dir_fd=directory_fd))
    os.close(directory_fd)
    return names


@pytest.mark.row("listing")
def test_a_hundred_thousand_entries(place: Place) -> None:
    names = fill(place, MANY)
    worker = place.daemon.worker_pid("exams")
    for options in ("-f", "-l"):
        before = peak = memory_kib(worker, "VmRSS")
        with subprocess.Popen(["ls", options, place.path], stdout=subprocess.PIPE, text=True) as listing:
            assert listing.stdout is not None
            shown = set()
            for line in listing.stdout:
                if (name := line.split()[-1]).startswith("old"):
                    shown.add(name)
                if len(shown) % 5000 == 0:
                    peak = max(peak, memory_kib(worker, "VmRSS"))
        assert listing.returncode == 0
        assert shown == names
        assert max(peak, memory_kib(worker, "VmRSS")) - before < GROWTH_KIB, options


@pytest.mark.row("listing")
def test_nothing_old_is_missed_or_repeated_while_files_are_added(place: Place) -> None:
    old = fill(place, 3000)
    (place / "old-committed").write_bytes(b"x")
    shown: list[str] = []
    with (place / "old-writing").open("wb") as writing, Directory(place.path) as directory:
        writing.write(b"x")
        for number, name in enumerate(directory):
            shown.append(name)
            if number % 10 == 0 and number < 3000:
                (place / f"new{number}").write_bytes(b"x")
                place.stored(place / f"theirs{number}").write_bytes(b"x")
            if number == 1500:
                writing.close()  # committed in the middle of the listing
                assert state(place / "old-writing") == "committed"
    old_shown = [name for name in shown if name.startswith("old")]
    assert sorted(old_shown) == sorted({*old, "old-committed", "old-writing"})
    assert len(shown) == len(set(shown)), "nor is anything new shown twice"


@pytest.mark.row("listing")
def test_going_back(place: Place) -> None:
    fill(place, 6000)
    with Directory(place.path) as directory:
        positions = [(directory.tell(), name) for name in directory]
        for at in (0, 1, 100, 2999, 5998, 5000, 3):
            directory.seek(positions[at][0])
            assert directory.next() == positions[at + 1][1], "the same name follows as before"
        directory.rewind()
        assert list(directory) == [name for _, name in positions]
        (place / "new").write_bytes(b"x")
        directory.rewind()
        assert set(directory) == {name for _, name in positions} | {"new"}


@pytest.mark.row("listing")
def test_two_at_once_do_not_disturb_each_other(place: Place) -> None:
    names = fill(place, 2000)
    with Directory(place.path) as one, Directory(place.path) as two:
        half = [one.next() for _ in range(1000)]
        assert set(two) == names
        assert {*half, *one} == names


@pytest.mark.row("listing")
def test_what_is_on_its_way_is_listed_with_its_attributes(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "settling").write_bytes(b"12345")
    (place / "d").mkdir()
    with (place / "writing").open("wb", buffering=0) as file:
        file.write(b"123")
        with os.scandir(place.path) as entries:
            found = {entry.name: (entry.is_dir(), entry.stat().st_size) for entry in entries}
        assert found["writing"] == (False, 3)
        assert found["settling"] == (False, 5)
        assert found["d"][0] is True


@pytest.mark.row("cache")
def test_what_another_host_does_is_seen_within_a_second(place: Place) -> None:
    (place / "d").mkdir()
    assert os.listdir(place / "d") == []
    assert not (place / "d" / "f").exists()
    stored = place.stored(place / "d")
    (stored / "f").write_bytes(b"theirs")
    begun = time.monotonic()
    eventually(lambda: (place / "d" / "f").exists() and os.listdir(place / "d") == ["f"], "it appears")
    assert (place / "d" / "f").read_bytes() == b"theirs"
    (stored / "f").unlink()
    eventually(lambda: not (place / "d" / "f").exists() and os.listdir(place / "d") == [], "it disappears")
    stored.rmdir()
    eventually(lambda: not (place / "d").exists(), "so does the directory")
    assert time.monotonic() - begun < 4


@pytest.mark.row("cache")
def test_what_this_mount_does_is_seen_at_once(place: Place) -> None:
    for number in range(50):
        path = place / f"f{number}"
        assert not path.exists()
        path.write_bytes(b"x")
        assert path.exists() and path.name in os.listdir(place.path)
        (place / f"d{number}").mkdir()
        (place / f"d{number}").rmdir()
        assert not (place / f"d{number}").exists()
    assert works("find", place.path, "-type", "f").count("\n") == 50
