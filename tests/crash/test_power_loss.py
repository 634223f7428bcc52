"""The power fails at every durable call of a run; what was acknowledged is there afterwards.

And the proof that this proves something: with any one sync taken out, it fails.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.archive import RUNS, Actor, Ledger, examine, make_host
from tests.support.inprocess import StillClock
from tests.support.powerloss import Moment, PowerLoss, syncing_nothing

# Under soak it takes hours.
pytestmark = pytest.mark.timeout(6 * 3600 if os.environ.get("WORMFS_SOAK") else 300)

DETECTED = {
    "backends.local.backend.make_directory:sync_directory": "settling",
    "backends.local.backend.make_directory:sync_directory#2": "settling",
    "backends.local.backend.remove_directory:sync_directory in remove_directory_durably": "at once",
    "backends.local.probe.opened_hidden:sync_directory in make_directory_durably": "settling",
    "backends.local.transfer._make_lasting:sync_directory": "at once",
    "spool.quarantine._log:sync_file": "at once",
    "spool.quarantine._remove:sync_directory": "at once",
    "spool.quarantine.receive:sync_directory in write_file_durably": "at once",
    "spool.quarantine.receive:sync_file in write_file_durably": "at once",
    "spool.recordfile.write_durably:sync_data": "at once",
    "spool.sealing._sync_data:sync_file": "at once",
    "spool.sealing.settle:sync_file": "settling",
    "spool.sealing.sync:sync_file": "at once",
    "spool.store._check_format:sync_file in write_file_durably": "settling",
    "spool.store._move_to_quarantine:sync_directory": "at once",
    "spool.store._prepare:sync_directory": "settling",
    "spool.store.open:sync_directory in make_path_durably": "settling",
    "spool.store.open:sync_directory in make_path_durably#2": "settling",
    "spool.store.quarantine:sync_file": "at once",
}
"""Every sync that something acknowledged rests on, with a run that fails without it."""

HARMLESS = {
    "backends.local.probe._prove_sync:sync_directory": "it asks whether the disk can; nothing rests on it",
    "backends.local.probe._prove_sync:sync_file": "it asks whether the disk can; nothing rests on it",
    "spool.quarantine._log:sync_directory": "removing the entry then syncs the same directory",
    "spool.recordfile.create:sync_file": "it takes the blocks; the first record syncs the content again",
    "spool.store._check_format:sync_directory in write_file_durably": "making entries/ syncs it again",
    "spool.store._trim_all:sync_directory": "what comes back is cleaned up at the next start",
    "spool.store._trim_all:sync_directory#2": "what comes back is cleaned up at the next start",
    "spool.store.sweep:sync_directory": "what comes back is cleaned up again at the next start",
}
"""The other syncs, with the reason why power loss does not tell whether they are there."""


def record(root: Path, run: str, forget: str | None = None) -> tuple[PowerLoss, Ledger]:
    """One run with its moments and promises."""
    root.mkdir()
    act, settle_s = RUNS[run]
    disk = PowerLoss(root, forget)
    ledger = Ledger(lambda: disk.now)
    with disk.recording():
        host = make_host(root, settle_s).start()
        try:
            act(Actor(host, ledger))
        finally:
            host.stop()
    return disk, ledger


def survive(disk: PowerLoss, ledger: Ledger, lost: Lost, target: Path) -> None:
    """Lose power and examine what is left."""
    disk.rebuild(lost.moment, target, lost.chance)
    promises = ledger.between(lost.since, lost.moment.number)
    try:
        with syncing_nothing():
            examine(target, promises, ledger.tried)
    except BaseException as error:
        error.add_note(f"power lost at moment {lost.moment.number}, {lost.moment.after}")
        raise
    else:
        shutil.rmtree(target)


@dataclass(frozen=True)
class Lost:
    """One way to lose power."""

    moment: Moment
    since: int
    """From this moment on the disk held the same."""
    chance: random.Random | None = None


def pessimistic(disk: PowerLoss) -> Iterator[Lost]:
    """Every state that the disk has been in, if nothing survives that was not synced."""
    for _, group in itertools.groupby(disk.moments, key=lambda moment: list(moment.durable.items())):
        moments = list(group)
        yield Lost(moments[-1], moments[0].number)


def by_chance(disk: PowerLoss, seeds: Iterable[int], every: int = 1) -> Iterator[Lost]:
    """Every so many moments; what was not synced survives in parts, out of order, torn."""
    for seed in seeds:
        for moment in disk.moments[seed % every :: every]:
            chance = random.Random(f"{seed} {moment.number}")
            yield Lost(moment, moment.number, chance)


@pytest.mark.parametrize("run", RUNS)
def test_acknowledged_files_survive_the_loss_of_all_that_was_not_synced(run: str, tmp_path: Path) -> None:
    disk, ledger = record(tmp_path / "disk", run)
    assert len(disk.moments) > 100
    for lost in pessimistic(disk):
        survive(disk, ledger, lost, tmp_path / "after")


@pytest.mark.parametrize("run", RUNS)
def test_acknowledged_files_survive_whatever_part_reached_the_disk(
    run: str, tmp_path: Path, soak_factor: int
) -> None:
    disk, ledger = record(tmp_path / "disk", run)
    for lost in by_chance(disk, range(soak_factor), every=11 if soak_factor == 1 else 1):
        survive(disk, ledger, lost, tmp_path / "after")


@pytest.mark.parametrize("run", RUNS)
def test_power_is_lost_again_while_recovering(run: str, tmp_path: Path, soak_factor: int) -> None:
    disk, ledger = record(tmp_path / "disk", run)
    for lost in itertools.islice(pessimistic(disk), 5, None, 1 if soak_factor > 1 else 40):
        again = tmp_path / "again"
        disk.rebuild(lost.moment, again)
        second = PowerLoss(again)
        with second.recording():
            host = make_host(again, RUNS[run][1], StillClock().now_ns() + int(1e12)).start()
            host.quiet()
            host.stop()
        promises = Ledger(lambda: 0, ledger.between(lost.since, lost.moment.number), ledger.tried)
        for lost_again in pessimistic(second):
            survive(second, promises.frozen(), lost_again, tmp_path / "after")
        shutil.rmtree(again)


@pytest.mark.parametrize("site", DETECTED)
def test_each_sync_taken_out_is_noticed(site: str, tmp_path: Path) -> None:
    disk, ledger = record(tmp_path / "disk", DETECTED[site], forget=site)
    assert site in disk.sites, "the run never comes there"
    with pytest.raises((AssertionError, ExceptionGroup)):
        # From the end, where most has been promised.
        for lost in reversed(list(pessimistic(disk))):
            survive(disk, ledger, lost, tmp_path / "after")


def test_every_sync_is_either_proved_necessary_or_said_to_be_harmless(tmp_path: Path) -> None:
    seen: set[str] = set()
    for number, run in enumerate(RUNS):
        disk, _ = record(tmp_path / str(number), run)
        seen |= disk.sites
    assert seen == DETECTED.keys() | HARMLESS.keys()
