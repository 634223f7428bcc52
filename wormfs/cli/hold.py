"""``wormfs hold``: legal holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from wormfs.cli.options import config_option, json_option, load_settings

if TYPE_CHECKING:
    from wormfs.cli.files import Answer


@click.group()
def hold() -> None:
    """Put files under legal hold, by case number, and take them off.

    A file under a hold is not erased, whatever its date; it may be under several. For root only. A directory
    stands for all files that are below it now; files that come later need a hold of their own.

    \b
    Example:
      wormfs hold add "AZ 12/2026" /mnt/worm/exams/2026
    """


@hold.command()
@config_option
@json_option
@click.argument("case")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
def add(config_path: str, as_json: bool, case: str, paths: tuple[str, ...]) -> int:
    """Put files, or all files below directories, under a legal hold.

    Exits 0 if every file is under the hold, else 1: a file that is not committed yet cannot be.

    \b
    Example:
      wormfs hold add "AZ 12/2026" /mnt/worm/exams/2026
    """
    return _change(config_path, "records.hold", case, paths, f"held for {case}", as_json)


@hold.command()
@config_option
@json_option
@click.argument("case")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
def remove(config_path: str, as_json: bool, case: str, paths: tuple[str, ...]) -> int:
    """Take a legal hold off files, or off all below directories that have it.

    Other holds stay, and so does the date. Exits 0 if the hold is gone, 1 if that failed for a file, or if
    no file had it.

    \b
    Example:
      wormfs hold remove "AZ 12/2026" /mnt/worm/exams/2026
    """
    return _change(config_path, "records.release", case, paths, f"not held for {case} any more", as_json)


@hold.command("list")
@config_option
@json_option
@click.argument("words", nargs=-1, required=True, metavar="[CASE] PATH")
def list_holds(config_path: str, as_json: bool, words: tuple[str, ...]) -> int:
    """List the files at or below PATH that are under a hold, all or those of one case.

    Exits 0, also if there are none; 1 if a file cannot be looked at.

    \b
    Example:
      wormfs hold list /mnt/worm/exams
      wormfs hold list "AZ 12/2026" /mnt/worm/exams
    """
    if len(words) > 2:
        raise click.UsageError("give a case and one path, or one path")
    case = words[0] if len(words) == 2 else None
    found = list(_held(config_path, words[-1], case))
    failed = [answer for answer in found if answer.outcome == "failed"]
    held = [answer for answer in found if answer.outcome != "failed"]
    if as_json:
        click.echo(json.dumps({"files": [answer.to_json() for answer in held]}, indent=2))
    else:
        _print(held)
    for answer in failed:
        click.echo(f"wormfs: {answer.target.label}: {answer.error}", err=True)
    return 1 if failed else 0


def _change(config_path: str, op: str, case: str, paths: tuple[str, ...], done: str, as_json: bool) -> int:
    from wormfs.cli import files, outcomes
    from wormfs.worm.retention import must_be_case

    must_be_case(case)
    settings = load_settings(config_path)
    chosen = [files.find(settings, path) for path in paths]
    targets = (one for target in chosen for one in files.below(settings, target))
    if op == "records.release" and any(os.path.isdir(path) for path in paths):
        # Of a tree only what has the hold: that others do not is no failure.
        targets = (answer.target for path in paths for answer in _held(config_path, path, case))
    changed = list(files.ask(settings, op, targets, case=case))
    code = outcomes.tell(changed, done, as_json=as_json)
    # A mistyped case number must not look like a hold that is gone.
    return code if changed or op != "records.release" else outcomes.FAILED


def _held(config_path: str, path: str, case: str | None) -> Iterator[Answer]:
    from wormfs.cli import files

    settings = load_settings(config_path)
    targets = files.below(settings, files.find(settings, path))
    for answer in files.ask(settings, "records.look", targets):
        holds = answer.facts.get("holds") or []
        if answer.outcome == "failed" or (holds and (case is None or case in holds)):
            yield answer


def _print(held: list[Answer]) -> None:
    from rich.table import Table
    from rich.text import Text

    from wormfs.cli.output import console, count_text, plain

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("File", "Holds", "Retained until"):
        table.add_column(column, overflow="fold")
    for answer in held:
        holds = ", ".join(plain(case) for case in answer.facts["holds"])
        table.add_row(Text(answer.target.label), Text(holds), Text(answer.facts["retain_until"]))
    screen = console()
    if held:
        screen.print(table)
    screen.print(f"{count_text(len(held), 'file', 'files')} under legal hold")
