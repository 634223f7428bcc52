"""The power fails at every durable call of a run; what was acknowledged is there afterwards.

And the proof that this proves something: with any one sync taken out, it fails.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.archive import RUNS, Actor, Ledger, examine, make_host
from tests.support.powerloss import Moment, PowerLoss, syncing_nothing


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
    for lost in by_chance(disk, range(soak_factor), every=5 if soak_factor == 1 else 1):
        survive(disk, ledger, lost, tmp_path / "after")
