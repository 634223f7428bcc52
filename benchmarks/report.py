"""The table for people and the JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.results import Judged, Results, Verdict, goals
from benchmarks.sandbox import file_system_type
from benchmarks.targets import KINDS

SCHEMA = 1
_FILE_COLUMNS = 200
_OVERS = ("raw", "passthrough", "rclone")
_COLOURS = {Verdict.REACHED: "green", Verdict.MISSED: "red", Verdict.NOT_MEASURED: "yellow"}


def judged(results: Results) -> list[Judged]:
    return [results.judge(goal) for goal in goals(results)]


def machine(work: Path) -> dict[str, str | int]:
    """What the numbers depend on and cannot be told from them later."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "kernel": platform.release(),
        "cpu": cpu[0].split(":", 1)[1].strip() if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "file_system": file_system_type(work),
        "python": platform.python_version(),
    }


def hash_cost(results: Results, size_bytes: int) -> dict[str, float] | None:
    """What SHA-256 costs a 1 MiB write with fsync. None where one of the three was not measured.

    All in seconds for ``size_bytes``: hashing alone on one core; how much longer than passthrough_ll the
    whole write took; the rest of the hashing, which other work hid.
    """
    hashing = results.median("sha256.speed", "cpu")
    ours = results.median("write-1m-fsync.whole", "wormfs")
    theirs = results.median("write-1m-fsync.whole", "passthrough")
    if hashing is None or ours is None or theirs is None:
        return None
    mib = size_bytes / (1 << 20)
    longer_s = mib / ours - mib / theirs
    return {
        "hashing_alone_s": mib / hashing,
        "wormfs_s": mib / ours,
        "passthrough_s": mib / theirs,
        "longer_than_passthrough_s": longer_s,
        "hidden_share": min(1.0, max(0.0, 1 - longer_s / (mib / hashing))),
    }


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _spread(values: Sequence[float]) -> str:
    """The median, and below it the lowest and the highest of the rounds."""
    if not values:
        return "–"
    middle = _number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle}\n[dim]{_number(min(values))}–{_number(max(values))}[/dim]"


def _measured_table(results: Results) -> Table:
    columns = [name for name in (*KINDS, "cpu") if any(s.target == name for s in results.samples)]
    table = Table(title="medians (below: lowest–highest of the rounds)", title_justify="left")
    table.add_column("what")
    table.add_column("unit")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for over in _OVERS:
        table.add_column(f"wormfs / {over}", justify="right")
    for line in results.lines.values():
        values = [_spread(results.values(line.key, name)) for name in columns]
        ratios = [_number(results.ratio(line.key, over)) for over in _OVERS]
        table.add_row(line.title, line.unit, *values, *ratios)
    return table


def _goal_table(results: Results) -> Table:
    table = Table(title="goals", title_justify="left")
    for name in ("goal", "wanted", "measured", "verdict"):
        table.add_column(name, justify="left" if name in ("goal", "verdict") else "right")
    for one in judged(results):
        goal = one.goal
        wanted = f"< {goal.limit:g}" if goal.over is None else f"≥ {goal.limit:g} × {goal.over}"
        colour = _COLOURS[one.verdict]
        table.add_row(goal.title, wanted, _number(one.measured), f"[{colour}]{one.verdict.value}[/{colour}]")
    return table


def wide_console() -> Console:
    """Standard output; wide enough for the table where it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_COLUMNS)


def show(results: Results, size_bytes: int, console: Console) -> None:
    """Prints the tables, what hashing costs, and what went wrong."""
    console.print(_measured_table(results))
    cost = hash_cost(results, size_bytes)
    if cost is not None:
        console.print(
            f"SHA-256: {cost['hashing_alone_s']:.2f} s alone for what 1 MiB writes with fsync take wormfs "
            f"{cost['wormfs_s']:.2f} s and passthrough_ll {cost['passthrough_s']:.2f} s; "
            f"{cost['hidden_share']:.0%} of it is hidden behind other work"
        )
    console.print(_goal_table(results))
    for sample in results.remarks:
        console.print(f"{sample.item}, {sample.target}: not measured: {sample.impossible}", markup=False)
    for sample in results.errors:
        console.print(
            f"{sample.item}, {sample.target}, round {sample.round}: {sample.error}", style="red", markup=False
        )


def write_json(path: Path, results: Results, run: Mapping[str, object], work: Path, size_bytes: int) -> None:
    """Everything that was measured. ``run`` is what was asked for; the shape is in README.md."""
    targets = sorted({sample.target for sample in results.samples})
    lines = []
    for line in results.lines.values():
        by_target = {
            name: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
            for name in targets
            if (values := results.values(line.key, name))
        }
        ratios = {over: results.ratio(line.key, over) for over in _OVERS}
        facts = {"key": line.key, "title": line.title, "unit": line.unit, "better": line.better.value}
        lines.append({**facts, "targets": by_target, "wormfs_over": ratios})
    verdicts = [
        {**asdict(one.goal), "measured": one.measured, "verdict": one.verdict.value}
        for one in judged(results)
    ]
    document = {
        "schema": SCHEMA,
        "run": run,
        "machine": machine(work),
        "lines": lines,
        "goals": verdicts,
        "hash_cost": hash_cost(results, size_bytes),
        "samples": [asdict(sample) for sample in results.samples],
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
