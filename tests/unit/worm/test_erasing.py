"""Whether a committed file may be erased."""

from __future__ import annotations

import pytest

from tests.conformance.drivers import make_record
from wormfs.errors import Refused, Retained, Sealed
from wormfs.model import FOREVER, NO_RETENTION, Record, Retention
from wormfs.worm.erasing import EraseMode, Verdict, judge, may_erase, may_erase_early

S = 1_000_000_000
NOW = 1_000 * S


def record(until_ns: int | None, *holds: str) -> Record:
    return make_record(b"x", retention=Retention(until_ns, holds))


@pytest.mark.parametrize(
    ("until_ns", "now_ns", "verdict"),
    [
        (NOW - S, NOW, Verdict.DUE),
        (NOW, NOW, Verdict.RETAINED),  # the last second counts
        (NOW, NOW + 1, Verdict.DUE),
        (NOW + S, NOW, Verdict.RETAINED),
        (FOREVER, NOW, Verdict.FOREVER),
        (NOW - S, None, Verdict.CLOCK),
        (FOREVER, None, Verdict.FOREVER),
        (NO_RETENTION, NOW, Verdict.DUE),
        (NO_RETENTION, None, Verdict.DUE),
    ],
)
def test_dates(until_ns: int | None, now_ns: int | None, verdict: Verdict) -> None:
    assert judge(record(until_ns), now_ns).verdict is verdict
    assert judge(record(until_ns, "AZ 1"), now_ns).verdict is Verdict.HELD
    for mode in (EraseMode.EXPIRED, EraseMode.ALWAYS):
        if verdict is Verdict.DUE:
            may_erase(record(until_ns), now_ns, mode)
        else:
            with pytest.raises(Retained):
                may_erase(record(until_ns), now_ns, mode)
        with pytest.raises(Retained, match="AZ 1"):
            may_erase(record(until_ns, "AZ 1"), now_ns, mode)
    with pytest.raises(Sealed, match="'erase: never'"):
        may_erase(record(until_ns), now_ns, EraseMode.NEVER)


def test_what_wormfs_did_not_write_goes_only_from_a_scratch_directory() -> None:
    may_erase(None, NOW, EraseMode.ALWAYS)
    with pytest.raises(Retained, match="did not write"):
        may_erase(None, NOW, EraseMode.EXPIRED)


def test_early() -> None:
    may_erase_early(record(FOREVER), compliance=False)
    may_erase_early(None, compliance=False)
    with pytest.raises(Retained, match="wormfs hold remove"):
        may_erase_early(record(FOREVER, "AZ 1"), compliance=False)
    with pytest.raises(Refused, match="compliance"):
        may_erase_early(record(NOW - S), compliance=True)
