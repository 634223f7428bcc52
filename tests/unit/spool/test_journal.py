"""The journal's text: everything that can be said comes back, and nothing else is believed."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wormfs.errors import JournalError
from wormfs.model import FileAttributes, Key, Record, Retention
from wormfs.spool import journal
from wormfs.spool.journal import EntryRecord, decode, encode, payload_bound
from wormfs.worm.lifecycle import EntryState, allowed

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
INT32 = st.integers(0, (1 << 32) - 1)
SIZES = st.integers(0, (1 << 63) - 1)
HEX = "0123456789abcdef"
IDS = st.text(HEX, min_size=16, max_size=16).flatmap(
    lambda a: st.text(HEX, min_size=16, max_size=16).map(lambda b: f"{a}-{b}")
)
DIGESTS = st.text(HEX, min_size=64, max_size=64)
COMPONENTS = st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name))
KEYS = st.lists(COMPONENTS, min_size=1, max_size=16).map(b"/".join).filter(lambda key: len(key) <= 4095)
NOTES = st.text(st.characters(codec="utf-8"), max_size=8)
XATTRS = st.dictionaries(st.binary(min_size=1, max_size=255), st.binary(max_size=400), max_size=8)


@st.composite
def attributes(draw: st.DrawFn) -> FileAttributes:
    return FileAttributes(
        draw(st.integers(0, 0o7777)), draw(INT32), draw(INT32), draw(INT64), draw(INT64), draw(XATTRS)
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[journal.Transition, ...]:
    state = EntryState.WRITING
    history = [(state, draw(INT64), draw(NOTES))]
    for _ in range(draw(st.integers(0, journal.HISTORY_LIMIT - 1))):
        before = state
        state = draw(st.sampled_from([s for s in EntryState if allowed(before, s)]))
        history.append((state, draw(INT64), draw(NOTES)))
    return tuple(history)


@st.composite
def entries(draw: st.DrawFn) -> EntryRecord:
    history = draw(histories())
    entry_id, size, digest = draw(IDS), draw(SIZES), draw(DIGESTS)
    own = draw(attributes())
    record = Record(
        entry_id=entry_id,
        sha256=digest,
        size_bytes=size,
        attributes=draw(st.sampled_from([own, replace(own, mode=own.mode & 0o555), draw(attributes())])),
        committed_at_ns=draw(INT64),
        writer_uid=draw(INT32),
        wormfs_version=draw(NOTES),
        retention=Retention(draw(st.none() | INT64), tuple(draw(st.lists(st.text(max_size=20), max_size=3)))),
    )
    state = history[-1][0]
    must = state in (EntryState.SEALED, EntryState.COMMITTED)
    return EntryRecord(
        entry_id=entry_id,
        state=state,
        key=Key(draw(KEYS)),
        size_bytes=size,
        sha256=digest if must else draw(st.none() | st.just(digest)),
        attributes=own,
        writer_uid=draw(INT32),
        writer_pid=draw(INT32),
        created_at_ns=draw(INT64),
        settle_until_ns=draw(st.none() | INT64),
        record=record if must else draw(st.none() | st.just(record)),
        history=history,
        last_error=draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=30)),
        data_name=journal.data_name(draw(IDS)),
    )


def plain_entry() -> EntryRecord:
    entry_id = "17f0c0ffee000000-00000000deadbeef"
    own = FileAttributes(0o644, 33, 33, 1, 2, {b"user.a": b"b"})
    return EntryRecord(
        entry_id=entry_id,
        state=EntryState.SEALED,
        key=Key(b"job-1/a.tgz"),
        size_bytes=4,
        sha256="ab" * 32,
        attributes=own,
        writer_uid=33,
        writer_pid=1,
        created_at_ns=1,
        settle_until_ns=None,
        record=Record(entry_id, "ab" * 32, 4, own, 5, 33, "1.0"),
        history=((EntryState.WRITING, 1, ""), (EntryState.SEALED, 2, "closed")),
        last_error=None,
        data_name=journal.data_name(entry_id),
    )


@given(entries())
@settings(max_examples=150, deadline=None)
def test_every_entry_comes_back_as_it_was(entry: EntryRecord) -> None:
    payload = encode(entry)
    assert decode(payload) == entry
    assert encode(decode(payload)) == payload
    assert journal.decode_readable(json.loads(journal.readable_text(journal.encode_readable(entry)))) == entry


@given(entries(), st.text(max_size=2000), st.text(max_size=2000))
@settings(max_examples=80, deadline=None)
def test_a_later_state_never_outgrows_the_room_asked_for_at_the_start(
    entry: EntryRecord, note: str, error: str
) -> None:
    same = entry.attributes
    record = entry.record and replace(entry.record, attributes=same, retention=Retention())
    entry = replace(entry, record=record)
    early = replace(
        entry, state=EntryState.WRITING, size_bytes=0, sha256=None, record=None, history=(), last_error=None,
        settle_until_ns=None,
    )  # fmt: skip
    bound = payload_bound(early)
    noisy = tuple((state, at_ns, note) for state, at_ns, _ in entry.history)
    while len(noisy) < 60:
        noisy = (noisy[0], *noisy)
    late = replace(entry, history=noisy, last_error=error)
    assert len(encode(late)) <= bound
    decode(encode(late))


def test_the_bound_holds_at_its_worst_for_short_and_long_names() -> None:
    for key in (b"\xc3\xa9" * 383, b"\xf0\x9f\x98\x80" * 190, b"\x01" * 767, b'"' * 767, b"\xff" * 4095):
        extreme = FileAttributes(
            0o7777, (1 << 32) - 1, (1 << 32) - 1, -(1 << 63), -(1 << 63), {b"user.x": b"\x00" * 60}
        )
        entry = replace(plain_entry(), key=Key(key), attributes=extreme)
        early = replace(entry, state=EntryState.WRITING, sha256=None, record=None, history=())
        assert entry.record is not None
        late = replace(
            entry,
            size_bytes=(1 << 63) - 1,
            record=replace(
                entry.record,
                size_bytes=(1 << 63) - 1,
                attributes=extreme,
                committed_at_ns=-(1 << 63),
                retention=Retention(-(1 << 63), ("\udcff" * 80,)),
            ),
            history=((EntryState.WRITING, -(1 << 63), "\x01" * 500),) * 15
            + ((EntryState.SEALED, -(1 << 63), "\x01" * 500),),
            last_error="\udcff\x01" * 500,
            settle_until_ns=-(1 << 63),
        )
        assert len(encode(late)) <= payload_bound(early)


def test_a_long_history_keeps_its_ends_and_stays_a_possible_life() -> None:
    states = [EntryState.WRITING, EntryState.SETTLING] * 40 + [EntryState.SEALED]
    history = [(state, at, "") for at, state in enumerate(states)]
    kept = journal.bounded_history(history)
    assert len(kept) <= journal.HISTORY_LIMIT
    assert (kept[0], kept[-1]) == (history[0], history[-1])
    assert all(allowed(a[0], b[0]) for a, b in itertools.pairwise(kept))


def test_moving_follows_the_rules() -> None:
    moved = plain_entry().moved(EntryState.COMMITTED, 9, "there")
    assert moved.history[-1] == (EntryState.COMMITTED, 9, "there")
    with pytest.raises(JournalError):
        moved.moved(EntryState.WRITING, 10)


def changed(path: list[Any], value: Any) -> bytes:
    tree = journal.encode_readable(plain_entry())
    spot: Any = tree
    for part in path[:-1]:
        spot = spot[part]
    spot[path[-1]] = value
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["state"], "sleeping"),
        (["state"], "writing"),
        (["state"], None),
        (["size_bytes"], -1),
        (["size_bytes"], True),
        (["size_bytes"], 4.0),
        (["size_bytes"], 5),
        (["size_bytes"], 1 << 63),
        (["key"], ""),
        (["key"], "a//b"),
        (["key"], "/a"),
        (["key"], "a\0b"),
        (["key"], "a" * 4096),
        (["key"], "\udcff"),
        (["key"], {"base64": "*"}),
        (["key"], {"base64": "YQ==", "more": 1}),
        (["key"], 7),
        (["sha256"], None),
        (["sha256"], "AB" * 32),
        (["sha256"], "cd" * 32),
        (["record"], None),
        (["record", "entry_id"], "17f0c0ffee000000-00000000deadbee0"),
        (["record", "holds"], [1]),
        (["record", "surprise"], 1),
        (["entry_id"], "../../etc/passwd"),
        (["data_name"], "../x.data"),
        (["data_name"], "lock"),
        (["history"], []),
        (["history"], [["sealed", 1, ""]]),
        (["history"], [["writing", 1, ""], ["committed", 2, ""], ["sealed", 3, ""]]),
        (["history", 0], ["writing", 1]),
        (["history", 0, 1], "now"),
        (["attributes", "mode"], 0o100644),
        (["attributes", "xattrs"], None),
        (["attributes", "xattrs"], [["a", "b"], ["a", "c"]]),
        (["attributes", "xattrs"], [["a"]]),
        (["attributes", "uid"], 1 << 32),
        (["writer_pid"], "1"),
        (["unknown"], 1),
        (["last_error"], 5),
    ],
)
def test_what_makes_no_sense_is_refused(path: list[Any], value: Any) -> None:
    with pytest.raises(JournalError):
        decode(changed(path, value))


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"null", b"\xff", b"NaN", b"1" * 5000, b"[" * 100_000, b'{"a":1,"a":1}'],
)
def test_what_is_not_a_record_is_refused(payload: bytes) -> None:
    with pytest.raises(JournalError):
        decode(payload)


def test_a_field_that_is_there_twice_is_refused() -> None:
    text = encode(plain_entry()).decode()
    with pytest.raises(JournalError):
        decode((text[:-1] + ',"writer_uid":33}').encode())


@pytest.mark.parametrize(
    "change",
    [
        {"attributes": FileAttributes(0o100644, 0, 0, 0, 0)},
        {"size_bytes": -1},
        {"created_at_ns": 1 << 63},
        {"writer_pid": -1},
        {"entry_id": "x"},
        {"key": Key(b"")},
        {"record": None},
        {"state": EntryState.WRITING},
    ],
)
def test_what_could_not_be_read_back_is_not_written(change: dict[str, Any]) -> None:
    with pytest.raises(JournalError):
        encode(replace(plain_entry(), **change))


def test_ids_sort_by_time_and_are_unique() -> None:
    ids = [journal.new_entry_id(at) for at in (1, 2, 1_700_000_000_000_000_000)]
    assert ids == sorted(ids)
    assert all(map(journal.is_entry_id, ids))
    assert journal.new_entry_id(1) != journal.new_entry_id(1)
