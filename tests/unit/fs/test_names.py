"""What may be a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.archive import local_backend
from wormfs.errors import InvalidName, NameTooLong, WormfsError
from wormfs.fs import names
from wormfs.model import ROOT, Key


@pytest.mark.parametrize(
    "name", [b"a", b"x" * 255, b"\xff\xfe", b"a\nb", b"-rf", b"..a", b"a.wormfs", b"\xc3\xa4", b" "]
)
def test_good_names(tmp_path: Path, name: bytes) -> None:
    assert names.new_key(local_backend(tmp_path), Key(b"d"), name) == b"d/" + name
    assert names.new_key(local_backend(tmp_path), ROOT, name) == name


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"", InvalidName),
        (b".", InvalidName),
        (b"..", InvalidName),
        (b"a/b", InvalidName),
        (b"a\0b", InvalidName),
        (b".wormfs", InvalidName),
        (b".wormfs-anything", InvalidName),
        (b"x" * 256, NameTooLong),
        (b".wormfs" + b"x" * 256, NameTooLong),
    ],
)
def test_bad_names(tmp_path: Path, name: bytes, error: type[WormfsError]) -> None:
    with pytest.raises(error):
        names.new_key(local_backend(tmp_path), ROOT, name)


def test_a_path_has_a_limit_too(tmp_path: Path) -> None:
    backend = local_backend(tmp_path)
    longest = Key(b"/".join([b"x" * 255] * 16)[: backend.traits.max_key_bytes - 4])
    names.new_key(backend, longest, b"abc")
    with pytest.raises(NameTooLong):
        names.new_key(backend, longest, b"abcd")
