"""``wormfs status``: what the running daemon does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from wormfs.cli.options import config_option, json_option, load_settings
from wormfs.cli.output import age_text, console, count_text, plain, size_text
from wormfs.clock import NS_PER_S, SystemClock
from wormfs.errors import WormfsError

_ANSWER_S = 5.0
_READY = "ready"


@click.command()
@config_option
@json_option
def status(config_path: str, as_json: bool) -> int:
    """Show how each backend is: mounted or not and why, room, spool, last verification.

    'wormfs spool list' shows the files one by one. Exits 0 if every backend is mounted, 3 if some are not,
    1 if no daemon runs.

    \b
    Example:
      wormfs status --config /etc/wormfs/config.yaml
    """
    from wormfs.daemon.control import ControlClient

    settings = load_settings(config_path)
    found = ControlClient(settings.state_directory).request({"request": "status"}, timeout_s=_ANSWER_S)
    for name, backend in found["backends"].items():
        backend["verification"] = _verification(settings.state_directory, name)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print_table(found)
    return 0 if all(backend["state"] == _READY for backend in found["backends"].values()) else 3


def _verification(state_directory: Path, name: str) -> dict[str, Any] | None:
    """What the last verification said; ``None`` if there was none, or nobody knows of it any more."""
    from wormfs.verify.summary import summarize

    try:
        summary = summarize(state_directory, name)
    except WormfsError as error:
        return {"error": str(error)}
    if summary is None:
        return None
    last = summary.last
    return {
        "ended_at_ns": last.ended_ns if last else None,
        "files": last.files if last else None,
        "bytes": last.size_bytes if last else None,
        "whole_backend": last.whole_backend if last else None,
        "findings": {kind.value: count for kind, count in last.findings.items()} if last else None,
        "oldest_at_ns": last.oldest_ns if last else None,
        "unfinished": summary.unfinished,
        "damaged": summary.damaged,
    }


def _print_table(found: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    screen = console()
    screen.print(f"{plain(found['mountpoint'])}, daemon {found['pid']}", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("Backend", overflow="fold")
    table.add_column("State", no_wrap=True)
    table.add_column("Free of total", no_wrap=True)
    table.add_column("Spool")
    for name, backend in found["backends"].items():
        table.add_row(
            Text(name),
            Text(backend["state"], "green" if backend["state"] == _READY else "bold red"),
            Text(_space(backend["space"] or {})),
            Text("\n".join(_spool(backend["spool"]))),
        )
    screen.print(table)
    # Below the table: a reason may be long, and scripts cut tables but grep lines.
    for name, backend in found["backends"].items():
        if backend["reason"]:
            screen.print(f"{name}: {plain(backend['reason'])}", soft_wrap=True)
        for problem in _problems(backend.get("records") or {}):
            screen.print(f"{name}: {plain(problem)}", soft_wrap=True)
        spool = backend["spool"] or {}
        if spool.get("waiting") and spool.get("last_error"):
            screen.print(f"{name}: last error: {plain(spool['last_error'])}", soft_wrap=True)
        screen.print(f"{name}: {plain(_verified(backend['verification']))}", soft_wrap=True)


def _verified(verification: dict[str, Any] | None) -> str:
    """The last verification in a line."""
    if verification is None:
        return "never verified"
    if "error" in verification:
        return f"verified: {verification['error']}"
    parts = []
    if verification["ended_at_ns"] is None:
        parts.append("never verified to the end")
    else:
        parts.append(_last(verification))
    if verification["damaged"]:
        parts.append(f"{count_text(verification['damaged'], 'damaged file', 'damaged files')} not served")
    if verification["unfinished"]:
        parts.append("a verification is under way or was interrupted")
    return "; ".join(parts)


def _last(verification: dict[str, Any]) -> str:
    now_ns = SystemClock().now_ns()
    part = "" if verification["whole_backend"] else " (a part)"
    found = [f"{count} {kind}" for kind, count in verification["findings"].items()]
    text = (
        f"verified {age_text((now_ns - verification['ended_at_ns']) / NS_PER_S)} ago{part}, "
        f"{count_text(verification['files'], 'file', 'files')}: {', '.join(found) or 'all well'}"
    )
    if verification["oldest_at_ns"] is not None:
        age = age_text((now_ns - verification["oldest_at_ns"]) / NS_PER_S)
        text += f"; longest ago that a file was found whole: {age}"
    return text


def _problems(records: dict[str, Any]) -> Iterator[str]:
    """What an administrator should look at."""
    if records.get("erase") == "always":
        yield "a scratch directory ('erase: always'): new files have no retention"
    if (records.get("clock") or {}).get("doubt"):
        yield records["clock"]["doubt"]
    if records.get("audit_problem"):
        yield f"the audit trail cannot be written, nothing is erased: {records['audit_problem']}"


def _space(space: dict[str, Any]) -> str:
    free, total = space.get("free_bytes"), space.get("total_bytes")
    return "unknown" if free is None and total is None else f"{size_text(free)} of {size_text(total)}"


def _spool(spool: dict[str, Any] | None) -> Iterator[str]:
    """Entries by state, what waits longest, and what is in quarantine, a line each."""
    if spool is None:
        yield "not open; see 'wormfs spool list'"
        return
    counts = [f"{count} {state}" for state, count in sorted(spool["entries"].items()) if count]
    yield ", ".join([*counts, size_text(spool["bytes"])]) if counts else "empty"
    if spool["oldest_s"] is not None:
        yield f"oldest waits {age_text(spool['oldest_s'])}"
    quarantine = spool.get("quarantine")
    if quarantine is None:
        yield "quarantine unknown"
    elif quarantine["entries"]:
        yield f"quarantine {quarantine['entries']}, {size_text(quarantine['bytes'])}"
