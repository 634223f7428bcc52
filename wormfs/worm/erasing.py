"""Whether a committed file may be erased. Pure: record, time and settings in, an answer out."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from wormfs.errors import Refused, Retained, Sealed
from wormfs.model import FOREVER, NO_RETENTION, Record, Retention
from wormfs.worm import dates


class EraseMode(enum.Enum):
    """What an administrator allows on a backend."""

    NEVER = "never"
    """Nothing, whatever its date."""
    EXPIRED = "expired"
    """What is past its date and under no hold."""
    ALWAYS = "always"
    """New files get no date at all: a scratch directory. Dates that are there count all the same."""


class Verdict(enum.Enum):
    """What stands between a file and its end."""

    DUE = "due"
    RETAINED = "retained"
    FOREVER = "kept forever"
    HELD = "held"
    CLOCK = "clock in doubt"
    UNRECORDED = "unrecorded"


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict with its reason in words."""

    verdict: Verdict
    reason: str


def judge(record: Record | None, now_ns: int | None) -> Judged:
    """Whether a file is past its retention, whatever the settings allow.

    Args:
        now_ns: the trusted time; ``None`` when it is in doubt: then nothing counts as expired.
    """
    if record is None:
        return Judged(Verdict.UNRECORDED, "wormfs did not write it, so nobody knows its retention")
    retention = record.retention
    if retention.holds:
        return Judged(Verdict.HELD, f"legal hold {', '.join(retention.holds)}")
    return _judge_date(retention, now_ns)


def _judge_date(retention: Retention, now_ns: int | None) -> Judged:
    until = retention.retain_until_ns
    if until is FOREVER:
        return Judged(Verdict.FOREVER, "retained forever")
    if until <= NO_RETENTION:
        return Judged(Verdict.DUE, "it has no retention")
    if now_ns is None:
        why = "the machine's clock is in doubt ('wormfs clock status'), so nothing counts as expired"
        return Judged(Verdict.CLOCK, f"retained until {dates.show(until)}; {why}")
    if now_ns <= until:
        return Judged(Verdict.RETAINED, f"retained until {dates.show(until)}")
    return Judged(Verdict.DUE, f"expired at {dates.show(until)}")


def may_erase(record: Record | None, now_ns: int | None, mode: EraseMode) -> None:
    """unlink(2) and ``wormfs expire``. Raises Retained with reason and date; Sealed where nothing may go."""
    judged = judge(record, now_ns)
    if mode is EraseMode.NEVER:
        raise Sealed(
            f"the file is a record and stays ({judged.reason}; nothing is erased here: 'erase: never')"
        )
    if judged.verdict is Verdict.UNRECORDED and mode is EraseMode.ALWAYS:
        return
    if judged.verdict is not Verdict.DUE:
        raise Retained(judged.reason)


def may_erase_early(record: Record | None, *, compliance: bool) -> None:
    """``wormfs erase``: by court order, before the date. Raises Retained, Refused."""
    if record is not None and record.retention.holds:
        held = ", ".join(record.retention.holds)
        raise Retained(f"legal hold {held}: it must be removed first ('wormfs hold remove')")
    if compliance:
        raise Refused("the backend is in compliance mode: nothing is erased before its date, by nobody")
