"""The power fails at every durable call of an erasure: the file, or its tombstone, or what leads to it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.conformance.drivers import LocalStorage, make_record, spooled
from tests.support.powerloss import Moment, PowerLoss, syncing_nothing
from wormfs import audit, durability
from wormfs.audit import AuditLog
from wormfs.backends.base import Backend
from wormfs.clock import SystemClock
from wormfs.errors import NotFound
from wormfs.model import NO_RETENTION, Key, Retention
from wormfs.records.records import Asker, RecordOptions, Records
from wormfs.records.trustedclock import TrustedClock
from wormfs.worm.erasing import EraseMode

KEY = Key(b"exam.pdf")
CONTENT = b"record" * 1000
SCRATCH = RecordOptions(mode=EraseMode.ALWAYS)
# What an acknowledged erasure rests on. Without the others it is made up for at the next start.
NEEDED = (
    "backends.local.backend.erase:sync_directory in remove_durably",
    "audit._sync:sync_data",
)


def records_of(top: Path, backend: Backend) -> tuple[Records, AuditLog]:
    trail = AuditLog(top / "state", "archive", SystemClock())
    clock = TrustedClock("archive", SystemClock(), "boot", path=None, backend_time_ns=lambda: None)
    return Records(backend, SCRATCH, clock, trail, top / "state" / "erasing" / "archive"), trail


def store(storage: LocalStorage, backend: Backend) -> None:
    record = make_record(CONTENT, retention=Retention(NO_RETENTION))
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        transfer.prepare(file, record)
        durability.sync_file(file.fileno())
        transfer.publish(file, record)


def record(top: Path, forget: str | None = None) -> tuple[PowerLoss, int, int]:
    """One erasure: its moments, and from which on the file was stored, and was erased."""
    for name in ("data", "state"):
        (top / name).mkdir(parents=True)
    storage = LocalStorage(top)
    disk = PowerLoss(top, forget)
    with disk.recording():
        backend = storage.backend()
        backend.start()
        records, trail = records_of(top, backend)
        store(storage, backend)
        stored = disk.now
        records.erase(KEY, Asker(0))
        erased = disk.now
        trail.close()
        backend.close()
    return disk, stored, erased


def examine(top: Path, moment: Moment, erased: int) -> None:
    """As the next start finds it, and leaves it."""
    backend = LocalStorage(top).backend()
    backend.start()
    records, trail = records_of(top, backend)
    try:
        there = visible(backend)
        tombstones = [line for line in audit.read(trail.path) if line["event"] == "erased"]
        intents = list((top / "state").glob("erasing/archive/*.json"))
        if there:
            assert LocalStorage(top).plain(KEY) == CONTENT
        else:
            assert tombstones or intents
        if moment.number >= erased:
            assert not there
            assert len(tombstones) == 1
        records.finish()
        tombstones = [line for line in audit.read(trail.path) if line["event"] == "erased"]
        assert visible(backend) == (not tombstones)
        assert len(tombstones) == (1 if intents or not there else 0)
        assert list((top / "state").glob("erasing/archive/*.json")) == []
    finally:
        trail.close()
        backend.close()


def visible(backend: Backend) -> bool:
    try:
        backend.stat(KEY)
    except NotFound:
        return False
    return True


def survive_all(disk: PowerLoss, stored: int, erased: int, target: Path, seeds: int) -> None:
    for moment in disk.moments[stored:]:
        for seed in range(-1, seeds):
            chance = None if seed < 0 else random.Random(f"{seed} {moment.number}")
            disk.rebuild(moment, target, chance)
            try:
                with syncing_nothing():
                    examine(target, moment, erased)
            except BaseException as error:
                error.add_note(f"power lost at moment {moment.number}, {moment.after}; seed {seed}")
                raise
            finally:
                shutil.rmtree(target)


def test_power_loss_in_an_erasure(tmp_path: Path) -> None:
    disk, stored, erased = record(tmp_path / "disk")
    assert erased - stored > 8
    survive_all(disk, stored, erased, tmp_path / "after", seeds=4)


@pytest.mark.parametrize("site", NEEDED)
def test_without_a_sync_it_fails(site: str, tmp_path: Path) -> None:
    disk, stored, erased = record(tmp_path / "disk", forget=site)
    assert site in disk.sites, sorted(disk.sites)
    with pytest.raises(AssertionError):
        survive_all(disk, stored, erased, tmp_path / "after", seeds=8)
