"""Settings of retention, right and wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.config import InvalidSettings, Settings, dump, parse
from wormfs.config.units import nominal_s, parse_period, show_period
from wormfs.daemon import stacks
from wormfs.model import Key, Period
from wormfs.worm import dates
from wormfs.worm.erasing import EraseMode

TOP = "mountpoint: /mnt/worm\nbackends:\n  a:\n    type: local\n    path: /srv/a\n"


def settings_with(lines: str) -> Settings:
    return parse(TOP + "".join(f"    {line}\n" for line in lines.splitlines()), "f.yaml")


def problems_with(lines: str) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        settings_with(lines)
    return [str(problem).removeprefix("f.yaml:") for problem in caught.value.problems]


def test_the_default_is_for_ever_and_nothing_goes() -> None:
    options = stacks.record_options(settings_with("description: x").backend("a"))
    assert options.mode is EraseMode.NEVER
    assert options.policy.retention_of(Key(b"f"), 1).retain_until_ns is None
    assert not options.atime_retention
    assert not options.compliance


def test_everything_reaches_the_rules() -> None:
    settings = settings_with(
        "retention:\n"
        "  period: 10y\n"
        "  round: end-of-year\n"
        "  min: 1mo\n"
        "  max: 12y\n"
        "  time_zone: Europe/Berlin\n"
        "  compliance: yes\n"
        "  rules:\n"
        "    - {match: 'oral/**', period: 5y}\n"
        "    - {match: '**/*.log', period: 90d, round: none}\n"
        "erase: expired\n"
        "atime_retention: true"
    )
    options = stacks.record_options(settings.backend("a"))
    assert (options.mode, options.atime_retention, options.compliance) == (EraseMode.EXPIRED, True, True)
    sealed_ns = 1_772_539_200 * dates.NS_PER_S  # 2026-03-03 12:00 UTC
    found = {
        path: dates.show(options.policy.retention_of(Key(path), sealed_ns).retain_until_ns)
        for path in (b"f", b"oral/f", b"x/f.log")
    }
    assert found == {
        b"f": "2036-12-31T22:59:59Z",
        b"oral/f": "2031-12-31T22:59:59Z",
        b"x/f.log": "2026-06-01T12:00:00Z",
    }
    assert parse(dump(settings)) == settings


def test_a_scratch_directory() -> None:
    options = stacks.record_options(settings_with("erase: always").backend("a"))
    assert options.policy.retention_of(Key(b"f"), 1).retain_until_ns == 0


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("retention: 10y", "6: backends.a.retention: must be a mapping such as {period: 10y, round"),
        ("retention:", "6: backends.a.retention: must be a mapping such as"),
        (
            "retention:\n  perod: 1y",
            "7: backends.a.retention.perod: is not a setting; did you mean 'period'?",
        ),
        ("retention: {period: 10}", "6: backends.a.retention.period: must be a period such as 10y, 6mo"),
        ("retention: {period: 1y1y}", "6: backends.a.retention.period: must be a period"),
        ("retention: {period: 1.5y}", "6: backends.a.retention.period: must be a period"),
        ("retention: {period: 201y}", "6: backends.a.retention.period: must be at most 200y"),
        ("retention: {round: up}", "6: backends.a.retention.round: must be one of none, end-of-year"),
        ("retention: {time_zone: Mars/X}", "6: backends.a.retention.time_zone: 'Mars/X' is no time zone"),
        ("retention: {time_zone: ../x}", "6: backends.a.retention.time_zone: '../x' is no time zone"),
        (
            "retention: {max: 1y}",
            "6: backends.a.retention.max: max (1y) is shorter than the period (forever)",
        ),
        ("retention: {period: 1y, min: 3y, max: 2y}", "6: backends.a.retention.max: must not be shorter"),
        ("retention:\n  rules: x", "7: backends.a.retention.rules: must be a list such as"),
        ("retention:\n  rules: [7]", "7: backends.a.retention.rules.0: must be a mapping such as"),
        (
            "retention:\n  rules:\n    - {match: x, period: 1y}\n    - {match: 'a**', period: 1y}",
            "9: backends.a.retention.rules.1.match: '**' stands for whole directories",
        ),
        (
            "retention:\n  rules:\n    - {match: x}",
            "8: backends.a.retention.rules.0.period: is missing; add 'period: 5y'",
        ),
        (
            "retention:\n  period: 1y\n  max: 2y\n  rules:\n    - {match: 'q/**', period: 3y}",
            "9: backends.a.retention.rules: max (2y) is shorter than the period of q/** (3y)",
        ),
        ("erase: sometimes", "6: backends.a.erase: must be one of never, expired, always"),
        (
            "retention: {period: 1y}\nerase: always",
            "7: backends.a.erase: 'always' is for scratch directories",
        ),
        ("retention: {compliance: true}\nerase: always", "7: backends.a.erase: 'always' is for scratch"),
        ("atime_retention: 1", "6: backends.a.atime_retention: must be true or false"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(lines: str, expected: str) -> None:
    (problem,) = problems_with(lines)
    assert problem.startswith(expected)


def test_all_problems_are_told_at_once() -> None:
    lines = "retention:\n  period: x\n  rond: none\n  rules:\n    - {match: /, period: 1y}\nerase: x"
    assert len(problems_with(lines)) == 4


periods = st.builds(Period, st.integers(0, 99), st.integers(0, 99), st.integers(0, 10**9))


@given(periods)
def test_periods_are_read_back(period: Period) -> None:
    assert parse_period(show_period(period)) == period


def test_a_year_is_a_calendar_year() -> None:
    assert parse_period("10 years") == Period(years=10)
    assert parse_period("1y6mo2w3d4h5m6s") == Period(1, 6, 17 * 86400 + 4 * 3600 + 5 * 60 + 6)
    assert parse_period("Forever") is None
    assert nominal_s(Period(years=2)) == nominal_s(Period(months=24))
