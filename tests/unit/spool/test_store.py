"""Slots and the pool: what is handed out, what is given back, and who may use the directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.spool.conftest import HandClock, Spooler
from wormfs import durability
from wormfs.errors import JournalError, SpoolLocked
from wormfs.model import FileAttributes
from wormfs.spool.journal import payload_bound
from wormfs.spool.recovery import read_entries
from wormfs.spool.store import MAX_BATCH, MIN_BATCH, SpoolStore
from wormfs.worm.lifecycle import EntryState

OpenStore = Callable[..., SpoolStore]


def listing(store: SpoolStore) -> list[str]:
    return sorted(os.listdir(os.path.join(store.directory, "entries")))


def count_syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    for name in ("sync_file", "sync_data", "sync_directory"):
        real = getattr(durability, name)

        def noted(fd: int, name: str = name, real: Callable[[int], None] = real) -> None:
            calls.append(name)
            real(fd)

        monkeypatch.setattr(durability, name, noted)
    return calls


def test_one_small_file_costs_one_sync_of_the_journal(
    store: SpoolStore, spooler: Spooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.refill()
    calls = count_syncs(monkeypatch)
    slot = spooler.sealed(store)
    assert slot.record is not None
    slot.write(slot.record.moved(EntryState.COMMITTED, 9))
    store.release(slot)
    assert calls == ["sync_data"]


def test_a_batch_costs_one_sync_of_the_directory(
    store: SpoolStore, spooler: Spooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.refill()
    while store.has_prepared:
        store.release(spooler.sealed(store))
    calls = count_syncs(monkeypatch)
    store.refill()
    assert calls.count("sync_directory") == 1
    store._clock.seconds += 10  # type: ignore[attr-defined]
    while store.has_prepared:
        store.release(spooler.sealed(store))
    calls.clear()
    store.refill()
    assert calls == ["sync_directory"], "record files are used again, nothing else needs a sync"


def test_a_record_forgets_its_entry_only_after_the_directory_was_synced(
    store: SpoolStore, spooler: Spooler
) -> None:
    first = spooler.sealed(store)
    store.release(first)
    numbers = set()
    while store.has_prepared:
        numbers.add(store.allocate().file.number)
    assert first.file.number not in numbers
    store.refill()
    while store.has_prepared:
        numbers.add(store.allocate().file.number)
    assert first.file.number in numbers


def test_batches_grow_when_they_go_fast_and_shrink_when_it_is_quiet(
    store: SpoolStore, clock: HandClock
) -> None:
    sizes = []
    for _ in range(6):
        sizes.append(store.refill())
        while store.has_prepared:
            store.allocate().close_data()
    assert sizes == sorted(sizes)
    assert sizes[-1] == MAX_BATCH
    for _ in range(6):
        clock.seconds += 1000
        size = store.refill()
        while store.has_prepared:
            store.allocate().close_data()
    assert size == MIN_BATCH


def test_allocate_prepares_when_nothing_is_prepared(store: SpoolStore) -> None:
    assert not store.has_prepared
    assert store.wants_refill
    slot = store.allocate()
    assert os.fstat(slot.data_fd).st_size == 0
    assert store.has_prepared


def test_the_descriptor_can_be_given_back_and_taken_again(store: SpoolStore, spooler: Spooler) -> None:
    slot = spooler.sealed(store, data=b"bytes")
    fd = slot.data_fd
    slot.close_data()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert os.pread(slot.data_fd, 99, 0) == b"bytes"
    assert Path(slot.data_path).read_bytes() == b"bytes"


def test_thousands_of_waiting_entries_hold_no_descriptors(store: SpoolStore, spooler: Spooler) -> None:
    before = len(os.listdir("/proc/self/fd"))
    slots = []
    for _ in range(2000):
        slot = spooler.writing(store, data=b"")
        slot.close_data()
        slots.append(slot)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert sum(1 for _ in read_entries(store.directory)) == 2000


def test_long_names_and_attributes_get_their_room_when_they_are_taken_on(
    store: SpoolStore, spooler: Spooler
) -> None:
    slot = spooler.writing(store, b"/".join([b"\xff" * 200] * 20))
    assert slot.record is not None
    big = FileAttributes(0o644, 0, 0, 0, 0, {b"user.big": bytes(range(256)) * 255})
    record = replace(slot.record, attributes=big)
    slot.ensure_capacity(payload_bound(record))
    room = slot.file.capacity_bytes
    sealed = spooler.as_sealed(record, 7)
    slot.write_durably(sealed)
    assert slot.file.capacity_bytes == room, "sealing needed no more"
    assert list(read_entries(store.directory)) == [sealed]
    number = slot.file.number
    store.release(slot)
    while store.has_prepared:
        store.allocate().close_data()
    store.refill()
    assert f"{number:06d}.record" not in listing(store), "too big to be kept for others"


def test_a_slot_without_a_record_yet_can_grow(store: SpoolStore) -> None:
    slot = store.allocate()
    slot.ensure_capacity(100_000)
    assert slot.file.capacity_bytes >= 100_000
    assert not slot.promised


def test_a_clean_stop_leaves_nothing_and_keeps_what_is_on_its_way(
    open_store: OpenStore, spooler: Spooler
) -> None:
    store = open_store()
    store.sweep(store.recover())
    store.release(spooler.sealed(store))
    store.discard(spooler.writing(store))
    store.close()
    assert listing(store) == []
    store = open_store()
    store.sweep(store.recover())
    kept = spooler.sealed(store)
    store.close()
    assert listing(store) == sorted([kept.data_name, f"{kept.file.number:06d}.record"])
    store.close()


@pytest.mark.parametrize("state", ["writing", "settling", "sealed"])
def test_what_was_discarded_stays_away_after_a_power_loss(
    store: SpoolStore, spooler: Spooler, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a record that is durable must be revoked durably; nothing else is worth a wait."""
    slot = spooler.writing(store)
    assert slot.record is not None
    if state == "settling":
        settling = slot.record.moved(EntryState.SETTLING, 5)
        slot.write_durably(replace(settling, size_bytes=7, settle_until_ns=9))
    if state == "sealed":
        slot.write_durably(spooler.as_sealed(slot.record, 7))
    calls = count_syncs(monkeypatch)
    store.discard(slot)
    assert calls == ([] if state == "writing" else ["sync_data"])
    assert not os.path.exists(slot.data_path)
    assert list(read_entries(store.directory)) == []


def test_a_committed_entry_cannot_be_discarded(store: SpoolStore, spooler: Spooler) -> None:
    slot = spooler.sealed(store)
    assert slot.record is not None
    slot.write(slot.record.moved(EntryState.COMMITTED, 9))
    with pytest.raises(JournalError):
        store.discard(slot)


def test_two_processes_never_share_a_spool(store: SpoolStore) -> None:
    program = """
import sys
from wormfs.clock import SystemClock
from wormfs.errors import SpoolLocked
from wormfs.spool.store import SpoolStore
try:
    SpoolStore(sys.argv[1], SystemClock(), "exams").open()
except SpoolLocked as error:
    print(error)
    sys.exit(3)
"""
    command = [sys.executable, "-c", program, store.directory]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 3, refused.stderr
    assert f"process {os.getpid()} on {os.uname().nodename}" in refused.stdout
    store.close()
    assert subprocess.run(command).returncode == 0


def test_one_process_does_not_open_it_twice_either(store: SpoolStore, clock: HandClock) -> None:
    with pytest.raises(SpoolLocked):
        SpoolStore(store.directory, clock, "exams").open()


def test_the_directory_is_private(store: SpoolStore) -> None:
    for name in ("", "entries", "quarantine"):
        assert os.stat(os.path.join(store.directory, name)).st_mode & 0o777 == 0o700
    assert all(
        os.stat(os.path.join(store.directory, "entries", name)).st_mode & 0o777 == 0o600
        for name in listing(store)
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        json.dumps({"format": "wormfs spool", "version": 2, "backend": "exams"}).encode(),
        json.dumps({"format": "wormfs spool", "version": 1, "backend": "other"}).encode(),
        json.dumps({"format": "wormfs spool", "version": 1}).encode(),
    ],
)
def test_an_unknown_format_is_refused_and_left_alone(
    open_store: OpenStore, spooler: Spooler, content: bytes
) -> None:
    store = open_store()
    store.sweep(store.recover())
    spooler.sealed(store)
    store.close()
    path = Path(store.directory, "format")
    path.write_bytes(content)
    before = listing(store)
    for _ in range(2):
        with pytest.raises(JournalError):
            open_store()
    assert path.read_bytes() == content
    assert listing(store) == before


def test_entries_without_a_format_are_somebody_elses(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "spool" / "entries").mkdir(parents=True)
    with pytest.raises(JournalError):
        open_store()


def test_a_record_of_a_newer_version_stops_the_start_and_stays(
    open_store: OpenStore, spooler: Spooler
) -> None:
    import struct
    import zlib

    store = open_store()
    store.sweep(store.recover())
    slot = spooler.sealed(store)
    store.close()
    path = Path(store.directory, "entries", f"{slot.file.number:06d}.record")
    head = struct.pack(">8sHH", b"WORMFSJ\n", 9, 64)
    content = (head + struct.pack(">I", zlib.crc32(head))).ljust(16384, b"?")
    path.write_bytes(content)
    store = open_store()
    with pytest.raises(JournalError, match="version 9"):
        store.recover()
    store.close()
    assert path.read_bytes() == content
    assert Path(slot.data_path).read_bytes() == b"content"
    with pytest.raises(JournalError):
        list(read_entries(store.directory))


def test_the_view_of_the_command_line_shows_what_is_on_its_way(store: SpoolStore, spooler: Spooler) -> None:
    writing, sealed, gone = spooler.writing(store), spooler.sealed(store), spooler.sealed(store)
    store.release(gone)
    store.discard(spooler.writing(store))
    spooler.quarantined(store)
    assert list(read_entries(store.directory)) == [writing.record, sealed.record]


def test_the_view_of_a_directory_that_is_no_spool_is_empty(tmp_path: Path) -> None:
    assert list(read_entries(str(tmp_path))) == []
    assert list(read_entries(str(tmp_path / "nothing"))) == []


def test_the_view_works_while_records_are_being_rewritten(store: SpoolStore, spooler: Spooler) -> None:
    import threading

    slot = spooler.sealed(store)
    assert slot.record is not None
    record = slot.record
    stop = threading.Event()

    def rewrite() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            slot.write(replace(record, last_error="x" * (turn % 400)))

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(300):
            (seen,) = read_entries(store.directory)
            assert seen.entry_id == record.entry_id
    finally:
        stop.set()
        thread.join()
