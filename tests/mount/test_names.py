"""What may be a name."""

from __future__ import annotations

import errno
import os

import pytest

from tests.support.tools import Place, refused, works

STRANGE = [
    b"blank at the end ",
    b" blank at the start",
    b"..hidden..",
    b"...",
    b"-rf",
    b"new\nline",
    b"carriage\rreturn",
    b"tab\tand \x01\x02\x1f\x7f",
    b"\x1b[31mred",
    b"quote'\"`$(id)\\",
    b"star*?[x]",
    b"con:prn|<>",
    b"\xff\xfe invalid",
    b"half \xc3",
    b"\xed\xa0\x80 surrogate",
    "Prüfung ä ö ü ß".encode(),
    "Pru\u0308fung decomposed".encode(),
    "試験 🎓".encode(),
    b"x" * 255,
    "ß".encode() * 127,
    b"wormfs",
    b".wormf",
    b"a.wormfs",
]


@pytest.mark.row("names")
@pytest.mark.parametrize("name", STRANGE, ids=repr)
def test_any_name_is_kept_exactly(place: Place, name: bytes) -> None:
    directory = os.fsencode(place.path)
    for kind, path in ((b"f", directory + b"/" + name), (b"g", directory + b"/d/" + name)):
        if kind == b"g":
            os.mkdir(directory + b"/d")
        with open(path, "xb") as file:
            file.write(name)
        with open(path, "rb") as file:
            assert file.read() == name
    assert set(os.listdir(directory)) == {name, b"d"}
    assert os.listdir(os.fsencode(place.data) + b"/d") == [name]
    with refused(errno.EEXIST):
        os.mkdir(directory + b"/" + name)


@pytest.mark.row("names")
def test_a_directory_may_be_named_as_strangely(place: Place) -> None:
    for name in STRANGE:
        path = os.path.join(os.fsencode(place.path), name)
        os.mkdir(path)
        with open(path + b"/f", "wb") as file:
            file.write(b"x")
    assert set(os.listdir(os.fsencode(place.path))) == set(STRANGE)
    assert sorted(works("find", place.path, "-type", "f", "-print0").split("\0")[1:])


@pytest.mark.row("names")
def test_too_long(place: Place) -> None:
    for name in ("x" * 256, "ß" * 128, "x" * 4000):
        with refused(errno.ENAMETOOLONG):
            (place / name).write_bytes(b"x")
        with refused(errno.ENAMETOOLONG):
            (place / name).mkdir()
        with refused(errno.ENAMETOOLONG):
            (place / name).stat()
    assert place.visible() == set()


@pytest.mark.row("names-reserved")
@pytest.mark.parametrize("name", [".wormfs", ".wormfs-x", ".wormfs.tmp", ".wormfsx"])
def test_wormfs_own_names_are_not_there(place: Place, name: str) -> None:
    for directory, data in ((place.root, place.daemon.data("exams")), (place.path, place.data)):
        if name != ".wormfs" or data == place.data:
            (data / name).mkdir()
        assert name not in os.listdir(directory)
        with refused(errno.ENOENT):
            (directory / name).stat()
        with refused(errno.ENOENT):
            os.listdir(directory / name)
        with refused(errno.EINVAL):
            (directory / name).write_bytes(b"x")
        with refused(errno.EINVAL):
            (directory / name).mkdir()
        with refused(errno.ENOENT):
            (directory / name).rmdir()
        with refused(errno.ENOENT):
            (directory / name).rename(directory / "x")
        if name != ".wormfs":
            (data / name).rmdir()
    assert place.daemon.data("exams").joinpath(".wormfs", "spool").is_dir()


@pytest.mark.row("names")
def test_as_deep_as_a_path_can_be(place: Place) -> None:
    """PATH_MAX is 4096 with the NUL, so 4095 bytes from wherever the program stands."""
    depth = 0
    before = os.getcwd()
    key_bytes = len(os.fsencode(place.path.relative_to(place.root)))
    try:
        os.chdir(place.path)
        while key_bytes + 201 + 102 < 4095:
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
            key_bytes += 201
            depth += 1
        with open("f" * 100, "xb") as file:
            file.write(b"deep")
        with open("f" * 100, "rb") as file:
            assert file.read() == b"deep"
        assert os.getxattr("f" * 100, "user.wormfs.state") == b"committed"
    finally:
        os.chdir(before)
    assert depth >= 18
    relative = "/".join(["d" * 200] * depth + ["f" * 100])
    data_fd = os.open(place.data, os.O_RDONLY)
    try:
        assert os.stat(relative, dir_fd=data_fd).st_size == 4
    finally:
        os.close(data_fd)


@pytest.mark.row("names")
def test_deeper_than_the_backend_can_hold(place: Place) -> None:
    before = os.getcwd()
    try:
        os.chdir(place.path)
        with refused(errno.ENAMETOOLONG):
            for _ in range(30):
                os.mkdir("d" * 200)
                os.chdir("d" * 200)
        with refused(errno.ENAMETOOLONG):
            open("f" * 255, "xb").close()
    finally:
        os.chdir(before)
