"""The parts of the FTP driver that need no server: listings, names, replies, claims' text, options."""

from __future__ import annotations

import calendar

import pytest

from tests.conformance.drivers import make_record
from wormfs.backends.ftp import listing
from wormfs.backends.ftp.claims import decode_meta, encode_meta
from wormfs.backends.ftp.listing import Seen, Type
from wormfs.backends.ftp.names import ALL_ABILITIES, Ability, Names, needs
from wormfs.backends.ftp.options import parse
from wormfs.backends.ftp.replies import Reply, failure
from wormfs.config.secret import Secret, SecretSource
from wormfs.errors import (
    AccessDenied,
    BackendFault,
    InvalidName,
    NameTooLong,
    OutOfSpace,
    SettingsError,
    Unavailable,
    Unsupported,
)
from wormfs.model import Key

S = 1_000_000_000
NOW_NS = calendar.timegm((2026, 3, 1, 12, 0, 0)) * S
SECRET = Secret(SecretSource.INLINE, "open sesame")


# Listings


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b"type=file;size=12;modify=20260301120000;unique=8U1; a name ",
            Seen(Type.FILE, 12, NOW_NS, "8U1", b"a name "),
        ),
        (b"Type=dir;Modify=20260301120000.250; x", Seen(Type.DIRECTORY, 0, NOW_NS + S // 4, "", b"x")),
        (b"type=OS.unix=symlink;size=1; x", Seen(Type.OTHER, 1, 0, "", b"x")),
        (b"type=file;size=big;modify=yesterday; x;y", Seen(Type.FILE, 0, 0, "", b"x;y")),
        (b" leading", Seen(Type.OTHER, 0, 0, "", b"leading")),
        (b"nothing", None),
    ],
)
def test_facts(line: bytes, expected: Seen | None) -> None:
    assert listing.facts(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b"-rw-r--r--    1 0        0              12 Mar 01 11:00 two  spaces ",
            (Type.FILE, 12, b"two  spaces "),
        ),
        (b"-rw-r--r--    1 0        0              12 Mar 01  2020  leading", (Type.FILE, 12, b" leading")),
        (b"drwxr-xr-x    2 1000     1000         4096 Dec 24 18:00 dir", (Type.DIRECTORY, 4096, b"dir")),
        (b"lrwxrwxrwx    1 0        0               1 Mar 01 11:00 a -> b", (Type.OTHER, 1, b"a -> b")),
        (b"-rw-r--r--    1 0        0               1 Mar 01 11:00 a -> b", (Type.FILE, 1, b"a -> b")),
        (b"03-01-26  11:00AM       <DIR>          dos", (Type.DIRECTORY, 0, b"dos")),
        (b"total 12", None),
        (b"", None),
    ],
)
def test_lines_of_list(line: bytes, expected: tuple[Type, int, bytes] | None) -> None:
    seen = listing.list_line(line, NOW_NS)
    assert (None if seen is None else (seen.type, seen.size_bytes, seen.name)) == expected


def test_a_date_without_year_lies_in_the_past() -> None:
    line = b"-rw-r--r-- 1 0 0 1 Dec 24 18:00 x"
    seen = listing.list_line(line, NOW_NS)
    assert seen is not None
    assert seen.mtime_ns == calendar.timegm((2025, 12, 24, 18, 0, 0)) * S


def test_entries_leave_the_directory_itself_out() -> None:
    lines = [b"type=cdir; .\r\n", b"type=pdir; ..\r\n", b"type=cdir; /abs\r\n", b"type=file;size=1; x\r\n"]
    assert [seen.name for seen in listing.entries(iter(lines), mlsd=True, now_ns=NOW_NS)] == [b"x"]


@pytest.mark.parametrize("at_ns", [0, NOW_NS, 253402300799 * S])
def test_times_there_and_back(at_ns: int) -> None:
    text = listing.time_text(at_ns)
    assert text is not None
    assert listing.time_ns(text) == at_ns


def test_times_that_ftp_cannot_write() -> None:
    assert listing.time_text(-(10**20)) is None
    assert listing.time_text(10**21) is None
    assert listing.time_ns("20261301000000") is None


# Names


def test_names_that_ftp_cannot_carry() -> None:
    names = Names("archive", "/root", "utf-8")
    for name in (b"a\nb", b"a\rb", b"a\0b", b"a\xffb"):
        with pytest.raises(InvalidName, match=r"^archive"):
            names.validate(name)
    with pytest.raises(NameTooLong):
        names.validate(b"x" * 256)
    with pytest.raises(NameTooLong):
        names.checked(Key(b"/".join([b"x" * 99] * 11)))
    names.validate(b"x" * 255)


@pytest.mark.parametrize("ability", list(Ability))
def test_each_kind_of_name_is_refused_where_the_server_cannot(ability: Ability) -> None:
    names = Names("archive", "", "utf-8")
    names.validate(ability.value)
    names.abilities = ALL_ABILITIES - {ability}
    with pytest.raises(InvalidName):
        names.validate(ability.value)
    names.validate("Prüfung 1.zip".encode())


def test_an_ordinary_name_needs_nothing() -> None:
    assert needs("Prüfung_1 (2).zip".encode()) == frozenset()


def test_names_in_another_encoding() -> None:
    names = Names("archive", "/täglich", "iso8859-1")
    assert names.checked(Key("Prüfung".encode())) == "/täglich/Prüfung".encode("latin-1")
    assert names.inward(b"Pr\xfcfung") == "Prüfung".encode()
    for name in ("日本".encode(), b"\xfc"):
        with pytest.raises(InvalidName):
            names.validate(name)


def test_paths_of_the_root_and_of_hidden_places() -> None:
    names = Names("archive", "", "utf-8")
    assert names.path(b"") == b"/"
    assert names.checked(Key(b"a/b")) == b"/a/b"
    assert names.claim(Key(b"a")).startswith(b"/.wormfs/c/")
    for key in (b"a/../b", b".wormfs/x", b"a//b", b"a/.wormfs"):
        with pytest.raises(InvalidName):
            names.checked(Key(key))


# Replies


@pytest.mark.parametrize(
    ("code", "storing", "expected"),
    [
        (421, False, Unavailable),
        (426, True, Unavailable),
        (450, False, Unavailable),
        (451, False, Unavailable),
        (451, True, OutOfSpace),
        (452, True, OutOfSpace),
        (552, True, OutOfSpace),
        (530, False, AccessDenied),
        (550, False, AccessDenied),
        (553, True, AccessDenied),
        (501, False, InvalidName),
        (502, False, Unsupported),
        (500, False, BackendFault),
        (599, False, BackendFault),
    ],
)
def test_what_codes_mean(code: int, storing: bool, expected: type[Exception]) -> None:
    error = failure(Reply(code, f"{code} no\r\n\x1b[31m"), "archive", b"key", "do it", storing=storing)
    assert type(error) is expected
    assert str(error) == f"archive/key: could not do it: the server says: {code} no ?[31m"


# Claims


@pytest.mark.parametrize("key", [b"a/b", "ä".encode(), b"\xfc", b'quote"\\'])
def test_meta_there_and_back(key: bytes) -> None:
    record = make_record(b"content")
    claim = decode_meta(encode_meta(Key(key), record))
    assert (claim.key, claim.record) == (key, record)


def test_damaged_meta_is_refused() -> None:
    text = encode_meta(Key(b"a"), make_record(b"content"))
    for damaged in (b"", b"{}", text[:40], text[:-40], text.replace(b'"v":1', b'"v":9', 1), b"\xff" + text):
        with pytest.raises(BackendFault):
            decode_meta(damaged)


# Options


def test_options_that_cannot_be() -> None:
    good = {"host": "ftp.example.edu", "user": "archive", "password": SECRET}
    parsed = parse("archive", good)
    assert (parsed.server_port, parsed.directory, parsed.encoding) == (21, "", "utf-8")
    assert parse("archive", {**good, "tls": "implicit"}).server_port == 990
    assert parse("archive", {**good, "directory": "/a/b/"}).directory == "/a/b"
    for wrong in (
        {"host": ""},
        {"user": "a\nb"},
        {"password": "plain text"},
        {"tls": "sometimes"},
        {"tls": "none"},
        {"directory": "relative"},
        {"directory": "/a/../b"},
        {"directory": "/.wormfs"},
        {"encoding": "klingon"},
        {"pasword": SECRET},
    ):
        with pytest.raises(SettingsError, match=r"^archive: "):
            parse("archive", {**good, **wrong})
    assert "open sesame" not in repr(parsed)
