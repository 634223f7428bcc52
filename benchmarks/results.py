"""What was measured, and the arithmetic on it: medians, ratios, goals."""

from __future__ import annotations

import enum
import statistics
from dataclasses import dataclass, field


class Better(enum.Enum):
    """Which way a value is good."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Line:
    """One line of the table: ``key`` is stable in the JSON, ``title`` is for people."""

    key: str
    title: str
    unit: str
    better: Better = Better.HIGHER


@dataclass(frozen=True)
class Sample:
    """What one target gave in one round of one item: values by line key, or why there are none."""

    item: str
    target: str
    round: int
    values: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    """It was tried and failed."""
    impossible: str | None = None
    """It was not tried: this machine lacks something for it."""


class Verdict(enum.Enum):
    REACHED = "reached"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Goal:
    """``wormfs`` on ``line``: ``limit`` times ``over``; where ``over`` is None, below ``limit``."""

    title: str
    line: str
    over: str | None
    limit: float


@dataclass(frozen=True)
class Judged:
    """A goal with what was measured: the ratio, or the value itself where the goal is a fixed limit."""

    goal: Goal
    measured: float | None
    verdict: Verdict


class Results:
    """All samples of one run, and the lines they belong to."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.samples: list[Sample] = []

    def values(self, line: str, target: str) -> list[float]:
        """What ``target`` gave on ``line``, in the order of the rounds."""
        return [s.values[line] for s in self.samples if s.target == target and line in s.values]

    def median(self, line: str, target: str) -> float | None:
        values = self.values(line, target)
        return statistics.median(values) if values else None

    def ratio(self, line: str, over: str) -> float | None:
        """Median of wormfs over median of ``over``; above 1 is faster, all ratios being of speeds."""
        ours, theirs = self.median(line, "wormfs"), self.median(line, over)
        if ours is None or theirs is None or theirs == 0 or self.lines[line].better is Better.LOWER:
            return None
        return ours / theirs

    def judge(self, goal: Goal) -> Judged:
        """Compares with the goal. A line that was not measured on both sides is neither miss nor success."""
        if goal.line not in self.lines:
            return Judged(goal, None, Verdict.NOT_MEASURED)
        over = goal.over
        measured = self.median(goal.line, "wormfs") if over is None else self.ratio(goal.line, over)
        if measured is None:
            return Judged(goal, None, Verdict.NOT_MEASURED)
        lower = self.lines[goal.line].better is Better.LOWER
        good = measured < goal.limit if lower else measured >= goal.limit
        return Judged(goal, measured, Verdict.REACHED if good else Verdict.MISSED)

    @property
    def remarks(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.impossible is not None]

    @property
    def errors(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.error is not None]


_PASSTHROUGH, _RAW = "passthrough", "raw"

_FIXED_GOALS = (
    Goal("8 KiB writes, the write calls", "write-8k.calls", _PASSTHROUGH, 0.8),
    Goal("8 KiB writes, open to close (wormfs durable, the other not)", "write-8k.whole", _PASSTHROUGH, 0.8),
    Goal("8 KiB writes with fsync, open to close", "write-8k-fsync.whole", _PASSTHROUGH, 0.8),
    Goal("1 MiB writes with fsync, open to close", "write-1m-fsync.whole", _PASSTHROUGH, 0.8),
    Goal("first read, 1 MiB calls", "read-1m.first", _PASSTHROUGH, 1.0),
    Goal("first read, 8 KiB calls", "read-8k.first", _PASSTHROUGH, 1.0),
    Goal("second read, 1 MiB calls", "read-1m.second", _RAW, 0.9),
    Goal("second read, 8 KiB calls", "read-8k.second", _RAW, 0.9),
    Goal("durable small files, 1 writer (issue 2)", "durable-1.rate", _RAW, 0.6),
    Goal("durable small files, 1 writer (issue 3)", "durable-1.rate", _RAW, 0.7),
    Goal("durable small files, 8 writers (issue 3)", "durable-8.rate", _RAW, 0.7),
    Goal("durable small files, 1 writer, by a shell program on both sides", "durable-sh-1.rate", _RAW, 0.7),
    Goal("durable small files, 8 writers, by a shell program on both sides", "durable-sh-8.rate", _RAW, 0.7),
    Goal("peak memory of the worker, 16 writers, MiB", "memory.peak", None, 120.0),
    Goal("growth of the worker under ls -f and ls -l, MiB", "ls.growth", None, 64.0),
)


def goals(results: Results) -> list[Goal]:
    """The goals of issues 2 and 3. "Ahead of rclone in each" is one goal per line that rclone has."""
    ahead = [
        Goal(f"ahead of rclone: {line.title}", line.key, "rclone", 1.0)
        for line in results.lines.values()
        if results.values(line.key, "rclone") and line.better is Better.HIGHER
    ]
    return [*_FIXED_GOALS, *ahead]
