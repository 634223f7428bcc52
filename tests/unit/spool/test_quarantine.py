"""Quarantine: bytes stay until somebody says otherwise, and what was said is on record."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.spool.conftest import ENTRY_ID, HandClock, Spooler
from wormfs import durability
from wormfs.clock import NS_PER_S
from wormfs.errors import AlreadyExists, DigestMismatch, InvalidArgument, NotFound
from wormfs.spool.quarantine import Quarantine
from wormfs.spool.recovery import Action, read_entries
from wormfs.spool.store import SpoolStore
from wormfs.worm.lifecycle import EntryState

OpenStore = Callable[..., SpoolStore]


def log_lines(store: SpoolStore) -> list[dict[str, object]]:
    path = Path(store.quarantined.directory, "discarded.log")
    return [json.loads(line) for line in path.read_bytes().splitlines() if line.startswith(b"{")]


def staging(store: SpoolStore) -> list[str]:
    names = os.listdir(os.path.join(store.directory, "entries"))
    return [name for name in names if name.endswith(".data") and os.path.getsize(
        os.path.join(store.directory, "entries", name))]  # fmt: skip


def test_bytes_and_record_are_kept_and_the_slot_is_free(store: SpoolStore, spooler: Spooler) -> None:
    entry_id = spooler.quarantined(store, b"job-1/\xff.tgz", b"half of it")
    (entry,) = store.quarantined.entries()
    assert entry.record is not None
    assert (entry.entry_id, entry.size_bytes, entry.record.key) == (entry_id, 10, b"job-1/\xff.tgz")
    assert entry.record.history[-1][2] == "writer killed"
    with store.quarantined.open_data(entry_id) as data:
        assert data.read() == b"half of it"
    assert staging(store) == []
    assert list(read_entries(store.directory)) == []
    text = Path(store.quarantined.directory, f"{entry_id}.json").read_text()
    assert '"state": "quarantined"' in text
    assert text.count("\n") > 20, "people read it"


def test_it_is_readable_without_the_daemon(store: SpoolStore, spooler: Spooler, clock: HandClock) -> None:
    entry_id = spooler.quarantined(store)
    store.close()
    view = Quarantine(store.quarantined.directory, clock)
    assert [entry.entry_id for entry in view.entries()] == [entry_id]
    assert list(Quarantine(store.directory + "/nothing", clock).entries()) == []


def test_export_copies_checks_and_never_overwrites(
    store: SpoolStore, spooler: Spooler, tmp_path: Path
) -> None:
    data = os.urandom(3 << 20)
    slot = spooler.writing(store, data=data)
    assert slot.record is not None
    sha256 = hashlib.sha256(data).hexdigest()
    sealed = spooler.as_sealed(slot.record, len(data), sha256)
    slot.write_durably(sealed)
    store.quarantine(slot, sealed.moved(EntryState.QUARANTINED, 9, "conflict"))
    target = tmp_path / "copy"
    parts: list[int] = []
    assert store.quarantined.export(sealed.entry_id, str(target), parts.append) == sha256
    assert target.read_bytes() == data
    assert sum(parts) == len(data)
    with pytest.raises(AlreadyExists):
        store.quarantined.export(sealed.entry_id, str(target))
    assert target.read_bytes() == data
    with open(os.path.join(store.quarantined.directory, sealed.entry_id + ".data"), "r+b") as file:
        file.write(b"changed")
    with pytest.raises(DigestMismatch):
        store.quarantined.export(sealed.entry_id, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_discarding_is_logged_before_anything_goes(
    store: SpoolStore, spooler: Spooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = spooler.quarantined(store, b"a"), spooler.quarantined(store, b"b")
    store.quarantined.discard(first, "root", "not needed")
    (line,) = log_lines(store)
    assert (line["entry_id"], line["who"], line["why"]) == (first, "root", "not needed")
    with pytest.raises(NotFound):
        store.quarantined.get(first)
    with pytest.raises(NotFound):
        store.quarantined.discard(first, "root", "again")
    log = Path(store.quarantined.directory, "discarded.log")
    log.write_bytes(log.read_bytes() + b'{"cut off by a cra')
    order: list[str] = []
    real_sync, real_unlink = durability.sync_file, durability.unlink

    def sync(fd: int) -> None:
        order.append("sync")
        real_sync(fd)

    def unlink(name: str | bytes, directory_fd: int | None = None) -> None:
        order.append("unlink")
        real_unlink(name, directory_fd)

    monkeypatch.setattr(durability, "sync_file", sync)
    monkeypatch.setattr(durability, "unlink", unlink)
    store.quarantined.discard(second, "root", "nor this")
    assert order == ["sync", "unlink", "unlink"]
    lines = log.read_bytes().splitlines()
    assert json.loads(lines[-1])["entry_id"] == second
    assert len(lines) == 3


def test_bounds_take_the_old_first_and_only_what_is_too_much(
    store: SpoolStore, spooler: Spooler, clock: HandClock
) -> None:
    ids = []
    for _ in range(4):
        clock.wall_ns += 100 * NS_PER_S
        ids.append(spooler.quarantined(store, data=b"x" * 1000))
    assert store.quarantined.expire(None, None) == []
    assert store.quarantined.expire(1e9, 4000) == []
    assert store.quarantined.expire(None, 3500) == ids[:1]
    assert store.quarantined.expire(150, None) == ids[1:2]
    assert [entry.entry_id for entry in store.quarantined.entries()] == ids[2:]
    assert [line["who"] for line in log_lines(store)] == ["settings", "settings"]


@pytest.mark.parametrize("entry_id", ["../../etc/passwd", "", "discarded.log", ENTRY_ID.upper()])
def test_what_is_no_id_never_becomes_a_path(store: SpoolStore, entry_id: str) -> None:
    for call in (store.quarantined.get, store.quarantined.digest, store.restore):
        with pytest.raises(InvalidArgument):
            call(entry_id)
    with pytest.raises(InvalidArgument):
        store.quarantined.discard(entry_id, "root", "")


def test_a_description_that_cannot_be_read_is_shown_not_guessed(store: SpoolStore, spooler: Spooler) -> None:
    broken, lost = spooler.quarantined(store, b"a"), spooler.quarantined(store, b"b")
    Path(store.quarantined.directory, broken + ".json").write_text("{")
    Path(store.quarantined.directory, lost + ".json").unlink()
    entries = {entry.entry_id: entry for entry in store.quarantined.entries()}
    assert set(entries) == {broken, lost}
    assert all(entry.record is None and entry.problem and entry.size_bytes == 7 for entry in entries.values())


def test_retry_brings_a_sealed_entry_back(open_store: OpenStore, store: SpoolStore, spooler: Spooler) -> None:
    slot = spooler.sealed(store)
    assert slot.record is not None
    store.quarantine(slot, slot.record.moved(EntryState.QUARANTINED, 9, "conflict"))
    entry_id = slot.record.entry_id
    back = store.restore(entry_id)
    assert back.record is not None
    assert back.record.state is EntryState.SEALED
    assert os.pread(back.data_fd, 99, 0) == b"content"
    assert list(store.quarantined.entries()) == []
    store.close()
    again = open_store()
    swept = again.sweep(again.recover())
    assert [(found.action, found.record) for found in swept.resume] == [(Action.RESUME, back.record)]


def test_retry_of_a_half_written_entry_needs_somebody_who_seals_it(
    store: SpoolStore, spooler: Spooler
) -> None:
    entry_id = spooler.quarantined(store)
    with pytest.raises(InvalidArgument):
        store.restore(entry_id)
    entry = store.quarantined.get(entry_id)
    assert entry.record is not None
    with pytest.raises(InvalidArgument):
        store.restore(entry_id, spooler.as_sealed(entry.record, 3))
    digest = store.quarantined.digest(entry_id)
    assert digest == hashlib.sha256(b"content").hexdigest()
    slot = store.restore(entry_id, spooler.as_sealed(entry.record, 7, digest))
    assert slot.record is not None
    assert slot.record.sha256 == digest


def test_retry_without_bytes_is_refused(store: SpoolStore, spooler: Spooler) -> None:
    slot = spooler.sealed(store)
    assert slot.record is not None
    os.unlink(slot.data_path)
    slot.close_data()
    slot.has_data = False
    store.quarantine(slot, slot.record.moved(EntryState.QUARANTINED, 9, "bytes are gone"))
    entry = store.quarantined.get(slot.record.entry_id)
    assert (entry.size_bytes, entry.record and entry.record.state) == (None, EntryState.QUARANTINED)
    with pytest.raises(NotFound):
        store.restore(slot.record.entry_id)


@pytest.mark.parametrize("after", ["sealed", "data-gone"])
def test_a_crash_in_the_middle_of_a_retry_is_finished(
    open_store: OpenStore, store: SpoolStore, spooler: Spooler, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    slot = spooler.sealed(store)
    assert slot.record is not None
    store.quarantine(slot, slot.record.moved(EntryState.QUARANTINED, 9, "conflict"))
    entry_id = slot.record.entry_id
    monkeypatch.setattr(store.quarantined, "forget", lambda _entry_id: None)
    back = store.restore(entry_id)
    if after == "data-gone":
        os.unlink(os.path.join(store.quarantined.directory, entry_id + ".data"))
    store.close()
    again = open_store()
    swept = again.sweep(again.recover())
    assert [found.record for found in swept.resume] == [back.record]
    assert list(again.quarantined.entries()) == []
    assert Path(back.data_path).read_bytes() == b"content"


def test_a_sealed_record_without_bytes_never_takes_the_quarantined_ones_away(
    open_store: OpenStore, store: SpoolStore, spooler: Spooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = spooler.sealed(store)
    assert slot.record is not None
    store.quarantine(slot, slot.record.moved(EntryState.QUARANTINED, 9, "conflict"))
    monkeypatch.setattr(store.quarantined, "forget", lambda _entry_id: None)
    back = store.restore(slot.record.entry_id)
    os.unlink(back.data_path)
    store.close()
    again = open_store()
    swept = again.sweep(again.recover())
    assert [found.action for found in swept.resume] == [Action.RESUME_WITHOUT_DATA]
    with again.quarantined.open_data(slot.record.entry_id) as data:
        assert data.read() == b"content"


def test_a_crash_in_the_middle_of_the_move_is_finished(
    open_store: OpenStore, store: SpoolStore, spooler: Spooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = spooler.writing(store)
    assert slot.record is not None
    record = replace(slot.record, size_bytes=7).moved(EntryState.QUARANTINED, 9, "killed")

    def crash(name: str) -> None:
        if name == "spool.quarantined-synced":
            raise KeyboardInterrupt

    monkeypatch.setattr(durability, "step", crash)
    with pytest.raises(KeyboardInterrupt):
        store.quarantine(slot, record)
    monkeypatch.undo()
    store.close()
    again = open_store()
    (found,) = again.recover()
    assert found.action is Action.FINISH_QUARANTINE
    assert again.sweep([found]).quarantined == ()
    assert [entry.record for entry in again.quarantined.entries()] == [record]
    assert staging(again) == []
