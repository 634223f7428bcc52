"""Many programs want the same new name at once: one gets it, and its content is whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.tools import Place, eventually, memory_kib, state

PROCESSES, ROUNDS = 32, 200
SIZE = 20_000
_FLAGS = {"O_EXCL": os.O_EXCL, "O_TRUNC": os.O_TRUNC}


def race(flags: int, results: Path, *directories: Path) -> list[list[str]]:
    """What every racer was told, by round."""
    program = Path(__file__).parent / "programs" / "race.py"
    words = [PROCESSES, ROUNDS, flags, results, *directories]
    done = subprocess.run(
        [sys.executable, "-I", program, *(str(word) for word in words)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=250,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def winner_of(told: list[str], allowed: set[str]) -> int:
    winners = [racer for racer, words in enumerate(told) if words == "None"]
    assert len(winners) == 1, told
    assert set(told) - {"None"} <= allowed, told
    return winners[0]


@pytest.mark.row("create-exclusive")
@pytest.mark.row("open-write-writing")
@pytest.mark.parametrize("flags", _FLAGS)
def test_one_winner(place: Place, tmp_path: Path, flags: str) -> None:
    expected = {"O_EXCL": {errno.EEXIST}, "O_TRUNC": {errno.EBUSY, errno.EPERM}}[flags]
    for number, told in enumerate(race(_FLAGS[flags], tmp_path, place.path)):
        winner = winner_of(told, {f"open {value}" for value in expected})
        path = place / str(number)
        assert path.read_bytes() == place.stored(path).read_bytes() == f"{winner:04}".encode() * (SIZE // 4)
        assert state(path) == "committed"
    assert len(place.visible()) == ROUNDS
    assert place.quarantined() == []


@pytest.mark.row("create-exclusive")
@pytest.mark.parametrize("flags", _FLAGS)
def test_one_winner_between_two_daemons(
    fresh_daemon: Callable[..., Daemon], tmp_path: Path, flags: str
) -> None:
    one, two = fresh_daemon(exams={}), fresh_daemon(exams={})
    shared = one.data("exams")
    two.write_config({"exams": {"type": "local", "path": str(shared)}})
    one.start()
    two.start()
    place = Place(one, "exams", "p").make()
    other = two.mountpoint / "exams" / "p"
    # Told at open, or at close when both were writing: never at neither.
    allowed = {f"open {value}" for value in (errno.EEXIST, errno.EBUSY, errno.EPERM)}
    allowed.add(f"close {errno.EEXIST}")
    lost = 0
    for number, told in enumerate(race(_FLAGS[flags], tmp_path, place.path, other)):
        winner = winner_of(told, allowed)
        lost += told.count(f"close {errno.EEXIST}")
        expected = f"{winner:04}".encode() * (SIZE // 4)
        assert place.stored(place / str(number)).read_bytes() == expected
        assert (place / str(number)).read_bytes() == (other / str(number)).read_bytes() == expected
    spools = list((shared / ".wormfs" / "spool").iterdir())
    assert len(spools) == 2, "each daemon has its own spool"
    kept = [path for spool in spools for path in (spool / "quarantine").glob("*.data")]
    assert len(kept) == lost, "what was accepted and lost the race is kept"


@pytest.mark.row("write")
def test_memory_of_a_worker_with_sixteen_writers(
    fresh_daemon: Callable[..., Daemon], soak_factor: int
) -> None:
    mib = 1024 if soak_factor > 1 else 64
    daemon = fresh_daemon()
    daemon.start()
    place = Place(daemon, "exams", "p").make()
    worker = daemon.worker_pid("exams")
    options = ["iflag=count_bytes", "status=none"]
    writers = [
        subprocess.Popen(
            ["dd", "if=/dev/zero", f"of=f{number}", f"bs={size}", f"count={mib}M", *options],
            cwd=place.path,
        )
        for number, size in enumerate(["8k", "1M"] * 8)
    ]
    for writer in writers:
        assert writer.wait(600) == 0
    assert {path.stat().st_size for path in place.path.iterdir()} == {mib << 20}
    eventually(
        lambda: {state(path) for path in place.path.iterdir()} == {"committed"},
        "all are records",
        timeout_s=120,
    )
    assert memory_kib(worker, "VmHWM") < 120 * 1024
