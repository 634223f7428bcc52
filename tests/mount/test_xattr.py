"""setxattr(2), getxattr(2), listxattr(2), removexattr(2)."""

from __future__ import annotations

import errno
import hashlib
import os
import re

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, refused, unchanged, wait_committed, xattrs_of


@pytest.mark.row("xattr-writing")
def test_they_are_kept(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"x")
        os.setxattr(file.fileno(), "user.course", b"algebra")
        os.setxattr(file.fileno(), "user.course", b"analysis")
        os.setxattr(file.fileno(), "user.binary", bytes(range(256)))
        os.setxattr(file.fileno(), "user.gone", b"x")
        os.setxattr(file.fileno(), "user.empty", b"")
        os.removexattr(file.fileno(), "user.gone")
        assert os.getxattr(file.fileno(), "user.course") == b"analysis"
        with refused(errno.ENODATA):
            os.removexattr(file.fileno(), "user.gone")
    expected = {"user.course": b"analysis", "user.binary": bytes(range(256)), "user.empty": b""}
    for path in (place / "f", place.stored(place / "f")):
        found = xattrs_of(path)
        assert {name: value for name, value in found.items() if "wormfs" not in name} == expected


@pytest.mark.row("xattr-writing")
def test_while_settling(place_in: PlaceIn) -> None:
    place = place_in("settling")
    (place / "f").write_bytes(b"x")
    os.setxattr(place / "f", "user.course", b"algebra")
    wait_committed(place / "f")
    assert os.getxattr(place.stored(place / "f"), "user.course") == b"algebra"


@pytest.mark.row("xattr-writing")
def test_no_more_than_every_backend_can_hold(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"x")
        os.setxattr(file.fileno(), "user.a", b"a" * 1000)
        with refused(errno.ENOSPC):
            os.setxattr(file.fileno(), "user.b", b"b" * 1100)
        os.setxattr(file.fileno(), "user.b", b"b" * 1000)
    assert len(os.getxattr(place / "f", "user.b")) == 1000
    assert place.stored(place / "f").exists()


@pytest.mark.row("xattr-writing")
def test_create_and_replace(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"x")
        with refused(errno.ENODATA):
            os.setxattr(file.fileno(), "user.a", b"1", os.XATTR_REPLACE)
        os.setxattr(file.fileno(), "user.a", b"1", os.XATTR_CREATE)
        with refused(errno.EEXIST):
            os.setxattr(file.fileno(), "user.a", b"2", os.XATTR_CREATE)
    assert os.getxattr(place / "f", "user.a") == b"1"


@pytest.mark.row("xattr-committed")
def test_they_are_fixed(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"x")
        os.setxattr(file.fileno(), "user.course", b"algebra")
    with unchanged(place, place / "f"):
        with refused(errno.EPERM):
            os.setxattr(place / "f", "user.course", b"other")
        with refused(errno.EPERM):
            os.setxattr(place / "f", "user.new", b"other")
        with refused(errno.EPERM):
            os.removexattr(place / "f", "user.course")


@pytest.mark.row("xattr-other")
@pytest.mark.parametrize("name", ["security.x", "trusted.x", "security.capability"])
def test_other_kinds_are_not_there(place: Place, place_in: PlaceIn, name: str) -> None:
    (place / "f").write_bytes(b"record")
    slow = place_in("slow")
    (slow / "f").write_bytes(b"settling")
    (place / "d").mkdir()
    for path in (place / "f", slow / "f", place / "d"):
        with refused(errno.EOPNOTSUPP):
            os.setxattr(path, name, b"\x01\x00\x00\x02" + bytes(16))
        with refused(errno.EOPNOTSUPP):
            os.getxattr(path, name)
        with refused(errno.EOPNOTSUPP):
            os.removexattr(path, name)


@pytest.mark.row("xattr-other")
def test_posix_acls_are_not_there(place: Place) -> None:
    acl = b"\x02\x00\x00\x00" + b"".join(
        tag.to_bytes(2, "little") + b"\x06\x00\xff\xff\xff\xff" for tag in (0x01, 0x04, 0x20)
    )
    with (place / "f").open("wb") as file:
        file.write(b"x")
        with refused(errno.EOPNOTSUPP):
            os.setxattr(file.fileno(), "system.posix_acl_access", acl)


@pytest.mark.row("xattr-own")
def test_what_wormfs_tells(place: Place) -> None:
    with (place / "f").open("wb") as file:
        file.write(b"content")
        file.flush()
        found = xattrs_of(place / "f")
        assert (found["user.wormfs.state"], found["user.wormfs.backend"]) == (b"writing", b"exams")
        assert "user.wormfs.sha256" not in found
    found = xattrs_of(place / "f")
    assert found["user.wormfs.state"] == b"committed"
    assert found["user.wormfs.backend"] == b"exams"
    assert found["user.wormfs.sha256"].decode() == hashlib.sha256(b"content").hexdigest()
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["user.wormfs.committed_at"])
    assert found["user.wormfs.hold"] == b""
    assert found["user.wormfs.retain_until"] == b"forever"
    assert "user.wormfs.record" not in found


@pytest.mark.row("xattr-own")
def test_nobody_sets_it(place: Place, place_in: PlaceIn) -> None:
    (place / "f").write_bytes(b"record")
    slow = place_in("slow")
    (slow / "f").write_bytes(b"settling")
    for path in (place / "f", slow / "f"):
        for name in ("state", "sha256", "record", "anything"):
            with refused(errno.EPERM):
                os.setxattr(path, f"user.wormfs.{name}", b"x")
            with refused(errno.EPERM):
                os.removexattr(path, f"user.wormfs.{name}")
    assert (place / "f").read_bytes() == b"record"


@pytest.mark.row("xattr-own")
def test_a_file_that_wormfs_did_not_write_says_so(place: Place) -> None:
    place.stored(place / "f").write_bytes(b"theirs")
    found = xattrs_of(place / "f")
    assert found["user.wormfs.state"] == b"unrecorded"
    assert "user.wormfs.sha256" not in found
    assert os.getxattr(place.path, "user.wormfs.backend") == b"exams"
