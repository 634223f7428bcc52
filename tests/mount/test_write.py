"""write(2), pwrite(2): any offset, durable, refused as soon as it is known."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.tools import Place, eventually, refused, sha256, state, works


@pytest.mark.row("write")
def test_writes_in_any_order_and_of_any_size(place: Place) -> None:
    chance = random.Random(1)
    expected = bytearray(1 << 20)
    with (place / "f").open("wb", buffering=0) as file:
        for _ in range(500):
            at, size = chance.randrange(len(expected)), chance.randrange(1, 20_000)
            data = chance.randbytes(min(size, len(expected) - at))
            file.seek(at)
            file.write(data)
            expected[at : at + len(data)] = data
        file.seek(len(expected) - 1)
        file.write(bytes(expected[-1:]))
    assert (place / "f").read_bytes() == expected
    assert os.getxattr(place / "f", "user.wormfs.sha256").decode() == hashlib.sha256(expected).hexdigest()


@pytest.mark.row("write")
def test_a_hole_is_zeros(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    assert (place / "f").read_bytes() == bytes(5_000_000) + b"end"
    assert os.getxattr(place / "f", "user.wormfs.sha256").decode() == sha256(place.stored(place / "f"))


@pytest.mark.row("write")
def test_append_goes_to_the_end(place: Place) -> None:
    fd = os.open(place / "f", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    other = os.dup(fd)
    for number in range(10):
        os.write((fd, other)[number % 2], b"%d\n" % number)
    os.close(fd)
    os.close(other)
    assert (place / "f").read_text().split() == list("0123456789")


@pytest.mark.row("write")
def test_posix_fallocate_falls_back(place: Place) -> None:
    with (place / "f").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        file.write(b"begin")
    assert (place / "f").read_bytes() == b"begin" + bytes(99_995)


@pytest.mark.row("write")
def test_times_move_while_writing(place: Place) -> None:
    with (place / "f").open("wb", buffering=0) as file:
        before = os.fstat(file.fileno()).st_mtime_ns
        file.write(b"x")
        eventually(
            lambda: (file.write(b"y") or 0) > 0 and os.fstat(file.fileno()).st_mtime_ns > before,
            "the time moves",
        )


@pytest.mark.row("write")
def test_setuid_goes_when_a_file_is_written(place: Place) -> None:
    with (place / "f").open("wb", buffering=0) as file:
        file.write(b"x")
        os.fchmod(file.fileno(), 0o6755)
        file.write(b"y")
    assert (place / "f").stat().st_mode & 0o6000 == 0


@pytest.fixture
def small_disk(fresh_daemon: Callable[..., Daemon]) -> Iterator[Place]:
    """A daemon whose backend is a small ext4 in a file."""
    daemon = fresh_daemon(exams={"spool_reserve": "4MiB", "space_cache": "0s"})
    image, directory = daemon.base / "image", daemon.data("exams")
    with image.open("wb") as file:
        file.truncate(48 << 20)
    works("mkfs.ext4", "-q", "-m", "0", "-I", "1024", "-b", "4096", image)
    works("mount", "-o", "loop", image, directory)
    try:
        directory.chmod(0o777)
        daemon.start()
        yield Place(daemon, "exams", "p").make()
        daemon.clean_up()
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@pytest.mark.row("write-after-error")
@pytest.mark.row("writer-killed")
def test_no_room(small_disk: Place) -> None:
    path = small_disk / "f"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    written = 0
    with refused(errno.ENOSPC):
        while True:
            written += os.write(fd, bytes(1 << 20))
    for _ in range(3):
        with refused(errno.ENOSPC):
            os.pwrite(fd, b"x", 0)
    with refused(errno.ENOSPC):
        os.close(fd)
    eventually(lambda: not path.exists(), "the name is free")
    [(name, content)] = small_disk.wait_quarantined()
    assert (name, len(content)) == ("f", written)


@pytest.mark.row("create")
@pytest.mark.row("write-after-error")
def test_no_room_in_the_middle_of_phps_copy(small_disk: Place, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(60 << 20))
    script = "echo json_encode([@copy($argv[1], $argv[2]), error_get_last()['message']]);"
    output = works("php", "-r", script, "--", source, small_disk / "f")
    assert output.startswith("[false,"), output
    eventually(lambda: small_disk.visible() == set(), "nothing is visible")
    # What went to quarantine still fills the disk: the next create is told at once.
    with refused(errno.ENOSPC):
        os.open(small_disk / "g", os.O_WRONLY | os.O_CREAT)
    assert small_disk.visible() == set()
    assert small_disk.wait_quarantined()[0][0] == "f"


def test_a_committed_file_stays_after_all_that(small_disk: Place) -> None:
    (small_disk / "kept").write_bytes(b"kept")
    with refused(errno.ENOSPC), (small_disk / "f").open("wb") as file:
        for _ in range(60):
            file.write(bytes(1 << 20))
    assert (small_disk / "kept").read_bytes() == b"kept"
    assert state(small_disk / "kept") == "committed"
