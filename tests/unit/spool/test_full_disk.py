"""A full disk stops new files, never those that were accepted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.spool.conftest import Spooler
from wormfs.errors import OutOfSpace
from wormfs.spool.recovery import Action, read_entries
from wormfs.spool.store import SpoolStore
from wormfs.worm.lifecycle import EntryState

OpenStore = Callable[..., SpoolStore]
Fill = Callable[[Path], Path]


def test_every_transition_works(
    small_disk: Path, open_store: OpenStore, spooler: Spooler, fill_disk: Fill
) -> None:
    store = open_store(small_disk / "spool")
    store.sweep(store.recover())
    slots = [spooler.writing(store, b"a" * (200 + 700 * index), b"x" * 100) for index in range(4)]
    unborn = spooler.writing(store, b"gone", b"")
    fill_disk(small_disk)
    with pytest.raises(OSError, match="No space left"):
        os.pwrite(unborn.data_fd, bytes(1 << 20), 0)
    for slot in slots:
        assert slot.record is not None
        for _ in range(6):
            slot.write_durably(replace(slot.record.moved(EntryState.SETTLING, 1, "n" * 300), size_bytes=100))
            slot.write_durably(slot.record.moved(EntryState.WRITING, 2, "é" * 300))
        slot.write_durably(spooler.as_sealed(slot.record, 100))
        slot.write_durably(replace(slot.record, last_error="e" * 3000))
    store.discard(unborn)
    for slot in slots[:2]:
        store.release(slot)
    assert len(list(read_entries(store.directory))) == 2
    store.close()


def test_quarantine_keeps_its_promise_and_moves_when_there_is_room(
    small_disk: Path, open_store: OpenStore, spooler: Spooler, fill_disk: Fill
) -> None:
    store = open_store(small_disk / "spool")
    store.sweep(store.recover())
    slots = [spooler.writing(store, b"key", b"x" * 5000) for _ in range(3)]
    ballast = fill_disk(small_disk)
    for slot in slots:
        assert slot.record is not None
        record = replace(slot.record, size_bytes=5000)
        store.quarantine(slot, record.moved(EntryState.QUARANTINED, 9, "killed"))
    waiting = [entry.state for entry in read_entries(store.directory)]
    moved = list(store.quarantined.entries())
    assert set(waiting) <= {EntryState.QUARANTINED}
    assert len(waiting) + sum(entry.record is not None for entry in moved) == 3
    assert waiting, "the disk was not full"
    store.close()

    # A start on the full disk works and loses nothing.
    store = open_store(small_disk / "spool")
    found = store.recover()
    assert {one.action for one in found} <= {Action.FINISH_QUARANTINE, Action.CLEAN_UP}
    store.sweep(found)
    ballast.unlink()
    store.refill()
    assert list(read_entries(store.directory)) == []
    for entry in store.quarantined.entries():
        assert entry.record is not None
        assert entry.size_bytes == 5000
    assert sum(1 for _ in store.quarantined.entries()) == 3


def test_preparing_says_that_there_is_no_room_and_leaves_nothing(
    small_disk: Path, open_store: OpenStore, spooler: Spooler, fill_disk: Fill
) -> None:
    store = open_store(small_disk / "spool")
    store.sweep(store.recover())
    ballast = fill_disk(small_disk)
    entries = os.path.join(store.directory, "entries")
    with pytest.raises(OutOfSpace):
        while True:
            store.allocate().close_data()
    before = sorted(os.listdir(entries))
    with pytest.raises(OutOfSpace):
        store.refill()
    assert sorted(os.listdir(entries)) == before
    ballast.unlink()
    store.allocate().close_data()


def test_a_longer_name_or_attribute_is_refused_when_it_is_taken_on(
    small_disk: Path, open_store: OpenStore, spooler: Spooler, fill_disk: Fill
) -> None:
    store = open_store(small_disk / "spool")
    store.sweep(store.recover())
    slot = spooler.sealed(store)
    ballast = fill_disk(small_disk)
    with pytest.raises(OutOfSpace):
        slot.ensure_capacity(100_000)
    assert list(read_entries(store.directory)) == [slot.record]
    assert not [name for name in os.listdir(store.directory + "/entries") if name.endswith(".tmp")]
    ballast.unlink()
    slot.ensure_capacity(100_000)
    assert list(read_entries(store.directory)) == [slot.record]


def test_discarding_without_room_for_the_log_removes_nothing(
    small_disk: Path, open_store: OpenStore, spooler: Spooler, fill_disk: Fill
) -> None:
    store = open_store(small_disk / "spool")
    store.sweep(store.recover())
    entry_id = spooler.quarantined(store)
    ballast = fill_disk(small_disk)
    with pytest.raises(OutOfSpace):
        store.quarantined.discard(entry_id, "root", "w" * 5000)
    assert store.quarantined.get(entry_id).size_bytes == 7
    ballast.unlink()
    store.quarantined.discard(entry_id, "root", "w" * 5000)
    assert list(store.quarantined.entries()) == []
