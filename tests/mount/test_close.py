"""close(2): the last one makes a record. More games are played in test_descriptors.py."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.daemon import Daemon
from tests.support.tools import Place, eventually, refused, state, wait_committed, works


@pytest.mark.row("close-last")
def test_the_backend_holds_it_when_close_returns(place: Place) -> None:
    for size in (1, 4096, 100_000, 3_000_000):
        path = place / f"f{size}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(fd, os.urandom(size))
        assert not place.stored(path).exists()
        os.close(fd)
        assert place.stored(path).stat().st_size == size
        assert place.stored(path).stat().st_mode & 0o222 == 0


@pytest.mark.row("close-not-last")
def test_a_duplicate_keeps_it_open(place: Place) -> None:
    fd = os.open(place / "f", os.O_WRONLY | os.O_CREAT)
    duplicate = os.dup(fd)
    os.write(fd, b"one ")
    os.close(fd)
    assert state(place / "f") == "writing"
    os.write(duplicate, b"two")
    os.close(duplicate)
    assert state(place / "f") == "committed"
    assert (place / "f").read_bytes() == b"one two"


@pytest.mark.row("close-last")
@pytest.mark.row("crash-sealed")
def test_what_the_backend_does_not_take_is_told_and_tried_again(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams={"commit_timeout": "1s"})
    daemon.start()
    place = Place(daemon, "exams", "p").make()
    fd = os.open(place / "f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"precious")
    works("chattr", "+i", place.data)  # nothing can be linked into it
    try:
        with refused(errno.EIO):
            os.close(fd)
        assert state(place / "f") == "sealed"
        assert (place / "f").read_bytes() == b"precious", "served from the spool"
        with refused(errno.EPERM):
            os.open(place / "f", os.O_WRONLY)
        daemon.clean_up()
        daemon.start()
        assert state(place / "f") == "sealed"
        assert (place / "f").read_bytes() == b"precious"
    finally:
        works("chattr", "-i", place.data)
    wait_committed(place / "f", timeout_s=60)
    assert place.stored(place / "f").read_bytes() == b"precious"


@pytest.mark.row("crash-writing")
def test_a_daemon_that_dies_while_a_file_is_written(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon()
    daemon.start()
    place = Place(daemon, "exams", "p").make()
    fd = os.open(place / "f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"half")
    daemon.clean_up()
    with refused(errno.ENOTCONN, errno.ECONNABORTED):
        os.close(fd)
    daemon.start()
    assert place.visible() == set()
    assert place.quarantined() == [("f", b"half")]
    (place / "f").write_bytes(b"whole")
    assert place.stored(place / "f").read_bytes() == b"whole"


@pytest.mark.row("empty-file")
def test_an_empty_file_waits_for_content_once(place_in: PlaceIn) -> None:
    place = place_in("slow")
    works("touch", place / "f")
    assert state(place / "f") == "settling"
    works("sh", "-c", "echo content > f", cwd=place.path)
    assert (place / "f").read_bytes() == b"content\n"


@pytest.mark.row("empty-file")
def test_touch_then_write_with_the_default_settings(place_in: PlaceIn) -> None:
    place = place_in("other")
    works("sh", "-c", "touch f; echo content > f", cwd=place.path)
    assert state(place / "f") == "committed"
    assert place.stored(place / "f").read_bytes() == b"content\n"


@pytest.mark.row("empty-file")
def test_what_stays_empty_is_committed_after_its_grace(place_in: PlaceIn) -> None:
    place = place_in("grace")
    works("touch", place / "f")
    works("touch", place / "twice")
    works("sh", "-c", ": > twice", cwd=place.path)  # the one more open
    assert state(place / "twice") == "committed"
    assert state(place / "f") == "settling"
    wait_committed(place / "f")
    assert place.stored(place / "f").read_bytes() == b""
    with refused(errno.EPERM):
        os.open(place / "f", os.O_WRONLY)


@pytest.mark.row("settle")
def test_a_settling_file_is_continued_and_then_committed(place_in: PlaceIn) -> None:
    place = place_in("settling")
    begun = time.monotonic()
    works("sh", "-c", "echo one > f; echo two >> f; echo three >> f; mv f g; chmod 640 g", cwd=place.path)
    assert time.monotonic() - begun < 2.5, "the window is too short for this machine"
    assert state(place / "g") == "settling"
    wait_committed(place / "g")
    assert place.stored(place / "g").read_bytes() == b"one\ntwo\nthree\n"
    assert place.stored(place / "g").stat().st_mode & 0o777 == 0o440
    assert place.visible() == {"g"}
    with refused(errno.EPERM):
        (place / "g").rename(place / "f")


@pytest.mark.row("settle")
def test_a_new_writer_may_start_over(place_in: PlaceIn) -> None:
    place = place_in("slow")
    (place / "f").write_bytes(b"a long first attempt")
    (place / "f").write_bytes(b"second")
    assert (place / "f").read_bytes() == b"second"


def test_thousand_small_files_leave_nothing_in_the_spool(place: Place) -> None:
    for number in range(1000):
        (place / f"f{number}").write_bytes(b"%d" % number)
    assert len(place.visible()) == 1000
    spools = place.daemon.data("exams") / ".wormfs" / "spool"

    def left() -> list[str]:
        links = [path for path in spools.glob("*/entries/*.data") if path.stat().st_nlink > 1]
        return [str(path) for path in links]

    eventually(lambda: left() == [], "the spool lets go of what is committed")
