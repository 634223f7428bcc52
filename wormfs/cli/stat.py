"""``wormfs stat``: the record of a file, readably."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from wormfs.cli.options import config_option, json_option, load_settings

if TYPE_CHECKING:
    from wormfs.cli.files import Answer, Target
    from wormfs.config import Settings


@click.command()
@config_option
@json_option
@click.option("--history", is_flag=True, help="Also what the audit trail says of the file.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
def stat(config_path: str, as_json: bool, history: bool, paths: tuple[str, ...]) -> int:
    """Show the record of files: digest, dates, holds, owner, and whether they may be erased.

    Of a file that was erased, its tombstone is shown. Exits 0 if every file is there, else 1.

    \b
    Example:
      wormfs stat /mnt/worm/exams/2026/algebra.pdf
    """
    from wormfs.cli import files

    settings = load_settings(config_path)
    targets = [files.find(settings, path) for path in paths]
    for target in targets:
        if os.path.isdir(files.path_of(settings, target)):
            raise click.UsageError(f"{target.label} is a directory; records are of files")
    answers = list(files.ask(settings, "records.look", targets))
    shown = [_with_history(settings, answer, wanted=history) for answer in answers]
    if as_json:
        click.echo(json.dumps({"files": shown}, indent=2))
    else:
        for at, (answer, one) in enumerate(zip(answers, shown, strict=True)):
            if at:
                click.echo()
            _print(answer, one, history=history)
    return 0 if all(answer.outcome == "done" for answer in answers) else 1


def _with_history(settings: Settings, answer: Answer, *, wanted: bool) -> dict[str, Any]:
    found = answer.to_json()
    if wanted or answer.outcome == "missing":
        history = _history(settings, answer.target)
        found |= {"subject": history["subject"], "history": history["lines"]}
    return found


def _history(settings: Settings, target: Target) -> dict[str, Any]:
    from wormfs.cli import files

    return files.request(settings, target.backend, "records.history", [target])


def _print(answer: Answer, found: dict[str, Any], *, history: bool) -> None:
    from wormfs.cli.output import plain

    click.echo(answer.target.label)
    if answer.outcome == "done":
        for name, value in _lines(found):
            click.echo(f"  {name:<15} {plain(str(value))}")
    else:
        click.echo(f"  {plain(answer.error)}")
    for line in found.get("history", []):
        if history or line.get("event") == "erased":
            facts = [f"{name}={value}" for name, value in line.items() if name not in _HEAD]
            click.echo(plain(f"  {line['at']} {line['event']} {' '.join(facts)}"))


_DAMAGED = "damaged"
_RECORDED = ("committed", _DAMAGED)
_HEAD = ("v", "at", "event", "file")


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """What is known, in the order in which people ask for it."""
    yield "state", found["state"]
    if found["state"] == _DAMAGED:
        yield "", "not served until it was restored and 'wormfs verify' finds it whole"
    yield "size", f"{found['size_bytes']} bytes"
    if "verdict" not in found:
        return
    if found["state"] in _RECORDED:
        yield "sha256", found["sha256"]
        yield "committed", found["committed_at"]
        yield "retained until", found["retain_until"]
        yield "legal holds", ", ".join(found["holds"]) or "none"
    yield "may be erased", "yes" if found["verdict"] == "due" else "no"
    yield "because", found["reason"]
    if found["latest"] != "forever":
        yield "should go by", found["latest"] + (" (past it)" if found["past_max"] else "")
    yield "mode and owner", f"{found['mode']} uid {found['uid']} gid {found['gid']}"
    yield "modified", found["mtime"]
    if found["state"] in _RECORDED:
        yield "written by", f"uid {found['writer_uid']}, wormfs {found['wormfs']}"
        yield "entry", found["entry"]
    for name in ("version", "storage_class"):
        if found[name]:
            yield name.replace("_", " "), found[name]
    if found["subject"]:
        yield "in the audit", found["subject"]
