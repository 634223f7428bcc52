"""Which time retention believes: rules only, no clock.

Two dangers. A clock that is set ahead would let files expire too early; one that is set back would give
new files a date that is over too early. So the highest time that was believed is remembered (the
high-water mark), and the wall clock is compared with what can be known otherwise: how long the machine has
been running since a moment at which the time was believed (CLOCK_BOOTTIME, which nobody can set), and the
backend's own clock where it has one.

* Ahead of all of these by more than a day: AHEAD. Nothing counts as expired until an administrator accepts
  it, the backend's clock confirms it, or the clock is put right.
* Behind the high-water mark by more than a day: BEHIND, likewise. Something is wrong, then or now.
* Within a day: SURE. The time is the high-water mark, so it never goes back.

How long a machine was switched off nobody but the wall clock knows. So, without a backend's clock, a machine
that was off for more than a day asks for an administrator's word: the safe side.
A day is allowed once per boot, not once per step: what is believed is measured from one anchor.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Final

TOLERANCE_NS: Final = 86_400 * 1_000_000_000


class Trust(enum.Enum):
    """Whether the wall clock is believed."""

    SURE = "sure"
    AHEAD = "ahead"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the clocks say now, in nanoseconds."""

    wall_ns: int
    boot_id: str
    """Names the boot that ``boot_ns`` counts from."""
    boot_ns: int
    backend_ns: int | None = None
    """The backend's clock; ``None`` where there is none, or it does not answer."""


@dataclass(frozen=True, slots=True)
class Believed:
    """What is remembered over restarts."""

    high_ns: int
    """The high-water mark."""
    anchor_wall_ns: int
    """A believed time, and when in the life of that boot it was."""
    anchor_boot_ns: int
    anchor_boot_id: str


@dataclass(frozen=True, slots=True)
class Judged:
    """The outcome of a look at the clocks."""

    believed: Believed
    trust: Trust
    wall_ns: int
    expected_ns: int
    """What the wall clock should say at least."""
    backend_ns: int | None

    @property
    def expiry_ns(self) -> int | None:
        """The time for "is it over?": in doubt the earlier. ``None`` while nothing counts as expired."""
        if self.trust is not Trust.SURE:
            return None
        high = self.believed.high_ns
        return high if self.backend_ns is None else min(high, self.backend_ns)

    @property
    def start_ns(self) -> int:
        """The time for "from when does retention run?": in doubt the later, so that nothing ends early."""
        return max(self.wall_ns, self.believed.high_ns)


def judge(before: Believed | None, reading: Reading) -> Judged:
    """Look at the clocks. ``before`` is ``None`` at the very first look: believed, if the backend agrees."""
    believed = before or _first(reading)
    expected_ns = believed.anchor_wall_ns + reading.boot_ns - believed.anchor_boot_ns
    if reading.boot_id != believed.anchor_boot_id:
        expected_ns = believed.high_ns
    latest_ns = expected_ns + TOLERANCE_NS
    confirmed = reading.backend_ns is not None and reading.wall_ns <= reading.backend_ns + TOLERANCE_NS
    trust = Trust.SURE
    if reading.wall_ns > latest_ns and not confirmed:
        trust = Trust.AHEAD
    elif reading.wall_ns < believed.high_ns - TOLERANCE_NS:
        trust = Trust.BEHIND
    else:
        moved = reading.boot_id != believed.anchor_boot_id or reading.wall_ns > latest_ns
        believed = _anchored(reading, believed.high_ns) if moved else believed
        believed = dataclasses.replace(believed, high_ns=max(believed.high_ns, reading.wall_ns))
    return Judged(believed, trust, reading.wall_ns, expected_ns, reading.backend_ns)


def accepted(reading: Reading) -> Believed:
    """An administrator says that the wall clock is right, wherever it was before."""
    return _anchored(reading, reading.wall_ns)


def _first(reading: Reading) -> Believed:
    start_ns = reading.wall_ns
    if reading.backend_ns is not None and start_ns > reading.backend_ns + TOLERANCE_NS:
        start_ns = reading.backend_ns
    return Believed(start_ns, start_ns, reading.boot_ns, reading.boot_id)


def _anchored(reading: Reading, high_ns: int) -> Believed:
    return Believed(high_ns, reading.wall_ns, reading.boot_ns, reading.boot_id)
