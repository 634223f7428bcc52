"""Time, in one place: nothing else in wormfs asks the wall clock or sleeps.

Tests hand in a clock of their own instead of waiting.
"""

from __future__ import annotations

import datetime
import time
from typing import Protocol

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """What the layers may ask about time."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    def boot_s(self) -> float:
        """Seconds since boot, sleep included: comparable with ``/proc/PID/stat`` start times."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    def boot_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def monotonic() -> float:
    """Seconds from an arbitrary start, for code that is handed no clock."""
    return time.monotonic()


precise_ns = time.perf_counter_ns
"""Nanoseconds from an arbitrary start, to measure what takes microseconds. Not a function of ours around it:
that would cost as much as the look itself."""


def pause(seconds: float) -> None:
    """Block this thread. Never on the event loop."""
    time.sleep(seconds)


def timestamp(at_ns: int) -> str:
    """ISO 8601 in UTC, to the second: for people and for sorting."""
    return datetime.datetime.fromtimestamp(at_ns // NS_PER_S, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
