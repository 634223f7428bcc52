"""What is known and what to think of it, as ``--json`` prints it. docs/status.md lists every field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wormfs.cli.status.gather import Gathered, gather
from wormfs.cli.status.judge import Level, Problem, judge, worst
from wormfs.config import Settings


@dataclass(frozen=True, slots=True)
class Report:
    """One look at the daemon."""

    gathered: Gathered
    problems: tuple[Problem, ...]

    @property
    def level(self) -> Level:
        """Of the whole."""
        return worst(self.problems)

    def of(self, backend: str) -> list[Problem]:
        """The problems of one backend."""
        return [problem for problem in self.problems if problem.backend == backend]


def report(settings: Settings) -> Report:
    """Look now. Blocks for a second at most while the daemon answers; raises nothing foreseen."""
    gathered = gather(settings)
    return Report(gathered, tuple(judge(gathered)))


def to_json(report: Report) -> dict[str, Any]:
    """Keys are never renamed; new ones may come."""
    gathered = report.gathered
    return {
        "ok": gathered.pid is not None,
        "level": report.level.word,
        "problems": [problem.to_json() for problem in report.problems],
        "error": gathered.error or None,
        "at_ns": gathered.now_ns,
        "pid": gathered.pid,
        "mountpoint": gathered.mountpoint,
        "backends": {
            name: {"level": worst(report.of(name)).word, **facts} for name, facts in gathered.backends.items()
        },
    }
