"""Which date a new file gets, and how far it may be moved: an administrator's rules as pure functions."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from wormfs.errors import Retained
from wormfs.model import FOREVER, NO_RETENTION, Key, Period, Retention
from wormfs.worm import dates
from wormfs.worm.dates import Rounding
from wormfs.worm.patterns import Pattern
from wormfs.worm.retention import earlier


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """How long the files stay that a pattern stands for. ``period`` ``None``: for ever."""

    period: Period | None
    rounding: Rounding = Rounding.NONE
    match: Pattern | None = None
    """``None``: every file."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The rules of one backend. The first that matches counts, at the end ``otherwise``."""

    otherwise: RetentionRule = RetentionRule(FOREVER)
    rules: tuple[RetentionRule, ...] = ()
    minimum: Period | None = None
    maximum: Period | None = None
    zone: datetime.tzinfo = datetime.UTC
    scratch: bool = False
    """Files get no date at all (``erase: always``); a date that somebody gives one later counts."""

    def rule_for(self, key: Key) -> RetentionRule:
        """The rule that counts for a file."""
        for rule in self.rules:
            if rule.match is None or rule.match.matches(key):
                return rule
        return self.otherwise

    def retention_of(self, key: Key, sealed_at_ns: int) -> Retention:
        """What the record of a file says that is sealed at that time. It is fixed from then on."""
        if self.scratch:
            return Retention(NO_RETENTION)
        rule = self.rule_for(key)
        if rule.period is None:
            return Retention(FOREVER)
        until = dates.after(sealed_at_ns, rule.period, rule.rounding, self.zone)
        if self.minimum is not None:
            least = dates.after(sealed_at_ns, self.minimum, Rounding.NONE, self.zone)
            until = least if earlier(until, least) else until
        most = self.latest(key, sealed_at_ns)
        return Retention(most if earlier(most, until) else until)

    def latest(self, key: Key, committed_at_ns: int) -> int | None:
        """How long a file should be here at the most (``max``); FOREVER when nothing is said of it."""
        if self.maximum is None:
            return FOREVER
        rounding = self.rule_for(key).rounding
        return dates.after(committed_at_ns, self.maximum, rounding, self.zone)

    def may_extend(self, key: Key, committed_at_ns: int, until_ns: int | None) -> None:
        """Raises Retained when the new date lies after ``max``: a legal hold is for that."""
        latest = self.latest(key, committed_at_ns)
        if earlier(latest, until_ns):
            raise Retained(
                f"retention.max lets it stay until {dates.show(latest)}, not {dates.show(until_ns)}; "
                "a legal hold keeps it longer"
            )
