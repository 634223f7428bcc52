"""Is it well? Rules only: from what is known to problems, and from these to an exit status.

Critical: an application gets errors, files are in danger, or nobody knows. Warning: somebody should look
before it becomes that. docs/operations.md lists every code, and a test holds the list to this module.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from wormfs.cli.output import age_text, count_text, size_text
from wormfs.cli.status.gather import Facts, Gathered
from wormfs.model import FindingKind

WAITING_WARNING_S: Final = 600.0
WAITING_CRITICAL_S: Final = 3600.0
LOW_BYTES: Final = 1 << 30
"""Moodle's localdir driver calls a store with less than this unavailable."""
LOW_SHARE: Final = 0.05

_MOUNTED = "ready"
_ON_THE_WAY = ("starting", "stopping")
_LOST = (FindingKind.MISSING.value, FindingKind.ALTERED.value)


class Level(enum.IntEnum):
    """How bad it is: the exit status of ``wormfs status``."""

    OK = 0
    WARNING = 1
    CRITICAL = 2

    @property
    def word(self) -> str:
        """As people and JSON see it."""
        return self.name.lower()


class Code(enum.Enum):
    """What is wrong; the names are an interface."""

    NO_DAEMON = "no_daemon"
    NOT_MOUNTED = "not_mounted"
    ON_THE_WAY = "on_the_way"
    CHECK_FAILED = "check_failed"
    FULL = "full"
    SPACE_LOW = "space_low"
    SPOOL_WAITING = "spool_waiting"
    QUARANTINE = "quarantine"
    DAMAGED = "damaged"
    LOST = "lost"
    FINDINGS = "findings"
    VERIFICATION_UNKNOWN = "verification_unknown"
    CLOCK = "clock"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not well."""

    level: Level
    code: Code
    text: str
    backend: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level.word,
            "code": self.code.value,
            "backend": self.backend,
            "text": self.text,
        }


_Found = Iterator[tuple[Level, Code, str]]


def judge(gathered: Gathered) -> list[Problem]:
    """All problems, the worst first."""
    if gathered.pid is None:
        return [Problem(Level.CRITICAL, Code.NO_DAEMON, gathered.error)]
    problems = [
        Problem(level, code, text.removeprefix(f"{name}: "), name)
        for name, facts in gathered.backends.items()
        for rule in (_mounted, _checked, _room, _spool, _quarantine, _records, _verified)
        for level, code, text in rule(facts)
    ]
    return sorted(problems, key=lambda problem: -problem.level)


def worst(problems: Iterable[Problem]) -> Level:
    """The level of the whole."""
    return max((problem.level for problem in problems), default=Level.OK)


def _mounted(facts: Facts) -> _Found:
    state, reason = facts["state"], facts.get("reason")
    if state in _ON_THE_WAY:
        yield Level.WARNING, Code.ON_THE_WAY, reason or f"not mounted now: {state}"
    elif state != _MOUNTED:
        yield Level.CRITICAL, Code.NOT_MOUNTED, reason or f"not mounted: {state}"


def _checked(facts: Facts) -> _Found:
    check = facts.get("check")
    # While it is not mounted, the reason for that says it all.
    if check and not check["ok"] and facts["state"] == _MOUNTED:
        failed = "; ".join(f"'{one['name']}': {one['detail']}" for one in check["failed"])
        yield Level.CRITICAL, Code.CHECK_FAILED, f"the check failed at {failed}; {check['advice']}"


def _room(facts: Facts) -> _Found:
    space, spool = facts.get("space") or {}, facts.get("spool") or {}
    free, total = space.get("free_bytes"), space.get("total_bytes")
    room = spool.get("room_bytes")
    if free == 0 or (space.get("total_files") and space.get("free_files") == 0):
        what = "no room" if free == 0 else "no inode"
        yield Level.CRITICAL, Code.FULL, f"{what} is left for files"
    elif room is not None and room < 0:
        yield (
            Level.CRITICAL,
            Code.FULL,
            "new files are refused: where the spool lies less is free than spool_reserve",
        )
    elif free is not None and (free <= LOW_BYTES or (total and free < total * LOW_SHARE)):
        yield Level.WARNING, Code.SPACE_LOW, f"only {size_text(free)} free of {size_text(total)}"
    elif room is not None and room <= LOW_BYTES:
        yield (
            Level.WARNING,
            Code.SPACE_LOW,
            f"only {size_text(room)} left where the spool lies until new files are refused",
        )


def _spool(facts: Facts) -> _Found:
    spool = facts.get("spool") or {}
    waiting, oldest_s = spool.get("waiting"), spool.get("oldest_s") or 0.0
    if not waiting:
        return
    text = f"{count_text(waiting, 'closed file waits', 'closed files wait')} for the backend, the oldest "
    text += f"since {age_text(oldest_s)}"
    if spool.get("last_error"):
        text += f": {spool['last_error']}"
    if oldest_s >= WAITING_CRITICAL_S:
        yield Level.CRITICAL, Code.SPOOL_WAITING, text
    elif oldest_s >= WAITING_WARNING_S or spool.get("failed"):
        yield Level.WARNING, Code.SPOOL_WAITING, text


def _quarantine(facts: Facts) -> _Found:
    quarantine = (facts.get("spool") or {}).get("quarantine") or {}
    if count := quarantine.get("entries"):
        files = count_text(count, "file is", "files are")
        yield (
            Level.WARNING,
            Code.QUARANTINE,
            f"{files} in quarantine: wormfs spool list --state quarantined",
        )


def _records(facts: Facts) -> _Found:
    records = facts.get("records") or {}
    if records.get("audit_problem"):
        text = f"the audit trail cannot be written, nothing is erased: {records['audit_problem']}"
        yield Level.CRITICAL, Code.AUDIT, text
    if doubt := (records.get("clock") or {}).get("doubt"):
        yield Level.WARNING, Code.CLOCK, doubt


def _verified(facts: Facts) -> _Found:
    verification = facts.get("verification") or {}
    if "error" in verification:
        yield Level.WARNING, Code.VERIFICATION_UNKNOWN, f"verification: {verification['error']}"
        return
    findings = verification.get("findings") or {}
    if damaged := verification.get("damaged"):
        text = f"{count_text(damaged, 'damaged file', 'damaged files')} not served: wormfs verify"
        yield Level.CRITICAL, Code.DAMAGED, text
    lost = {kind: findings[kind] for kind in _LOST if findings.get(kind)}
    other = {kind: count for kind, count in findings.items() if count and kind not in _LOST}
    if lost:
        yield Level.CRITICAL, Code.LOST, f"the last verification found: {_listed(lost)}"
    if other:
        yield Level.WARNING, Code.FINDINGS, f"the last verification found: {_listed(other)}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())
