"""What a crash leaves, at every step, and what becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.spool.conftest import ENTRY_ID, HandClock, Spooler
from wormfs import durability
from wormfs.model import Key
from wormfs.spool import recordfile
from wormfs.spool.journal import EntryRecord
from wormfs.spool.recovery import Action, classify
from wormfs.spool.store import SpoolStore, Swept
from wormfs.worm.lifecycle import EntryState

OpenStore = Callable[..., SpoolStore]
HERE = os.path.dirname(__file__)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))

LIFE = """
import os, sys
from wormfs import durability
from wormfs.spool.store import SpoolStore
from wormfs.worm.lifecycle import EntryState
from tests.unit.spool.conftest import HandClock, Spooler

clock = HandClock()
spooler = Spooler(clock)
store = SpoolStore(sys.argv[1], clock, "exams")
store.open()
store.sweep(store.recover())
slot = spooler.writing(store)
durability.step("spool.data-written")
durability.sync_file(slot.data_fd)
durability.step("spool.data-synced")
slot.write_durably(spooler.as_sealed(slot.record, 7))
if sys.argv[2] == "commit":
    os.link(slot.data_path, sys.argv[3])
    store.release(slot)
else:
    store.quarantine(slot, slot.record.moved(EntryState.QUARANTINED, clock.now_ns(), "conflict"))
print("end")
"""


def crash_at(step: str, ending: str, spool: Path, published: Path) -> None:
    """Run the life of one file in another process, which kills itself at ``step``."""
    done = subprocess.run(
        [sys.executable, "-c", LIFE, str(spool), ending, str(published)],
        env={**os.environ, "WORMFS_CRASH_AT": step, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def restart(open_store: OpenStore, spool: Path) -> tuple[SpoolStore, Swept]:
    store = open_store(spool)
    return store, store.sweep(store.recover())


def staging(store: SpoolStore) -> list[str]:
    """Data files and everything that is not a record file."""
    names = os.listdir(os.path.join(store.directory, "entries"))
    return sorted(name for name in names if not name.endswith(".record"))


COMMITTING = {
    "spool.allocated": "nothing",
    "spool.data-written": "quarantine",
    "spool.data-synced": "quarantine",
    "spool.sealed-written": Action.RESUME,
    "spool.sealed-synced": Action.RESUME,
    "spool.committed-written": "nothing",
    "spool.data-unlinked": "nothing",
}


@pytest.mark.parametrize(("step", "outcome"), COMMITTING.items())
def test_killed_on_the_way_to_committed(
    open_store: OpenStore, tmp_path: Path, step: str, outcome: Action | str
) -> None:
    crash_at(step, "commit", tmp_path / "spool", tmp_path / "published")
    store, swept = restart(open_store, tmp_path / "spool")
    quarantined = list(store.quarantined.entries())
    if isinstance(outcome, Action):
        assert [found.action for found in swept.resume] == [outcome]
        assert staging(store) == [swept.resume[0].data_name]
        assert not quarantined
    else:
        assert not swept.resume
        assert staging(store) == []
        assert len(swept.quarantined) == len(quarantined) == (outcome == "quarantine")
    for entry in quarantined:
        assert entry.record is not None
        assert (entry.size_bytes, entry.record.size_bytes, entry.record.key) == (7, 7, b"job-1/a.tgz")
    # What recovery did is final: the next start finds nothing new.
    store.close()
    _, again = restart(open_store, tmp_path / "spool")
    assert [found.action for found in again.resume] == [found.action for found in swept.resume]
    assert again.quarantined == ()


@pytest.mark.parametrize("step", ["spool.quarantine-linked", "spool.quarantined-synced"])
def test_killed_on_the_way_to_quarantine(open_store: OpenStore, tmp_path: Path, step: str) -> None:
    crash_at(step, "quarantine", tmp_path / "spool", tmp_path / "published")
    store, swept = restart(open_store, tmp_path / "spool")
    assert not swept.resume
    assert staging(store) == []
    (entry,) = store.quarantined.entries()
    assert entry.record is not None
    assert (entry.size_bytes, entry.record.history[-1][2]) == (7, "conflict")


def test_every_step_that_the_store_announces_is_tried() -> None:
    tried = {*COMMITTING, "spool.quarantine-linked", "spool.quarantined-synced"}
    assert tried == {step for step in durability.STEPS if step.startswith("spool.")}


def test_a_power_loss_that_undoes_the_release_is_a_resumed_commit(
    open_store: OpenStore, store: SpoolStore, spooler: Spooler
) -> None:
    """The committed record and the removal of the data are not synced: both may be undone."""
    slot = spooler.sealed(store)
    path = Path(store.directory, "entries", recordfile.record_name(slot.file.number))
    durable = path.read_bytes()
    os.link(slot.data_path, store.directory + "/published")
    for data_survives in (True, False):
        store.release(slot) if slot.has_data else None
        store.close()
        path.write_bytes(durable)
        if data_survives:
            os.link(store.directory + "/published", slot.data_path)
        store, swept = restart(open_store, Path(store.directory))
        expected = Action.RESUME if data_survives else Action.RESUME_WITHOUT_DATA
        assert [found.action for found in swept.resume] == [expected]
        found = swept.resume[0].slot
        assert found is not None
        slot = found


def test_bytes_without_a_record(open_store: OpenStore, store: SpoolStore, spooler: Spooler) -> None:
    entries = Path(store.directory, "entries")
    slots = [spooler.writing(store, data=data) for data in (b"precious", b"", b"published")]
    os.link(slots[2].data_path, store.directory + "/published")
    for slot in slots:
        (entries / recordfile.record_name(slot.file.number)).unlink()
    store.close()
    store, swept = restart(open_store, Path(store.directory))
    assert staging(store) == []
    (record,) = swept.quarantined
    assert (record.key, record.size_bytes, record.data_name) == (b"", 8, slots[0].data_name)
    (entry,) = store.quarantined.entries()
    assert entry.record == record
    with store.quarantined.open_data(entry.entry_id) as data:
        assert data.read() == b"precious"


def test_a_torn_first_record_is_kept_for_people_and_its_bytes_too(
    open_store: OpenStore, store: SpoolStore, spooler: Spooler
) -> None:
    slot = spooler.writing(store)
    path = Path(store.directory, "entries", recordfile.record_name(slot.file.number))
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    store.close()
    path.write_bytes(content)
    store, swept = restart(open_store, Path(store.directory))
    assert [record.key for record in swept.quarantined] == [b""]
    (kept,) = Path(store.quarantined.directory).glob("*.unreadable")
    assert b"job-1/a.tgz" in kept.read_bytes()


def test_a_record_file_whose_making_was_cut_off_is_made_again(
    open_store: OpenStore, store: SpoolStore
) -> None:
    store.close()
    for number, length in ((1, 0), (2, 5000), (3, 16384)):
        Path(store.directory, "entries", recordfile.record_name(number)).write_bytes(bytes(length))
    store, swept = restart(open_store, Path(store.directory))
    assert swept == Swept((), ())
    assert store.refill()


def test_what_a_crash_left_of_files_in_the_making_goes(open_store: OpenStore, store: SpoolStore) -> None:
    store.close()
    names = ["format.0123abcd.tmp", "entries/000001.record.0123abcd.tmp", "quarantine/x.json.0123abcd.tmp"]
    for name in names:
        Path(store.directory, name).write_bytes(b"half")
    store, _ = restart(open_store, Path(store.directory))
    assert not [name for name in names if Path(store.directory, name).exists()]


def test_changed_lengths_are_kept_not_published(
    open_store: OpenStore, store: SpoolStore, spooler: Spooler
) -> None:
    slot = spooler.sealed(store)
    os.truncate(slot.data_path, 3)
    store.close()
    store, swept = restart(open_store, Path(store.directory))
    assert not swept.resume
    assert [record.last_error for record in swept.quarantined] == ["the bytes are 3, the journal says 7"]
    (entry,) = store.quarantined.entries()
    assert entry.size_bytes == 3


def test_after_recovery_a_half_written_update_cannot_hide_the_recovered_record(
    open_store: OpenStore, store: SpoolStore, spooler: Spooler
) -> None:
    """After a kill both halves may be in memory only; recovery must settle which one is durable."""
    slot = spooler.sealed(store)
    assert slot.record is not None
    slot.write(replace(slot.record, last_error="first"))
    store.close()
    store, swept = restart(open_store, Path(store.directory))
    found = swept.resume[0]
    assert found.slot is not None and found.record is not None
    assert found.record.last_error == "first"
    path = Path(store.directory, "entries", recordfile.record_name(found.slot.file.number))
    before = path.read_bytes()
    found.slot.write(replace(found.record, last_error="second"))
    after = path.read_bytes()
    half = found.slot.file.durable_half
    assert half is not None
    size = recordfile.HALF_BYTES
    kept = recordfile.unpack(found.slot.file.number, before[half * size : (half + 1) * size])
    assert kept is not None
    assert b'"first"' in kept[1]
    assert after[half * size : (half + 1) * size] == before[half * size : (half + 1) * size]


def test_resumed_entries_come_oldest_first(
    open_store: OpenStore, store: SpoolStore, spooler: Spooler
) -> None:
    records = [spooler.sealed(store, b"%d" % index).record for index in range(20)]
    store.close()
    _, swept = restart(open_store, Path(store.directory))
    assert [found.record for found in swept.resume] == records


def record_in(state: EntryState, clock: HandClock) -> EntryRecord:
    """Just enough of a record for ``classify``."""
    return EntryRecord(
        entry_id=ENTRY_ID,
        state=state,
        key=Key(b"a"),
        size_bytes=7,
        sha256=None,
        attributes=Spooler(clock).attributes(),
        writer_uid=0,
        writer_pid=0,
        created_at_ns=0,
        settle_until_ns=None,
        record=None,
        history=(),
        last_error=None,
        data_name=ENTRY_ID + ".data",
    )


@given(
    st.sampled_from(EntryState),
    st.none() | st.integers(0, 10),
    st.integers(1, 3),
)
def test_bytes_of_an_unended_entry_are_never_removed(
    state: EntryState, size_bytes: int | None, links: int
) -> None:
    action = classify(record_in(state, HandClock()), size_bytes, links)
    # Published, and the power went before the journal knew: the backend has them.
    elsewhere = state is EntryState.WRITING and links > 1
    if size_bytes and not elsewhere and not (state.ended and state is not EntryState.QUARANTINED):
        assert action in (Action.RESUME, Action.QUARANTINE, Action.FINISH_QUARANTINE)
    if action is Action.RESUME:
        assert state in (EntryState.SETTLING, EntryState.SEALED)
        assert size_bytes == 7


@given(st.none() | st.integers(0, 10), st.integers(1, 3))
def test_bytes_without_a_record_go_only_when_they_are_elsewhere(size_bytes: int | None, links: int) -> None:
    removed = classify(None, size_bytes, links) is Action.CLEAN_UP
    assert removed == (not size_bytes or links > 1)


def test_what_is_being_written_and_has_two_names_was_published() -> None:
    """The power went after the name was durable, before the journal said so: nothing to be kept twice."""
    record = record_in(EntryState.WRITING, HandClock())
    assert classify(record, 7, links=2) is Action.CLEAN_UP
    assert classify(record, 7, links=1) is Action.QUARANTINE
