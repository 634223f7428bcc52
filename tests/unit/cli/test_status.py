"""``wormfs status`` without a daemon: what it thinks of facts, and how it shows them."""

from __future__ import annotations

import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scripts.pictures import GIB, NOW_NS, facts_of
from wormfs.cli.status import judge as judging
from wormfs.cli.status import render
from wormfs.cli.status.gather import Gathered
from wormfs.cli.status.judge import Code, Level, judge, worst
from wormfs.cli.status.report import Report, to_json

WELL = facts_of(
    retention={"rules": 0, "erase": "never"},
    space={"total_bytes": 100 * GIB, "free_bytes": 40 * GIB, "total_files": 1000, "free_files": 500},
    spool={"entries": {}, "bytes": 0, "open_writers": 0, "room_bytes": 39 * GIB},
    records={"erase": "never"},
    throughput={"written_bytes_per_s": 0},
    verification={
        "ended_at_ns": NOW_NS - 2 * 86400 * 10**9,
        "files": 7,
        "bytes": 70,
        "oldest_at_ns": NOW_NS - 3 * 86400 * 10**9,
    },
)
"""A backend of which everything is known, and everything is fine."""

FAILED_CHECK = {
    **WELL["check"],
    "ok": False,
    "failing_since_ns": NOW_NS,
    "failed": [{"name": "write", "detail": "Read-only file system"}],
    "advice": "see whether it is read-only",
}
WAITING = {"waiting": 2, "entries": {"sealed": 2}, "bytes": 2048}


def changed(path: str, value: object) -> dict[str, Any]:
    """``WELL`` with one fact changed, or several of a mapping."""
    facts = copy.deepcopy(WELL)
    *parents, last = path.split(".")
    at = facts
    for parent in parents:
        at = at[parent]
    if isinstance(value, dict) and isinstance(at[last], dict):
        at[last].update(value)
    else:
        at[last] = value
    return facts


def report(**backends: dict[str, Any]) -> Report:
    gathered = Gathered(NOW_NS, "/mnt/worm", pid=77, backends=backends)
    return Report(gathered, tuple(judge(gathered)))


def shown(found: Report, width: int = 140, encoding: str = "utf-8", *, live: bool = False) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    screen = Console(file=stream, width=width, highlight=False, emoji=False, markup=False)
    if live:
        screen.print(render.live(found, screen))
    else:
        render.show(found, screen)
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(encoding)


# -- what is well and what is not


def test_a_backend_of_which_all_is_known_and_well_is_no_problem() -> None:
    assert judge(Gathered(NOW_NS, "/mnt/worm", pid=1, backends={"exams": WELL})) == []
    assert worst([]) is Level.OK


CASES: list[tuple[str, object, Level, Code | None, str]] = [
    ("state", "waiting", Level.CRITICAL, Code.NOT_MOUNTED, "not mounted: waiting"),
    ("state", "failed", Level.CRITICAL, Code.NOT_MOUNTED, "failed"),
    ("state", "down", Level.CRITICAL, Code.NOT_MOUNTED, "down"),
    ("state", "hung", Level.CRITICAL, Code.NOT_MOUNTED, "hung"),
    ("state", "stopped", Level.CRITICAL, Code.NOT_MOUNTED, "stopped"),
    ("state", "what a later version invents", Level.CRITICAL, Code.NOT_MOUNTED, "invents"),
    ("state", "starting", Level.WARNING, Code.ON_THE_WAY, "starting"),
    ("state", "stopping", Level.WARNING, Code.ON_THE_WAY, "stopping"),
    ("check", FAILED_CHECK, Level.CRITICAL, Code.CHECK_FAILED, "'write': Read-only file system; see whether"),
    ("check", None, Level.OK, None, ""),
    ("space", {"free_bytes": 0}, Level.CRITICAL, Code.FULL, "no room"),
    ("space", {"free_files": 0}, Level.CRITICAL, Code.FULL, "no inode"),
    ("space", {"total_files": 0, "free_files": 0}, Level.OK, None, ""),
    ("space", {"free_bytes": 5 * GIB - 1}, Level.WARNING, Code.SPACE_LOW, "only 5.0 GiB free of 100.0 GiB"),
    ("space", {"free_bytes": 5 * GIB}, Level.OK, None, ""),
    ("space", {"total_bytes": 8 * GIB, "free_bytes": GIB}, Level.WARNING, Code.SPACE_LOW, "only 1.0 GiB"),
    ("space", {"total_bytes": 8 * GIB, "free_bytes": GIB + 1}, Level.OK, None, ""),
    ("space", {"total_bytes": None, "free_bytes": None}, Level.OK, None, ""),
    ("space", None, Level.OK, None, ""),
    ("spool.room_bytes", -1, Level.CRITICAL, Code.FULL, "new files are refused"),
    ("spool.room_bytes", 0, Level.WARNING, Code.SPACE_LOW, "until new files are refused"),
    ("spool.room_bytes", GIB + 1, Level.OK, None, ""),
    ("spool", {**WAITING, "oldest_s": 599.0}, Level.OK, None, ""),
    ("spool", {**WAITING, "oldest_s": 600.0}, Level.WARNING, Code.SPOOL_WAITING, "2 closed files wait"),
    (
        "spool",
        {**WAITING, "oldest_s": 1.0, "failed": 1, "last_error": "no route"},
        Level.WARNING,
        Code.SPOOL_WAITING,
        "since 1s: no route",
    ),
    ("spool", {**WAITING, "oldest_s": 3600.0}, Level.CRITICAL, Code.SPOOL_WAITING, "since 1h"),
    ("spool", None, Level.OK, None, ""),
    ("spool.quarantine", {"entries": 1}, Level.WARNING, Code.QUARANTINE, "1 file is in quarantine"),
    ("spool.quarantine", None, Level.OK, None, ""),
    ("records.audit_problem", "no room", Level.CRITICAL, Code.AUDIT, "cannot be written"),
    ("records.clock", {"doubt": "the clock jumped"}, Level.WARNING, Code.CLOCK, "the clock jumped"),
    ("records", None, Level.OK, None, ""),
    ("verification", None, Level.OK, None, ""),
    ("verification.damaged", 2, Level.CRITICAL, Code.DAMAGED, "2 damaged files not served"),
    ("verification.findings", {"missing": 1}, Level.CRITICAL, Code.LOST, "1 missing"),
    ("verification.findings", {"altered": 1}, Level.CRITICAL, Code.LOST, "1 altered"),
    ("verification.findings", {"unrecorded": 3}, Level.WARNING, Code.FINDINGS, "3 unrecorded"),
    ("verification.findings", {"unexpected": 1}, Level.WARNING, Code.FINDINGS, "1 unexpected"),
    ("verification.findings", {"unreadable": 1}, Level.WARNING, Code.FINDINGS, "1 unreadable"),
    ("verification.findings", None, Level.OK, None, ""),
]


@pytest.mark.parametrize(("path", "value", "level", "code", "says"), CASES)
def test_each_fact_is_judged(path: str, value: object, level: Level, code: Code | None, says: str) -> None:
    found = report(exams=changed(path, value))
    assert (found.level, [problem.code for problem in found.problems]) == (level, [code] if code else [])
    assert all(says in problem.text and problem.backend == "exams" for problem in found.problems)


def test_a_catalog_that_cannot_be_read_is_a_warning() -> None:
    facts = {**WELL, "verification": {"error": "the catalog is damaged"}}
    [problem] = report(exams=facts).problems
    assert (problem.level, problem.code) == (Level.WARNING, Code.VERIFICATION_UNKNOWN)


def test_while_it_is_not_mounted_the_reason_says_it_all() -> None:
    facts = changed("check", FAILED_CHECK) | {"state": "waiting", "reason": "exams: no route to host"}
    [problem] = report(exams=facts).problems
    assert (problem.code, problem.text) == (Code.NOT_MOUNTED, "no route to host")


def test_no_daemon_is_critical() -> None:
    gathered = Gathered(NOW_NS, "/mnt/worm", error="no wormfs daemon is running")
    found = Report(gathered, tuple(judge(gathered)))
    assert (found.level, found.problems[0].code) == (Level.CRITICAL, Code.NO_DAEMON)
    assert shown(found) == "CRITICAL /mnt/worm\nwormfs: critical: no wormfs daemon is running\n"
    assert to_json(found)["backends"] == {} and to_json(found)["ok"] is False


def test_the_worst_problem_comes_first_and_decides() -> None:
    found = report(one=changed("records.clock", {"doubt": "x"}), two=changed("state", "hung"), three=WELL)
    assert [problem.backend for problem in found.problems] == ["two", "one"]
    assert {name: one["level"] for name, one in to_json(found)["backends"].items()} == {
        "one": "warning",
        "two": "critical",
        "three": "ok",
    }
    assert to_json(found)["level"] == "critical"


def test_a_daemon_of_another_version_is_shown_all_the_same() -> None:
    """After an upgrade the command may be newer than the daemon that still runs."""
    found = report(exams={"state": "ready", "verification": None})
    assert found.level is Level.OK
    for width in (40, 80, 140):
        assert "exams" in shown(found, width)
    json.dumps(to_json(found))


# -- what it looks like

EVERYTHING = {
    "exams": "name",
    "local": "type",
    "ready": "state",
    "40% free": "bar",
    "40.0 GiB of 100.0 GiB": "room",
    "2 sealed, 2.0 KiB": "spool",
    "oldest waits 1m, 1 failed": "oldest",
    "quarantine 3, 3.0 KiB": "quarantine",
    "read 3.0 MiB/s": "throughput",
    "written 0 B/s": "throughput",
    "checked 3m ago": "check",
    "verified 2d ago": "verification",
    "atomic create": "guarantee",
    "kept 10y": "retention",
    "exams: last error: reset by peer (2h ago)": "last error",
    "exams: Exams of the faculty": "description",
    "exams: verified 2d ago, 7 files: all well; longest ago that a file was found whole: 3d": "verification",
    "exams: check 'tls': not encrypted": "warnings",
}


def everything() -> dict[str, Any]:
    facts = changed(
        "spool", {**WAITING, "oldest_s": 61.0, "failed": 1, "quarantine": {"entries": 3, "bytes": 3072}}
    )
    facts["check"]["warnings"] = [{"name": "tls", "detail": "not encrypted"}]
    facts["last_error"] = {"at_ns": NOW_NS - 7200 * 10**9, "text": "reset by peer"}
    facts["description"] = "Exams of the faculty"
    return facts


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("width", [200, 140, 118, 117, 80, 78])
def test_everything_is_shown_at_every_width(width: int, live: bool) -> None:
    text = shown(report(exams=everything()), width, live=live)
    flat = text if not live else re.sub(r"\s+", " ", text)
    assert [(words, what) for words, what in EVERYTHING.items() if words not in flat] == []
    lines = text.splitlines()
    longest = max(map(len, lines if live else [line for line in lines if not line.startswith("exams: ")]))
    assert longest <= width


@pytest.mark.parametrize("width", [77, 40])
def test_a_narrow_terminal_has_everything_one_below_the_other(width: int) -> None:
    text = shown(report(exams=everything(), other=WELL), width, live=True)
    flat = re.sub(r"\s+", " ", text)
    assert [words for words in EVERYTHING if words not in flat] == []
    assert max(map(len, text.splitlines())) <= width


def test_a_terminal_with_letters_only_gets_letters_only() -> None:
    text = shown(report(exams=everything()), encoding="ascii")
    assert "\\u" not in text
    assert "########------ 40% free" in text


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("guarantee", "exclusive_writer", "exclusive writer"),
        ("guarantee", None, "guarantee unknown"),
        ("retention", {"mode": "scratch", "period": "none", "erase": "always"}, "scratch: not kept"),
        ("retention", {"mode": "compliance", "rules": 2}, "kept 10y+, compliance"),
        ("space", None, "unknown"),
        ("space", {"total_bytes": None}, "40.0 GiB of unknown"),
        ("spool", None, "not open"),
        ("spool.quarantine", None, "quarantine unknown"),
        ("throughput", None, "read unknown"),
        ("check", None, "not checked yet"),
        ("check", FAILED_CHECK, "check failed 3m ago"),
        ("verification", None, "never verified"),
        (
            "verification",
            {"ended_at_ns": None, "unfinished": 1},
            "never verified to the end; a verification is",
        ),
        ("verification", {"whole_backend": False}, "verified 2d ago (a part), 7 files"),
        ("verification", {"findings": {"altered": 2}}, "7 files: 2 altered"),
    ],
)
def test_what_is_unknown_or_unusual_has_its_words(path: str, value: object, words: str) -> None:
    assert words in shown(report(exams=changed(path, value)))


def test_a_check_that_is_switched_off_says_so() -> None:
    assert "check: off" in shown(report(exams={**WELL, "check": None, "check_interval_s": 0.0}))


def test_an_error_that_lasts_is_said_once() -> None:
    facts = changed("check", FAILED_CHECK)
    facts["last_error"] = {"at_ns": NOW_NS, "text": "check failed at 'write': Read-only file system"}
    assert shown(report(exams=facts)).count("Read-only file system") == 1


def test_nothing_that_a_backend_says_reaches_the_terminal_as_a_command() -> None:
    facts = changed("check", {**FAILED_CHECK, "failed": [{"name": "write", "detail": "\x1b[31m\nred"}]})
    facts["description"] = "\x1b]0;title\x07"
    for live in (False, True):
        assert "\x1b" not in shown(report(exams=facts), live=live)


def test_the_colour_is_that_of_the_worst() -> None:
    screen = Console(file=io.StringIO(), width=140, force_terminal=True, color_system="standard")
    styles = {}
    for facts in (WELL, changed("spool.quarantine", {"entries": 1}), changed("state", "hung")):
        found = report(exams=facts)
        [headline] = [
            segment.style for segment in screen.render(render.headline(found)) if segment.text.isupper()
        ]
        styles[found.level] = str(headline)
    assert styles == {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "bold red"}


# -- what is promised


def codes_in(text: str) -> set[str]:
    """The codes in the first column of a table."""
    return set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))


def test_every_code_is_documented_and_nothing_else(repository: Path) -> None:
    text = (repository / "docs" / "operations.md").read_text()
    section = re.split(r"\n##+ ", text.partition("### What `wormfs status` finds")[2])[0]
    assert codes_in(section) == {code.value for code in Code}


def test_the_limits_are_those_of_the_page(repository: Path) -> None:
    assert (judging.WAITING_WARNING_S, judging.WAITING_CRITICAL_S) == (600, 3600)
    assert (judging.LOW_BYTES, judging.LOW_SHARE) == (GIB, 0.05)
    text = (repository / "docs" / "operations.md").read_text()
    for words in ("10 minutes", "an hour", "1 GiB", "5 %"):
        assert words in text.partition("### What `wormfs status` finds")[2].partition("\n### ")[0]


def keys_of(value: object, above: str = "") -> set[str]:
    """The dotted names of everything in a JSON value; names that are data stand as ``*``."""
    found: set[str] = set()
    if isinstance(value, list):
        for one in value:
            found |= keys_of(one, above)
    elif isinstance(value, dict):
        for key, one in value.items():
            free = above in ("backends", "backends.*.spool.entries", "backends.*.verification.findings")
            name = f"{above}.{'*' if free else key}".removeprefix(".")
            found |= {name} | keys_of(one, name)
    return found


def test_every_field_of_the_json_is_documented_and_nothing_else(repository: Path) -> None:
    facts = everything()
    facts["check"] |= {"failed": FAILED_CHECK["failed"]}
    facts["verification"]["findings"] = {"altered": 1}
    facts["records"]["clock"] |= dict.fromkeys(("wall", "believed", "expected", "backend"), "x")
    facts["verification"]["error"] = "x"
    assert documented(repository) == keys_of(to_json(report(exams=facts)))


def documented(repository: Path) -> set[str]:
    text = (repository / "docs" / "status.md").read_text()
    return set(re.findall(r"^\| `([a-z_.*]+)` \|", text.partition("## JSON")[2], re.MULTILINE))
