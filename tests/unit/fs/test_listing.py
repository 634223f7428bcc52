"""One pass over a directory: merged, positioned, and never ended too early."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from wormfs.fs.listing import Item, Listing
from wormfs.model import Key, Kind, ObjectInfo, name_of
from wormfs.spool.entry import Entry, Writer
from wormfs.worm.lifecycle import EntryState


def entry(name: bytes, state: EntryState = EntryState.WRITING) -> Entry:
    return Entry(
        id=name.decode(), key=Key(b"d/" + name), state=state, mode=0o644, uid=0, gid=0,
        atime_ns=0, mtime_ns=0, ctime_ns=0, created_at_ns=0, writer=Writer(0, 0, 0.0),
    )  # fmt: skip


def info(name: bytes) -> ObjectInfo:
    return ObjectInfo(Key(b"d/" + name), Kind.FILE)


def names(items: list[Item]) -> list[bytes]:
    return [name_of(item.key) for item in items]


def whole(listing: Listing, step: int | None = None) -> list[bytes]:
    found: list[bytes] = []
    while items := listing.fetch(len(found)):
        found += names(items[:step])
    return found


def test_files_on_their_way_come_first_and_once() -> None:
    entries = [entry(b"a"), entry(b"b", EntryState.COMMITTED), entry(b"c", EntryState.SEALED)]
    objects = [info(b"z"), info(b"c"), info(b"b")]
    listing = Listing(lambda: entries, lambda: iter(objects))
    assert whole(listing) == [b"a", b"c", b"z", b"b"]


def test_what_no_program_could_use_is_left_out() -> None:
    objects = [info(b".wormfs"), info(b".wormfs-x"), info(b"x" * 256), info(b"y" * 255), info(b"ok")]
    listing = Listing(list, lambda: iter(objects))
    assert whole(listing) == [b"y" * 255, b"ok"]


@pytest.mark.parametrize("step", [1, 7, 256, 1000])
def test_every_position_can_be_asked_again(step: int) -> None:
    many = [b"%05d" % at for at in range(10_000)]
    starts = itertools.count()

    def objects() -> Iterator[ObjectInfo]:
        next(starts)
        return map(info, many)

    listing = Listing(list, objects)
    found: list[bytes] = []
    limit = 600 if step == 1 else len(many)
    while len(found) < limit and (items := listing.fetch(len(found))):
        found += names(items[:step])
    assert found[:limit] == many[:limit]
    assert next(starts) == 1, "read once"
    # Far back: from the beginning again.
    assert names(listing.fetch(0))[:3] == many[:3]
    if limit == len(many):
        assert next(starts) == 3
    assert names(listing.fetch(9_999)) == many[9_999:]
    assert listing.fetch(10_000) == []
    assert listing.fetch(20_000) == []


def test_ready_is_true_only_for_what_is_kept() -> None:
    listing = Listing(list, lambda: map(info, [b"a", b"b"]))
    assert not listing.ready(0)
    listing.fetch(0)
    assert listing.ready(0) and listing.ready(1) and not listing.ready(2)


def test_closing_closes_the_backends_stream() -> None:
    closed: list[bool] = []

    def objects() -> Iterator[ObjectInfo]:
        try:
            yield from map(info, [b"%d" % at for at in range(1000)])
        finally:
            closed.append(True)

    listing = Listing(list, objects)
    listing.fetch(0)
    assert not closed
    listing.close()
    listing.close()
    assert closed == [True]
