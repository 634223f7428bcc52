"""link(2), symlink(2), mknod(2): one name per file, and nothing but files and directories."""

from __future__ import annotations

import errno
import os
import socket
import stat

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, refused, unchanged


@pytest.mark.row("second-name")
def test_a_committed_file_gets_no_second_name(place: Place) -> None:
    (place / "f").write_bytes(b"record")
    with unchanged(place, place / "f"), refused(errno.EPERM):
        os.link(place / "f", place / "g")
    assert place.visible() == {"f"}


@pytest.mark.row("second-name")
def test_nor_does_one_that_is_settling_or_being_written(place: Place, place_in: PlaceIn) -> None:
    slow = place_in("slow")
    (slow / "f").write_bytes(b"settling")
    with refused(errno.EPERM):
        os.link(slow / "f", slow / "g")
    with (place / "f").open("wb") as file:
        file.write(b"x")
        with refused(errno.EPERM):
            os.link(place / "f", place / "g")
        with refused(errno.EPERM, errno.EXDEV, errno.ENOENT):
            os.link(f"/proc/self/fd/{file.fileno()}", place / "g", follow_symlinks=True)
    assert place.visible() == {"f"}


@pytest.mark.row("second-name")
def test_links_between_backends(place: Place, place_in: PlaceIn) -> None:
    (place / "f").write_bytes(b"record")
    with refused(errno.EXDEV):
        os.link(place / "f", place_in("other") / "f")


@pytest.mark.row("second-name")
def test_symlinks(place: Place) -> None:
    with refused(errno.EPERM):
        (place / "s").symlink_to("f")
    assert place.visible() == set()


@pytest.mark.row("second-name")
@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG, stat.S_IFSOCK])
def test_special_files(place: Place, kind: int) -> None:
    with refused(errno.EPERM):
        os.mknod(place / "n", kind | 0o644, os.makedev(1, 3))
    assert place.visible() == set()


@pytest.mark.row("second-name")
def test_sockets(place: Place) -> None:
    fd = os.open(place.path, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener, refused(errno.EPERM):
            listener.bind(f"/proc/self/fd/{fd}/s")
    finally:
        os.close(fd)
    assert place.visible() == set()


def test_what_is_no_file_at_the_backend_is_not_served(place: Place) -> None:
    """A symbolic link in the tree below would lead out of it."""
    place.stored(place / "s").symlink_to("/etc/passwd")
    os.mkfifo(place.stored(place / "p"))
    for name in ("s", "p"):
        with refused(errno.ENOENT, errno.EIO):
            os.open(place / name, os.O_RDONLY | os.O_NONBLOCK)
        with refused(errno.EEXIST, errno.EPERM, errno.EIO):
            os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK)
    assert place.visible() == set()
    assert os.readlink(place.stored(place / "s")) == "/etc/passwd"
