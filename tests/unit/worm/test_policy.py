"""Which date a new file gets, and how far it may be moved."""

from __future__ import annotations

import datetime

import pytest

from wormfs.errors import Retained
from wormfs.model import FOREVER, NO_RETENTION, Key, Period, Retention
from wormfs.worm import dates
from wormfs.worm.dates import Rounding
from wormfs.worm.patterns import Pattern
from wormfs.worm.policy import RetentionPolicy, RetentionRule

SEALED_NS = int(datetime.datetime(2026, 3, 3, 12, tzinfo=datetime.UTC).timestamp()) * dates.NS_PER_S
DAY = 86_400
POLICY = RetentionPolicy(
    otherwise=RetentionRule(Period(years=10), Rounding.END_OF_YEAR),
    rules=(
        RetentionRule(Period(years=2), match=Pattern("oral/**")),
        RetentionRule(None, match=Pattern("oral/**")),
        RetentionRule(Period(seconds=DAY), match=Pattern("**/*.log")),
        RetentionRule(FOREVER, match=Pattern("deeds/**")),
    ),
)


def until(policy: RetentionPolicy, path: str) -> str:
    return dates.show(policy.retention_of(Key(path.encode()), SEALED_NS).retain_until_ns)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.pdf", "2036-12-31T23:59:59Z"),
        ("oral/a.log", "2028-03-03T12:00:00Z"),  # the first that matches
        ("x/a.log", "2026-03-04T12:00:00Z"),
        ("deeds/1", "forever"),
    ],
)
def test_the_first_rule_that_matches_counts(path: str, expected: str) -> None:
    assert until(POLICY, path) == expected


def test_the_default_is_for_ever() -> None:
    assert RetentionPolicy().retention_of(Key(b"a"), SEALED_NS) == Retention(FOREVER)


def test_limits() -> None:
    limited = RetentionPolicy(
        POLICY.otherwise, POLICY.rules[:3], minimum=Period(months=1), maximum=Period(years=10)
    )
    assert until(limited, "x/a.log") == "2026-04-03T12:00:00Z"
    assert until(limited, "a.pdf") == "2036-12-31T23:59:59Z", "max is rounded as the period is"
    limited.may_extend(Key(b"x/a.log"), SEALED_NS, limited.latest(Key(b"x/a.log"), SEALED_NS))
    with pytest.raises(Retained, match="legal hold"):
        limited.may_extend(Key(b"x/a.log"), SEALED_NS, SEALED_NS + 4000 * DAY * dates.NS_PER_S)
    with pytest.raises(Retained, match="not forever"):
        limited.may_extend(Key(b"a.pdf"), SEALED_NS, FOREVER)
    POLICY.may_extend(Key(b"a.pdf"), SEALED_NS, FOREVER)


def test_a_scratch_directory_gives_no_date() -> None:
    assert RetentionPolicy(scratch=True).retention_of(Key(b"a"), SEALED_NS) == Retention(NO_RETENTION)
