"""Calendar arithmetic of retention: leap days, ends of years, time zones, and how dates are written."""

from __future__ import annotations

import datetime
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.errors import InvalidArgument
from wormfs.model import FOREVER, Period
from wormfs.worm import dates
from wormfs.worm.dates import NS_PER_S, Rounding

UTC = datetime.UTC
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
AUCKLAND = zoneinfo.ZoneInfo("Pacific/Auckland")
ZONES = [UTC, BERLIN, AUCKLAND, zoneinfo.ZoneInfo("America/St_Johns"), zoneinfo.ZoneInfo("Asia/Kathmandu")]


def ns(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp()) * NS_PER_S


def after(start: str, period: Period, rounding: Rounding, zone: datetime.tzinfo = UTC) -> str:
    return dates.show(dates.after(ns(start), period, rounding, zone))


@pytest.mark.parametrize(
    ("start", "period", "end"),
    [
        ("2026-03-03T12:00:00Z", Period(years=10), "2036-03-03T12:00:00Z"),
        # Leap days: the day that is missing becomes the next one, never the one before.
        ("2024-02-29T12:00:00Z", Period(years=10), "2034-03-01T12:00:00Z"),
        ("2024-02-29T12:00:00Z", Period(years=4), "2028-02-29T12:00:00Z"),
        ("2096-02-29T00:00:00Z", Period(years=4), "2100-03-01T00:00:00Z"),  # no leap year
        ("2000-02-29T00:00:00Z", Period(years=100), "2100-03-01T00:00:00Z"),
        ("2026-01-31T08:00:00Z", Period(months=1), "2026-03-01T08:00:00Z"),
        ("2026-12-31T23:59:59Z", Period(months=2), "2027-03-01T23:59:59Z"),
        ("2026-08-31T00:00:00Z", Period(years=1, months=1), "2027-10-01T00:00:00Z"),
        ("2026-03-03T12:00:00Z", Period(seconds=86400), "2026-03-04T12:00:00Z"),
        ("2026-03-03T12:00:00Z", Period(years=1, seconds=60), "2027-03-03T12:01:00Z"),
        ("2026-03-03T12:00:00Z", Period(), "2026-03-03T12:00:00Z"),
    ],
)
def test_periods(start: str, period: Period, end: str) -> None:
    assert after(start, period, Rounding.NONE) == end


@pytest.mark.parametrize(
    ("start", "zone", "end"),
    [
        ("2026-03-03T12:00:00Z", UTC, "2031-12-31T23:59:59Z"),
        ("2026-12-31T23:59:59Z", UTC, "2031-12-31T23:59:59Z"),
        ("2027-01-01T00:00:00Z", UTC, "2032-12-31T23:59:59Z"),
        ("2026-03-03T12:00:00Z", BERLIN, "2031-12-31T22:59:59Z"),
        # In Berlin it is next year already.
        ("2026-12-31T23:30:00Z", BERLIN, "2032-12-31T22:59:59Z"),
        ("2026-12-31T10:59:59Z", AUCKLAND, "2031-12-31T10:59:59Z"),
        ("2026-12-31T11:00:00Z", AUCKLAND, "2032-12-31T10:59:59Z"),
    ],
)
def test_five_years_after_the_end_of_the_year(start: str, zone: datetime.tzinfo, end: str) -> None:
    assert after(start, Period(years=5), Rounding.END_OF_YEAR, zone) == end


def test_a_day_that_daylight_saving_shortens_or_doubles_ends_later() -> None:
    # 02:30 does not exist on 29 March 2026 in Berlin, and exists twice on 25 October.
    assert after("2025-03-29T01:30:00Z", Period(years=1), Rounding.NONE, BERLIN) == "2026-03-29T01:30:00Z"
    assert after("2025-10-25T00:30:00Z", Period(years=1), Rounding.NONE, BERLIN) == "2026-10-25T01:30:00Z"


def test_a_part_of_a_second_counts_as_a_whole_one() -> None:
    assert dates.after(1, Period(), Rounding.NONE, UTC) == NS_PER_S
    assert dates.after(NS_PER_S, Period(), Rounding.NONE, UTC) == NS_PER_S


def test_what_no_clock_can_show_is_for_ever() -> None:
    assert dates.after(ns("2200-01-01T00:00:00Z"), Period(years=100), Rounding.NONE, UTC) is FOREVER
    assert dates.after(1 << 80, Period(years=100), Rounding.NONE, UTC) is FOREVER


starts = st.integers(ns("1970-01-02T00:00:00Z"), ns("2060-01-01T00:00:00Z"))
periods = st.builds(Period, st.integers(0, 100), st.integers(0, 30), st.integers(0, 10**7))


@given(starts, periods, st.sampled_from(Rounding), st.sampled_from(ZONES))
def test_never_shorter_than_the_calendar_says(
    start: int, period: Period, rounding: Rounding, zone: datetime.tzinfo
) -> None:
    end = dates.after(start, period, rounding, zone)
    assert end is not None
    assert end % NS_PER_S == 0
    # 28 days is the shortest month; at most the rest of a year comes on top.
    years = 12 * period.years + period.months
    assert end - start >= (years * 28 * 86400 + period.seconds) * NS_PER_S
    exact = dates.after(start, period, Rounding.NONE, zone)
    assert exact is not None
    assert end >= exact
    assert end - exact <= 367 * 86400 * NS_PER_S
    if rounding is Rounding.END_OF_YEAR:
        local = datetime.datetime.fromtimestamp(end // NS_PER_S, zone)
        assert (local.month, local.day, local.hour, local.minute, local.second) == (12, 31, 23, 59, 59)
        assert local.year == datetime.datetime.fromtimestamp(exact // NS_PER_S, zone).year


@given(starts, starts, periods, st.sampled_from(Rounding), st.sampled_from(ZONES))
def test_who_begins_later_ends_later(
    one: int, other: int, period: Period, rounding: Rounding, zone: datetime.tzinfo
) -> None:
    """But for a day: that is what moving a missing day costs, and an hour of daylight saving."""
    first, second = (dates.after(start, period, rounding, zone) for start in sorted((one, other)))
    assert first is not None
    assert second is not None
    slack_s = 366 * 86400 if rounding is Rounding.END_OF_YEAR else 4 * 86400
    assert second >= first - slack_s * NS_PER_S


@pytest.mark.parametrize(
    ("text", "zone", "shown"),
    [
        ("2040-12-31", UTC, "2040-12-31T23:59:59Z"),
        ("2040-12-31", BERLIN, "2040-12-31T22:59:59Z"),
        ("20401231", UTC, "2040-12-31T23:59:59Z"),
        ("2040-W01-1", UTC, "2040-01-02T23:59:59Z"),
        ("2040-07-01", BERLIN, "2040-07-01T21:59:59Z"),
        ("2040-12-31T18:00", BERLIN, "2040-12-31T17:00:00Z"),
        ("2040-12-31T18:00:00Z", BERLIN, "2040-12-31T18:00:00Z"),
        ("2040-12-31T18:00:00+02:00", UTC, "2040-12-31T16:00:00Z"),
        ("2040-12-31T18:00:00.5Z", UTC, "2040-12-31T18:00:01Z"),
        (" 2040-12-31 18:00 ", UTC, "2040-12-31T18:00:00Z"),
        ("9999-12-31", UTC, "9999-12-31T23:59:59Z"),
        ("forever", UTC, "forever"),
        ("Forever", UTC, "forever"),
    ],
)
def test_dates_that_people_write(text: str, zone: datetime.tzinfo, shown: str) -> None:
    assert dates.show(dates.parse(text, zone)) == shown


@pytest.mark.parametrize("text", ["", "soon", "2040-13-01", "2040", "31.12.2040", "-1", "10y", "none"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(InvalidArgument, match="write 2040-12-31"):
        dates.parse(text, UTC)


@given(st.integers(NS_PER_S, ns("9999-12-31T23:59:59Z")).map(lambda at: at // NS_PER_S * NS_PER_S))
def test_what_is_shown_is_read_back(at: int) -> None:
    assert dates.parse(dates.show(at), BERLIN) == at


def test_showing() -> None:
    assert (dates.show(0), dates.show(None)) == ("none", "forever")
