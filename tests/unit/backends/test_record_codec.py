"""Record <-> JSON: whole for any bytes, and nothing guessed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.backends import record_codec
from wormfs.errors import BackendFault, InvalidArgument
from wormfs.model import FileAttributes, Record, Retention

RECORD = Record(
    entry_id="0" * 32,
    sha256="ab" * 32,
    size_bytes=1234,
    attributes=FileAttributes(0o644, 33, 34, -5, 10**18, {b"user.course": b"101", b"user.raw": b"\xff\0"}),
    committed_at_ns=10**18,
    writer_uid=33,
    wormfs_version="0.1.0",
    retention=Retention(10**19, ("case 7",)),
)
numbers = st.integers(0, 2**64)
times = st.integers(-(2**70), 2**70)
texts = st.text(st.characters(exclude_categories=["Cs"]))
records = st.builds(
    Record,
    entry_id=texts,
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    size_bytes=numbers,
    attributes=st.builds(
        FileAttributes,
        mode=st.integers(0, 0o7777),
        uid=numbers,
        gid=numbers,
        atime_ns=times,
        mtime_ns=times,
        xattrs=st.dictionaries(st.binary(), st.binary()),
    ),
    committed_at_ns=numbers,
    writer_uid=numbers,
    wormfs_version=texts,
    retention=st.builds(Retention, st.none() | times, st.lists(texts).map(tuple)),
)


@given(records)
def test_any_record_comes_back_as_it_was(record: Record) -> None:
    text = record_codec.encode(record)
    assert record_codec.decode(text) == record
    assert record_codec.encode(record_codec.decode(text)) == text


def test_the_text_is_plain_json() -> None:
    document = json.loads(record_codec.encode(RECORD))
    assert document["v"] == 1
    assert document["sha256"] == "ab" * 32
    assert document["mode"] == "0644"
    assert document["xattrs"] == [["user.course", "101"], ["user.raw", {"base64": "/wA="}]]


def test_a_usual_record_is_small() -> None:
    assert len(record_codec.encode(RECORD, xattrs={})) < 500


def test_text_that_is_not_unicode_is_refused() -> None:
    bad = Record("x\udc80", "ab" * 32, 1, RECORD.attributes, 1, 1, "1")
    with pytest.raises(InvalidArgument):
        record_codec.encode(bad)


@given(st.binary())
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(BackendFault):
        record_codec.decode(text)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": "1"},
        {"v": None},
        {"later": 1},
        {"sha256": "AB" * 32},
        {"sha256": "ab"},
        {"size": -1},
        {"size": True},
        {"size": 1.5},
        {"size": "1"},
        {"mode": 420},
        {"mode": "0999"},
        {"entry": None},
        {"retain_until_ns": "never"},
        {"holds": "case"},
        {"holds": [1]},
        {"xattrs": {"user.x": "1"}},
        {"xattrs": [["user.x"]]},
        {"xattrs": [["user.x", 1]]},
        {"xattrs": [["user.x", {"base64": "?"}]]},
        {"xattrs": [["user.x", "\udc80"]]},
        {"xattrs": [["user.x", "1"], ["user.x", "2"]]},
    ],
    ids=str,
)
def test_what_version_1_does_not_say_is_refused(change: dict[str, object]) -> None:
    document = json.loads(record_codec.encode(RECORD)) | change
    with pytest.raises(BackendFault):
        record_codec.decode(json.dumps(document).encode())


@pytest.mark.parametrize("field", json.loads(record_codec.encode(RECORD)))
def test_a_missing_field_is_refused(field: str) -> None:
    document = json.loads(record_codec.encode(RECORD))
    del document[field]
    with pytest.raises(BackendFault):
        record_codec.decode(json.dumps(document).encode())
