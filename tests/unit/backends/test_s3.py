"""The parts of the S3 driver that need no server."""

from __future__ import annotations

import dataclasses
from typing import Any

import botocore.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.backends import registry
from wormfs.backends.s3 import metadata
from wormfs.backends.s3.failures import _CODES, _STATUSES, PreconditionFailed, translated
from wormfs.backends.s3.names import Names, number_of, numbered
from wormfs.backends.s3.recent import Recent
from wormfs.errors import AccessDenied, BackendFault, InvalidName, NameTooLong, SettingsError, Unavailable
from wormfs.model import ROOT, FileAttributes, Key, Kind, ObjectInfo, Record, Retention

RECORD = Record(
    entry_id="3f" * 16,
    sha256="9f" * 32,
    size_bytes=5,
    attributes=FileAttributes(0o640, 33, 33, 1, 2),
    committed_at_ns=3,
    writer_uid=33,
    wormfs_version="0.1.0",
    retention=Retention(1_700_000_000_000_000_000, ("Fall ß, %41",)),
)


def answered(code: str, status: int) -> botocore.exceptions.ClientError:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(response, "PutObject")


# Names


def test_keys_are_prefix_and_path_exactly() -> None:
    names = Names("exams", "a/b/")
    for key in (b"x", "Prüfung 1/ä + %2e.zip".encode(), b"x" * 255):
        assert names.of(Key(key)) == "a/b/" + key.decode()
        assert names.key_of(names.of(Key(key))) == key


@pytest.mark.parametrize(
    "key", [b"..", b"a/../b", b".wormfs", b"a/.wormfs-x", b"a//b", b"/a", b"a\\b", b"a\nb", b"\xff", b"a\0"]
)
def test_names_that_no_store_is_sure_to_hold(key: bytes) -> None:
    with pytest.raises(InvalidName):
        Names("exams", "").check(Key(key))


def test_lengths_count_the_prefix_and_a_directorys_slash() -> None:
    names = Names("exams", "p" * 99 + "/")
    longest = b"/".join([b"x" * 200] * 4) + b"/" + b"x" * (1024 - 100 - 1 - 804)
    names.check(Key(longest))
    with pytest.raises(NameTooLong):
        names.check(Key(longest + b"x"))


@given(st.integers(0, 10**9))
def test_the_highest_number_comes_first(number: int) -> None:
    assert number_of("a/" + numbered(number)) == number
    assert numbered(number + 1) < numbered(number)


# Records in metadata


def test_a_record_in_metadata_is_ascii_and_comes_back() -> None:
    fields, needs_more = metadata.encode(RECORD, "more")
    assert not needs_more
    assert all(value.isascii() and " " not in value for value in fields.values())
    # Stores give keys back as they like.
    assert metadata.decode({name.title(): value for name, value in fields.items()}).record == RECORD


@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=200), max_size=12))
def test_what_does_not_fit_leaves_the_essentials(xattrs: dict[bytes, bytes]) -> None:
    record = dataclasses.replace(RECORD, attributes=dataclasses.replace(RECORD.attributes, xattrs=xattrs))
    fields, needs_more = metadata.encode(record, "more")
    assert sum(len(name) + len(value) for name, value in fields.items()) <= 2048
    kept = metadata.decode(fields)
    assert (kept.more == "more") == needs_more
    assert kept.record is not None
    assert kept.record.sha256 == record.sha256
    assert needs_more or kept.record == record


def test_damaged_metadata_is_refused() -> None:
    with pytest.raises(BackendFault):
        metadata.decode({"wormfs-record": "%7B%22v%22"})


# Errors


@pytest.mark.parametrize("code", _CODES)
def test_every_code_has_an_error_that_names_what_to_do(code: str) -> None:
    error = translated(answered(code, 400), "exams", b"a/b", "store it")
    assert type(error) is _CODES[code][0]
    assert str(error).startswith("exams/a/b: cannot store it: ")
    assert code in str(error)


@pytest.mark.parametrize("status", [*_STATUSES, 500, 502, 504, 599])
def test_a_status_without_a_known_code(status: int) -> None:
    error = translated(answered("Strange", status), "exams", None, "read it")
    assert type(error) is _STATUSES.get(status, (Unavailable, ""))[0]


def test_exceptions_of_boto3_and_sockets() -> None:
    refused = botocore.exceptions.EndpointConnectionError(endpoint_url="http://x")
    assert isinstance(translated(refused, "exams", None, "read it"), Unavailable)
    assert isinstance(translated(ConnectionResetError(), "exams", None, "read it"), Unavailable)
    assert isinstance(translated(botocore.exceptions.NoCredentialsError(), "e", None, "x"), AccessDenied)
    assert isinstance(translated(answered("PreconditionFailed", 412), "e", None, "x"), PreconditionFailed)


# Options


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bucket": ""},
        {"bucket": "b", "object_lock": "yes"},
        {"bucket": "b", "prefix": "a/../b"},
        {"bucket": "b", "prefix": ".wormfs"},
        {"bucket": "b", "access_key": "in plain text"},
        {"bucket": "b", "colour": "red"},
    ],
)
def test_impossible_options(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as raised:
        registry.create("exams", "s3", options)
    assert "in plain text" not in str(raised.value)


# What was just looked up


def test_a_moment_passes() -> None:
    now = [0.0]
    recent = Recent(lambda: now[0])
    file = ObjectInfo(Key(b"f"), Kind.FILE, 5, version="e1")
    recent.remember(file.key, file)
    recent.remember(Key(b"gone"), None)
    assert recent.holds(file)
    assert not recent.holds(dataclasses.replace(file, version="e2"))
    assert recent.absent(Key(b"gone"))
    assert not recent.absent(Key(b"never asked"))
    recent.forget(file.key)
    assert not recent.holds(file)
    now[0] = 1.5
    assert not recent.absent(Key(b"gone"))


def test_a_look_at_a_directory_frees_only_what_nobody_has_touched_since() -> None:
    now = [0.0]
    recent = Recent(lambda: now[0])
    parent, free, taken = Key(b"d"), Key(b"d/free"), Key(b"d/taken")
    for _ in range(3):
        recent.looked_up(parent, absent=True)
        assert recent.begin_look(parent) is None, "few are not worth it"
    recent.looked_up(parent, absent=True)
    look = recent.begin_look(parent)
    assert look is not None
    assert not recent.absent(free), "under way, it shows nothing"
    for _ in range(9):
        recent.looked_up(parent, absent=True)
    assert recent.begin_look(parent) is None, "one at a time"
    ours = Key(b"d/ours")
    recent.forget(ours)  # published while the listing was under way
    recent.end_look(look, {taken})
    assert recent.listed_free(free) and recent.absent(free)
    assert not recent.absent(taken)
    assert not recent.absent(ours)
    assert not recent.absent(Key(b"free")), "another directory"
    for _ in range(4):
        recent.looked_up(ROOT, absent=True)
    top = recent.begin_look(ROOT)
    assert top is not None
    recent.end_look(top, {parent})
    assert recent.absent(Key(b"free"))
    assert not recent.absent(ROOT), "which is no name in itself"
    recent.forget(free)
    assert not recent.absent(free)
    now[0] = 1.01
    assert not recent.absent(Key(b"d/other")), "a moment has passed"


def test_a_large_directory_is_not_looked_at_again() -> None:
    now = [0.0]
    recent = Recent(lambda: now[0])
    for moment in (0.0, 5.0):
        now[0] = moment
        for _ in range(5):
            recent.looked_up(Key(b"d"), absent=True)
        look = recent.begin_look(Key(b"d"))
        assert (look is not None) == (moment == 0.0)
        recent.is_large(Key(b"d"))


def test_misses_spread_over_time_are_few() -> None:
    now = [0.0]
    recent = Recent(lambda: now[0])
    for _ in range(20):
        now[0] += 0.4
        recent.looked_up(Key(b"d"), absent=True)
        assert recent.begin_look(Key(b"d")) is None
