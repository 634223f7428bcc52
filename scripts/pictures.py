"""The pictures of the handbook: screens of wormfs, drawn by its own renderers from made-up facts.

``python -m scripts.pictures`` writes them to docs/images; tests/docs holds them to what it would write.
"""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from wormfs.cli.status import render
from wormfs.cli.status.gather import Gathered
from wormfs.cli.status.judge import judge
from wormfs.cli.status.report import Report
from wormfs.cli.verifyreport import print_backend
from wormfs.clock import NS_PER_S
from wormfs.daemon.health import advice
from wormfs.model import Finding, FindingKind
from wormfs.verify.catalog import Run

IMAGES: Final = Path(__file__).parents[1] / "docs" / "images"
NOW_NS: Final = 1_800_000_000 * NS_PER_S
GIB: Final = 1 << 30
_DAY_S: Final = 86400
_STATUS_COLUMNS: Final = 148
_VERIFY_COLUMNS: Final = 100
_ALTERED: Final = f"its SHA-256 is {'2d71' * 16}; recorded is {'427f' * 16}"
_MISSING: Final = f"it had 81920 bytes with SHA-256 {'9c0e' * 16}"


def _ago_ns(seconds: float) -> int:
    return NOW_NS - int(seconds * NS_PER_S)


WELL: Final[dict[str, Any]] = {
    "state": "ready",
    "reason": "",
    "type": "local",
    "description": None,
    "pid": 812,
    "restarts": 0,
    "mountpoint": "/mnt/worm/exams",
    "guarantee": "atomic",
    "retention": {"mode": "standard", "period": "10y", "rules": 2, "erase": "expired"},
    "space": {
        "total_bytes": 4096 * GIB,
        "free_bytes": 2310 * GIB,
        "total_files": 1 << 28,
        "free_files": 1 << 27,
    },
    "spool": {
        "entries": {"writing": 1},
        "bytes": 384 << 20,
        "waiting": 0,
        "failed": 0,
        "oldest_s": None,
        "last_error": None,
        "open_writers": 1,
        "room_bytes": 2309 * GIB,
        "quarantine": {"entries": 0, "bytes": 0},
    },
    "records": {"erase": "expired", "clock": {"trust": "sure", "doubt": None}, "audit_problem": None},
    "throughput": {"read_bytes_per_s": 3 << 20, "written_bytes_per_s": 41 << 20, "over_s": 10.0},
    "check": {
        "at_ns": _ago_ns(180),
        "ok": True,
        "took_s": 0.1,
        "failing_since_ns": None,
        "failed": [],
        "warnings": [],
        "advice": None,
    },
    "check_interval_s": 900.0,
    "last_error": None,
    "verification": {
        "ended_at_ns": _ago_ns(_DAY_S),
        "files": 48_211,
        "bytes": 1_780 * GIB,
        "whole_backend": True,
        "findings": {},
        "oldest_at_ns": _ago_ns(29 * _DAY_S),
        "unfinished": 0,
        "damaged": 0,
    },
}


def facts_of(**changes: Any) -> dict[str, Any]:
    """Of one backend: ``WELL`` with other values; those that are dictionaries are merged."""
    facts = copy.deepcopy(WELL)
    for key, value in changes.items():
        facts[key] = {**(facts[key] or {}), **value} if isinstance(value, dict) else value
    return facts


def _backends() -> dict[str, dict[str, Any]]:
    """One that is well, one whose server is away, one that somebody should look at."""
    refused = "ftp.example.edu: Connection refused"
    return {
        "exams": facts_of(description="Exam archives of Moodle"),
        "mirror": facts_of(
            type="s3",
            retention={"period": "10y", "rules": 0, "mode": "compliance"},
            space={"total_bytes": 20480 * GIB, "free_bytes": 717 * GIB},
            spool={"entries": {}, "bytes": 0, "quarantine": {"entries": 1, "bytes": 12 << 20}},
            throughput={"read_bytes_per_s": 0, "written_bytes_per_s": 8 << 20},
        ),
        "offsite": facts_of(
            type="ftp",
            guarantee="exclusive_writer",
            retention={"period": "5y", "rules": 0},
            space={"total_bytes": None, "free_bytes": None, "total_files": None, "free_files": None},
            spool={
                "entries": {"sealed": 3},
                "bytes": 920 << 20,
                "waiting": 3,
                "failed": 3,
                "oldest_s": 1260.0,
                "last_error": refused,
            },
            throughput={"read_bytes_per_s": 0, "written_bytes_per_s": 0},
            check={
                "at_ns": _ago_ns(20),
                "ok": False,
                "failing_since_ns": _ago_ns(1280),
                "failed": [{"name": "connect", "detail": refused}],
                "advice": advice("connect"),
            },
            last_error={"text": refused, "at_ns": _ago_ns(31)},
            verification=None,
        ),
    }


def _screen(columns: int) -> Console:
    """As ``wormfs.cli.output.console`` makes one on a terminal of this width."""
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"),
        width=columns,
        record=True,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        highlight=False,
        emoji=False,
        markup=False,
        _environ={},
    )


def status_picture() -> str:
    """``wormfs status``, as SVG."""
    screen = _screen(_STATUS_COLUMNS)
    gathered = Gathered(NOW_NS, "/mnt/worm", pid=804, backends=_backends())
    render.show(Report(gathered, tuple(judge(gathered))), screen)
    return _svg(screen, "wormfs status")


def verify_picture() -> str:
    """``wormfs verify``, as SVG."""
    screen = _screen(_VERIFY_COLUMNS)
    findings = [
        Finding(FindingKind.ALTERED, b"job-17/quiz.zip", _ALTERED),
        Finding(FindingKind.MISSING, b"job-23/essay.pdf", _MISSING),
        Finding(FindingKind.UNRECORDED, b"notes.txt", "wormfs did not write it: it has no record"),
    ]
    counts = {finding.kind: 1 for finding in findings}
    run = Run(12, "ended", _ago_ns(3 * 3600), resumed=False, files=48_211, size_bytes=1_780 * GIB)
    print_backend("exams", run, counts, iter(findings), NOW_NS, screen)
    whole = Run(7, "ended", _ago_ns(660), resumed=False, files=3_120, size_bytes=96 * GIB)
    print_backend("mirror", whole, {}, iter(()), NOW_NS, screen)
    return _svg(screen, "wormfs verify")


def _svg(screen: Console, title: str) -> str:
    """Without fonts from other servers: a page must not make its reader's browser ask anybody."""
    longest = max(map(len, screen.export_text(clear=False).splitlines()))
    if longest > screen.width:
        raise ValueError(f"{title}: {longest} columns are needed, a line would be cut off")
    drawn = screen.export_svg(title=title, unique_id=title.replace(" ", "-"))
    kept = re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in kept.splitlines()) + "\n"


PICTURES: Final = {"status.svg": status_picture, "verify.svg": verify_picture}


def main() -> None:
    """Write all of them."""
    IMAGES.mkdir(exist_ok=True)
    for name, picture in PICTURES.items():
        (IMAGES / name).write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
