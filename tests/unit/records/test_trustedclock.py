"""The trusted clock over restarts, beside the backend's own, and with what it keeps damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wormfs import audit
from wormfs.audit import AuditLog
from wormfs.clock import NS_PER_S
from wormfs.errors import Unavailable
from wormfs.records.trustedclock import TrustedClock
from wormfs.worm.timekeeping import Trust

DAY = 86_400
START = 1_700_000_000


@dataclass
class SetClock:
    """Wall and boot clock in seconds, moved by the test."""

    wall_s: float = START
    up_s: float = 100.0

    def now_ns(self) -> int:
        return int(self.wall_s * NS_PER_S)

    def monotonic(self) -> float:
        return self.up_s

    def boot_s(self) -> float:
        return self.up_s

    def go(self, seconds: float) -> None:
        self.wall_s += seconds
        self.up_s += seconds


@dataclass
class BackendClock:
    """The backend's own: seconds, or an error, or none; counts how often it was asked."""

    at: Callable[[], float | None] | None = None
    asked: int = 0
    error: Unavailable | None = None

    def __call__(self) -> int | None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        at = self.at() if self.at is not None else None
        return None if at is None else int(at * NS_PER_S)


@dataclass
class Machine:
    """What a daemon starts on, again and again."""

    path: Path
    clock: SetClock = field(default_factory=SetClock)
    backend: BackendClock = field(default_factory=BackendClock)
    boot: int = 1
    trail: AuditLog | None = None

    def start(self) -> TrustedClock:
        return TrustedClock(
            "exams",
            self.clock,
            f"boot {self.boot}",
            path=self.path,
            backend_time_ns=self.backend,
            trail=self.trail,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "clock" / "exams.json")


def test_the_mark_survives_a_restart_and_a_clock_set_back(machine: Machine) -> None:
    first = machine.start()
    machine.clock.go(10 * DAY)
    assert first.expiry_ns() == machine.clock.now_ns()
    high = machine.clock.now_ns()
    first.keep()
    machine.clock.wall_s -= 3600
    again = machine.start()
    assert (again.expiry_ns(), again.start_ns()) == (high, high)


def test_a_jump_is_told_once_and_put_right(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    clock = machine.start()
    clock.keep()
    machine.clock.wall_s += 2 * DAY
    assert clock.expiry_ns() is None
    assert clock.expiry_ns() is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "wormfs clock accept" in caplog.text
    machine.clock.wall_s -= 2 * DAY
    assert clock.expiry_ns() == machine.clock.now_ns()
    assert "believed again" in caplog.text


def test_a_jump_is_not_healed_by_a_restart_of_the_daemon_or_the_machine(machine: Machine) -> None:
    machine.start().keep()
    machine.clock.wall_s += 2 * DAY
    for boot, up_s in ((1, machine.clock.up_s), (2, 5.0), (3, 5.0)):
        machine.boot, machine.clock.up_s = boot, up_s
        clock = machine.start()
        assert clock.expiry_ns() is None
        clock.keep()


def test_an_accepted_time_is_kept_and_recorded(machine: Machine, tmp_path: Path) -> None:
    machine.trail = AuditLog(tmp_path, "exams", machine.clock)
    clock = machine.start()
    clock.keep()
    machine.clock.wall_s += 400 * DAY
    assert clock.judged().trust is Trust.AHEAD
    assert clock.accept("root, by hand").trust is Trust.SURE
    machine.boot, machine.clock.up_s = 2, 1.0
    assert machine.start().expiry_ns() == machine.clock.now_ns()
    machine.trail.close()
    (line,) = [line for line in audit.read(machine.trail.path) if "accepted" in line]
    assert (line["who"], line["trust"]) == ("root, by hand", "ahead")


def test_nothing_is_accepted_unrecorded(machine: Machine, tmp_path: Path) -> None:
    machine.trail = AuditLog(tmp_path, "exams", machine.clock)
    clock = machine.start()
    clock.keep()
    machine.clock.wall_s += 400 * DAY
    machine.trail.close()
    with pytest.raises(Unavailable):
        clock.accept("root")
    assert clock.expiry_ns() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"v": 1}', '{"v": 2}', '{"v":1,"high_ns":"x"}'])
def test_a_damaged_mark_is_doubt(machine: Machine, text: str, caplog: pytest.LogCaptureFixture) -> None:
    machine.path.parent.mkdir()
    machine.path.write_text(text)
    clock = machine.start()
    assert "is damaged" in caplog.text
    assert clock.expiry_ns() is None
    clock.accept("root")
    assert machine.start().expiry_ns() == machine.clock.now_ns()


def test_the_backend_explains_a_long_power_off(machine: Machine) -> None:
    machine.start().keep()
    machine.clock.wall_s += 30 * DAY
    machine.boot, machine.clock.up_s = 2, 1.0
    machine.backend.at = lambda: machine.clock.wall_s - 5
    clock = machine.start()
    assert clock.expiry_ns() == machine.clock.now_ns() - 5 * NS_PER_S
    clock.keep()
    machine.backend.at = None
    assert machine.start().judged().trust is Trust.SURE, "it is anchored now"


def test_the_backend_is_asked_now_and_then_and_its_silence_is_no_failure(machine: Machine) -> None:
    machine.backend.at = lambda: machine.clock.wall_s
    clock = machine.start()
    for _ in range(10):
        clock.expiry_ns()
    assert machine.backend.asked == 1
    machine.backend.error = Unavailable("down")
    machine.clock.go(61)
    assert clock.expiry_ns() == machine.clock.now_ns()
    assert machine.backend.asked == 2


def test_an_answer_of_the_backend_grows_old_by_the_boot_clock(machine: Machine) -> None:
    machine.backend.at = lambda: START - 3600
    clock = machine.start()
    assert clock.expiry_ns() == (START - 3600) * NS_PER_S
    machine.clock.go(30)
    assert clock.expiry_ns() == (START - 3600 + 30) * NS_PER_S


def test_the_mark_is_written_now_and_then(machine: Machine) -> None:
    clock = machine.start()
    clock.keep_sometimes()
    first = machine.path.read_text()
    machine.clock.go(60)
    clock.keep_sometimes()
    assert machine.path.read_text() == first
    machine.clock.go(300)
    clock.keep_sometimes()
    assert json.loads(machine.path.read_text())["high_ns"] == machine.clock.now_ns()


def test_a_mark_that_cannot_be_written_is_told(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "clock").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be"):
        machine.start().keep()
