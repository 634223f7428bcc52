"""Sizes, durations and percentages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.config.units import (
    MAX_DURATION_S,
    MAX_SIZE_BYTES,
    parse_duration,
    parse_percent,
    parse_size,
    quote,
    show_duration,
    show_size,
)


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("0B", 0),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("10TiB", 10 * 2**40),
        ("10tib", 10 * 2**40),
        (" 500 GB ", 500 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("0.1MB", 100_000),
        ("7EiB", 7 * 2**60),
        (MAX_SIZE_BYTES, MAX_SIZE_BYTES),
    ],
)
def test_sizes(written: object, size_bytes: int) -> None:
    assert parse_size(written) == size_bytes


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "must be a size such as 10TiB"),
        ("big", "must be a size"),
        ("-1", "must be a size"),
        ("1e9", "must be a size"),
        ("1,5GB", "must be a size"),
        ("٣GB", "must be a size"),
        ("1GiB 2MiB", "must be a size"),
        (None, "not empty"),
        (True, "not true"),
        (1.5, "not 1.5"),
        ([1], "not a list"),
        ({}, "not a mapping"),
        ("10T", "write 10TiB (powers of 1024) or 10TB (powers of 1000)"),
        ("1k", "write 1KiB (powers of 1024) or 1kB (powers of 1000)"),
        ("1Gbit", "unknown unit in '1Gbit'; write one of B, KiB"),
        ("0.3KiB", "not a whole number of bytes"),
        ("8EiB", "just under 8EiB"),
        (-1, "from 0 to"),
        (2**63, "from 0 to"),
        ("9" * 1000, "must be a size"),
    ],
)
def test_wrong_sizes_say_what_is_right(written: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_size(written)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("written", "duration_s"),
    [
        (0, 0.0),
        (90, 90.0),
        (0.5, 0.5),
        ("90", 90.0),
        ("0s", 0.0),
        ("30s", 30.0),
        ("500ms", 0.5),
        ("1m", 60.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1.5h", 5400.0),
        ("2 Minutes", 120.0),
        ("7 days", 604_800.0),
        ("2w", 1_209_600.0),
        ("10y", 315_576_000.0),
        ("200y", MAX_DURATION_S),
    ],
)
def test_durations(written: object, duration_s: float) -> None:
    assert parse_duration(written) == duration_s


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "must be a duration such as 30s"),
        ("soon", "must be a duration"),
        ("-1s", "must be a duration"),
        ("1h30", "must be a duration"),
        ("1:30", "must be a duration"),
        ("s", "must be a duration"),
        ("1 moon", "write one of ms, s, m, h, d, w, y"),
        ("3 months", "months differ in length"),
        ("1h1h", "stands twice"),
        ("1h 2 hours", "stands twice"),
        (None, "not empty"),
        (False, "not false"),
        (float("nan"), "from 0s to 200y"),
        (float("inf"), "from 0s to 200y"),
        (-1, "from 0s to 200y"),
        ("201y", "from 0s to 200y"),
        (10**400, "from 0s to 200y"),
        ("9" * 90, "from 0s to 200y"),
        ("9" * 1000 + "s", "must be a duration"),
    ],
)
def test_wrong_durations_say_what_is_right(written: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(written)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@given(
    st.integers(0, MAX_SIZE_BYTES)
    | st.builds(lambda n, p: n * 1024**p, st.integers(0, 999), st.integers(0, 5))
)
def test_a_size_survives_being_shown(size_bytes: int) -> None:
    assert parse_size(show_size(size_bytes)) == size_bytes


@given(st.floats(0, MAX_DURATION_S, allow_nan=False) | st.integers(0, MAX_DURATION_S))
def test_a_duration_survives_being_shown(duration_s: float) -> None:
    assert parse_duration(show_duration(duration_s)) == parse_duration(duration_s) == round(duration_s, 9)


@given(st.text(max_size=30) | st.integers() | st.floats() | st.none() | st.booleans())
def test_whatever_is_written_is_read_or_refused(written: object) -> None:
    for parse in (parse_size, parse_duration):
        try:
            value = parse(written)
        except ValueError as error:
            assert str(error)
        else:
            assert value >= 0


def test_durations_read_well() -> None:
    shown = [show_duration(s) for s in (0, 1, 60, 5400, 86_400, 31_557_600, 315_576_000, 0.25)]
    assert shown == ["0s", "1s", "1m", "1h30m", "1d", "1y", "10y", "0.25s"]


def test_percentages() -> None:
    assert parse_percent("5%") == 5
    assert parse_percent(" 0.5 % ") == 0.5
    for wrong in ("101%", "-1%", "%", "5", "5%%"):
        with pytest.raises(ValueError, match="percentage from 0% to 100%"):
            parse_percent(wrong)


def test_a_quoted_value_stays_short_and_on_one_line() -> None:
    assert "\n" not in quote("a\nb")
    assert len(quote("x" * 10_000)) < 200
