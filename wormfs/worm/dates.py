"""Dates of retention: calendar arithmetic, and how people write dates. No clock of its own, no I/O.

Retention counts in calendar years, as laws do: ten years from 3 March 2026 end on 3 March 2036, however many
leap days lie between. Where a date can be read in two ways, the later one is meant: a file that stays
a day longer harms nobody. So ten years from 29 February 2024 end on 1 March 2034.
"""

from __future__ import annotations

import datetime
import enum
import functools
import re

from wormfs.errors import InvalidArgument
from wormfs.model import FOREVER, Period

NS_PER_S = 1_000_000_000
_SHOWN_FOREVER = "forever"
_DAY = re.compile(r"\d{4}-?(\d{2}-?\d{2}|W\d{2}(-?\d)?)", re.ASCII)
_LAST_NS = (1 << 63) - 1


class Rounding(enum.Enum):
    """Where a period ends."""

    NONE = "none"
    END_OF_YEAR = "end-of-year"
    """With the calendar year: "five years after the end of the year" is five years, rounded like this."""


def after(start_ns: int, period: Period, rounding: Rounding, zone: datetime.tzinfo) -> int | None:
    """The end of ``period`` from ``start_ns`` on, in whole seconds, as nanoseconds since the epoch.

    Years and months are those of the calendar in ``zone``, the rest is exact. FOREVER when it lies
    beyond 2262, where 63 bits of nanoseconds end.
    """
    return _after(-(-start_ns // NS_PER_S), period, rounding, zone)


@functools.lru_cache(maxsize=64)
def _after(start_s: int, period: Period, rounding: Rounding, zone: datetime.tzinfo) -> int | None:
    # Remembered, because a thousand files may be closed within one second.
    try:
        wall = datetime.datetime.fromtimestamp(start_s, zone).replace(tzinfo=None)
        end_s = _later_s(_add_months(wall, 12 * period.years + period.months), zone) + period.seconds
        if rounding is Rounding.END_OF_YEAR:
            year = datetime.datetime.fromtimestamp(end_s, zone).year
            end_s = _later_s(datetime.datetime(year, 12, 31, 23, 59, 59), zone)  # noqa: DTZ001 (zone follows)
    except (ValueError, OverflowError, OSError):
        return FOREVER
    return end_s * NS_PER_S if end_s * NS_PER_S <= _LAST_NS else FOREVER


def _add_months(wall: datetime.datetime, months: int) -> datetime.datetime:
    years, month = divmod(wall.month - 1 + months, 12)
    try:
        return wall.replace(year=wall.year + years, month=month + 1)
    except ValueError:
        if wall.day < 29:
            raise
        # The month has no such day: the first of the next one.
        first = wall.replace(year=wall.year + years, month=month + 1, day=1)
        return (first + datetime.timedelta(days=31)).replace(day=1)


def _later_s(wall: datetime.datetime, zone: datetime.tzinfo) -> int:
    """A wall clock time, which daylight saving can make ambiguous, as seconds since the epoch."""
    return max(int(wall.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1))


def parse(text: str, zone: datetime.tzinfo) -> int | None:
    """The date that somebody wrote: ``2040-12-31`` (the end of that day), ``2040-12-31T12:00``,
    ``2040-12-31T12:00:00Z`` or ``...+01:00``, or ``forever``. Without an offset it is in ``zone``.

    Raises InvalidArgument.
    """
    text = text.strip()
    if text.lower() == _SHOWN_FOREVER:
        return FOREVER
    try:
        wall = datetime.datetime.fromisoformat(text)
        if _DAY.fullmatch(text):  # in any form of ISO 8601
            wall = wall.replace(hour=23, minute=59, second=59)
        if wall.tzinfo is None:
            return _later_s(wall, zone) * NS_PER_S
        # A part of a second goes up, like every doubt about a date.
        return -int(-wall.timestamp() // 1) * NS_PER_S
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(
            f"{text!r} is no date: write 2040-12-31, 2040-12-31T18:00, 2040-12-31T18:00:00Z or forever"
        ) from error


def show(until_ns: int | None) -> str:
    """A date of retention as programs and people read it: ``2040-12-31T22:59:59Z``, ``forever``, ``none``."""
    if until_ns is FOREVER:
        return _SHOWN_FOREVER
    if until_ns <= 0:
        return "none"
    try:
        at = datetime.datetime.fromtimestamp(until_ns // NS_PER_S, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{until_ns // NS_PER_S} s after 1970"
    return f"{at.year:04}-{at:%m-%dT%H:%M:%SZ}"
