"""The time that retention believes: single cases, and a machine that moves clocks at random."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wormfs.worm.timekeeping import TOLERANCE_NS, Believed, Reading, Trust, accepted, judge

DAY = TOLERANCE_NS
HOUR = DAY // 24
START = 20_000 * DAY


def reading(wall_ns: int, boot_ns: int = 0, boot: str = "one", backend_ns: int | None = None) -> Reading:
    return Reading(wall_ns, boot, boot_ns, backend_ns)


@pytest.fixture
def believed() -> Believed:
    return judge(None, reading(START)).believed


def test_the_first_look_is_believed(believed: Believed) -> None:
    first = judge(None, reading(START))
    assert (first.trust, first.expiry_ns, first.start_ns) == (Trust.SURE, START, START)


def test_but_not_against_the_backend() -> None:
    first = judge(None, reading(START + 30 * DAY, backend_ns=START))
    assert first.trust is Trust.AHEAD
    assert first.expiry_ns is None


def test_time_goes_on(believed: Believed) -> None:
    later = judge(believed, reading(START + 400 * DAY, 400 * DAY))
    assert (later.trust, later.expiry_ns) == (Trust.SURE, START + 400 * DAY)


def test_a_jump_ahead_is_not_believed_and_healed_by_putting_it_right(believed: Believed) -> None:
    jumped = judge(believed, reading(START + 2 * DAY, HOUR))
    assert (jumped.trust, jumped.expiry_ns) == (Trust.AHEAD, None)
    assert jumped.start_ns == START + 2 * DAY, "in doubt the later date"
    right = judge(jumped.believed, reading(START + 2 * HOUR, 2 * HOUR))
    assert (right.trust, right.expiry_ns) == (Trust.SURE, START + 2 * HOUR)


def test_many_small_jumps_are_one(believed: Believed) -> None:
    at, now = 0, believed
    for _ in range(10):
        at += 20 * HOUR
        judged = judge(now, reading(START + at, at // 1000))
        now = judged.believed
    assert judged.trust is Trust.AHEAD
    assert now.high_ns <= START + DAY + HOUR


def test_a_jump_back_freezes_within_a_day_and_alarms_beyond(believed: Believed) -> None:
    now = judge(believed, reading(START + 10 * DAY, 10 * DAY)).believed
    little = judge(now, reading(START + 10 * DAY - 5 * HOUR, 10 * DAY + HOUR))
    assert (little.trust, little.expiry_ns) == (Trust.SURE, START + 10 * DAY)
    assert little.start_ns == START + 10 * DAY
    much = judge(now, reading(START - 300 * DAY, 10 * DAY + HOUR))
    assert (much.trust, much.expiry_ns) == (Trust.BEHIND, None)
    assert much.start_ns == START + 10 * DAY, "a new file's date must not be over too early"


def test_a_short_power_off_is_no_jump_and_a_long_one_is(believed: Believed) -> None:
    now = judge(believed, reading(START + 10 * DAY, 10 * DAY)).believed
    short = judge(now, reading(START + 10 * DAY + 23 * HOUR, HOUR, "two"))
    assert short.trust is Trust.SURE
    long = judge(now, reading(START + 13 * DAY, HOUR, "two"))
    assert long.trust is Trust.AHEAD
    assert judge(now, reading(START + 13 * DAY, HOUR, "two", START + 13 * DAY)).trust is Trust.SURE


def test_the_backend_confirms_but_its_own_lag_counts(believed: Believed) -> None:
    judged = judge(believed, reading(START + 90 * DAY, HOUR, backend_ns=START + 90 * DAY - HOUR))
    assert judged.trust is Trust.SURE
    assert judged.expiry_ns == START + 90 * DAY - HOUR
    # From here on the machine goes on by itself.
    assert judge(judged.believed, reading(START + 91 * DAY, DAY + HOUR)).trust is Trust.SURE


def test_a_backend_that_is_ahead_moves_nothing(believed: Believed) -> None:
    judged = judge(believed, reading(START + HOUR, HOUR, backend_ns=START + 3650 * DAY))
    assert judged.expiry_ns == START + HOUR


def test_an_administrators_word(believed: Believed) -> None:
    for wall in (START + 100 * DAY, START - 100 * DAY):
        there = reading(wall, HOUR)
        assert judge(believed, there).trust is not Trust.SURE
        assert judge(accepted(there), there).expiry_ns == wall


class Clocks(RuleBasedStateMachine):
    """A machine whose clocks go, jump, and are switched off; ``true_ns`` is the time of the world.

    An honest administrator accepts only what is right, within a day. Then nothing may count as expired
    before its time, but for the tolerance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.true_ns = START
        self.wall_off = 0
        self.boot, self.booted_ns = 0, START
        self.backend_off: int | None = None
        self.slack = 0
        self.believed: Believed | None = None
        self.judged = self.look()
        self.highest = self.judged.believed.high_ns

    def reading(self) -> Reading:
        return Reading(
            self.true_ns + self.wall_off,
            str(self.boot),
            self.true_ns - self.booted_ns,
            None if self.backend_off is None else self.true_ns + self.backend_off,
        )

    def look(self) -> object:
        self.judged = judge(self.believed, self.reading())
        self.believed = self.judged.believed
        return self.judged

    @rule(hours=st.integers(1, 200))
    def pass_time(self, hours: int) -> None:
        self.true_ns += hours * HOUR
        self.look()

    @rule(hours=st.one_of(st.integers(-30, 30), st.integers(-(10**6), 10**6)))
    def set_clock(self, hours: int) -> None:
        self.wall_off = hours * HOUR
        self.look()

    @rule(hours=st.integers(1, 23), times=st.integers(1, 10))
    def creep(self, hours: int, times: int) -> None:
        """Ahead in steps that are each too small to be seen."""
        for _ in range(times):
            self.wall_off += hours * HOUR
            self.look()

    @rule()
    def put_right(self) -> None:
        self.wall_off = 0
        self.look()

    @rule(off_hours=st.integers(0, 100), clock=st.integers(-30, 30))
    def reboot(self, off_hours: int, clock: int) -> None:
        self.true_ns += off_hours * HOUR
        self.boot += 1
        self.booted_ns = self.true_ns
        # Each start may cost a day: what was the time while it was off, nobody else knows.
        self.slack += DAY
        self.look()

    @rule(hours=st.one_of(st.none(), st.integers(-24 * 400, 20)))
    def backend(self, hours: int | None) -> None:
        """Its clock is unknown, slow, or within a day of right."""
        self.backend_off = None if hours is None else hours * HOUR
        self.look()

    @rule()
    def accept(self) -> None:
        if abs(self.wall_off) <= 20 * HOUR:
            self.believed = accepted(self.reading())
            self.highest = self.believed.high_ns
            self.look()

    @invariant()
    def nothing_expires_early(self) -> None:
        if self.judged.expiry_ns is not None:
            assert self.judged.expiry_ns <= self.true_ns + 2 * DAY + self.slack

    @invariant()
    def it_never_goes_back(self) -> None:
        assert self.judged.believed.high_ns >= self.highest
        self.highest = self.judged.believed.high_ns

    @invariant()
    def dates_of_new_files_begin_no_earlier_than_what_is_believed(self) -> None:
        assert self.judged.start_ns >= self.judged.believed.high_ns

    @invariant()
    def looking_again_changes_nothing(self) -> None:
        again = judge(self.judged.believed, self.reading())
        assert again.trust is self.judged.trust
        assert replace(again, expected_ns=0) == replace(self.judged, expected_ns=0)

    @invariant()
    def a_clock_that_is_right_is_believed_with_the_backend(self) -> None:
        """Unless what was believed before lies ahead: then an administrator must say so."""
        if self.wall_off == 0 and self.backend_off is not None and self.backend_off >= -DAY:
            assert self.judged.trust is not Trust.AHEAD


TestClocks = Clocks.TestCase
TestClocks.settings = settings(
    max_examples=3000 if os.environ.get("WORMFS_SOAK") else 150, stateful_step_count=40, deadline=None
)
