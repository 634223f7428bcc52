"""``wormfs expire``: what is due, and its end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from wormfs.cli.options import config_option, json_option, load_settings
from wormfs.errors import WormfsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wormfs.cli.files import Answer, Target
    from wormfs.config import Settings

FAILED, PAST_MAX = 1, 3
_ROWS = 200
_ERASE_AT_ONCE = 25


@dataclass(slots=True)
class Found:
    """What a walk over backends has shown, and what came of it.

    Of a million files only the names are kept; all that is known is kept of those that are told of.
    """

    rows: int | None
    """How many files are told of one by one; ``None``: all."""
    due: list[Target] = field(default_factory=list)
    due_told: list[Answer] = field(default_factory=list)
    past_max: set[Target] = field(default_factory=set)
    past_max_told: list[Answer] = field(default_factory=list)
    failed: list[Answer] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """Backends that could not be walked to the end."""
    verdicts: Counter[str] = field(default_factory=Counter)
    due_bytes: int = 0
    erased: int = 0
    erased_bytes: int = 0


@click.command()
@config_option
@json_option
@click.option("-y", "--yes", is_flag=True, help="Erase what is due. Without it, it is only listed.")
@click.argument("backends", nargs=-1, metavar="[BACKEND]...")
def expire(config_path: str, as_json: bool, yes: bool, backends: tuple[str, ...]) -> int:
    """List the files whose retention is over and that no legal hold keeps; with --yes, erase them.

    Looks at every file of the backends, all or those named. Warns of files that are still there after
    retention.max. A timer may run it with --yes. Nothing is erased where 'erase' is 'never'.

    \b
    Exit status:
      0  fine
      1  a file or a backend could not be looked at, or a file not be erased
      3  files are there past their retention.max

    \b
    Example:
      wormfs expire exams
      wormfs expire --yes
    """
    from wormfs.cli import files
    from wormfs.cli.output import plain

    settings = load_settings(config_path)
    chosen = files.chosen_backends(settings, backends)
    found = _look(settings, chosen, None if as_json else _ROWS)
    if yes:
        _erase(settings, found)
    if as_json:
        click.echo(json.dumps(_to_json(found), indent=2))
    else:
        _print(settings, found, erased=yes)
    for answer in found.failed:
        click.echo(f"wormfs: {answer.target.label}: {plain(answer.error)}", err=True)
    for backend, why in found.problems.items():
        click.echo(f"wormfs: {backend}: not looked at to the end: {plain(why)}", err=True)
    if found.failed or found.problems:
        return FAILED
    return PAST_MAX if found.past_max else 0


def _look(settings: Settings, backends: list[str], rows: int | None) -> Found:
    from wormfs.cli import files
    from wormfs.model import ROOT

    found = Found(rows)
    for backend in backends:
        targets = files.below(settings, files.Target(backend, ROOT))
        try:
            with _progress(f"{backend}: looking", None) as seen:
                for answer in files.ask(settings, "records.look", targets):
                    seen(1)
                    _sort(found, answer)
        except WormfsError as error:
            found.problems[backend] = str(error)  # one that is down must not keep the others from it
    return found


def _sort(found: Found, answer: Answer) -> None:
    if answer.outcome in ("failed", "refused"):
        found.failed.append(answer)
    if answer.outcome != "done":
        return  # gone since it was listed
    verdict = answer.facts.get("verdict", "not committed")
    found.verdicts[verdict] += 1
    if verdict == "due":
        found.due.append(answer.target)
        found.due_bytes += answer.facts["size_bytes"]
        if found.rows is None or len(found.due_told) < found.rows:
            found.due_told.append(answer)
    if answer.facts.get("past_max"):
        found.past_max.add(answer.target)
        if found.rows is None or len(found.past_max_told) < found.rows:
            found.past_max_told.append(answer)


def _erase(settings: Settings, found: Found) -> None:
    from wormfs.cli import files

    mine = [target for target in found.due if settings.backend(target.backend).erase != "never"]
    with _progress("erasing", len(mine)) as seen:
        for answer in files.ask(settings, "records.erase", mine, batch=_ERASE_AT_ONCE):
            seen(1)
            if answer.outcome == "done":
                found.erased += 1
                found.erased_bytes += answer.facts["size_bytes"]
                found.past_max.discard(answer.target)
            elif answer.outcome != "missing":
                found.failed.append(answer)


def _to_json(found: Found) -> dict[str, Any]:
    return {
        "due": [answer.to_json() for answer in found.due_told],
        "due_bytes": found.due_bytes,
        "erased": found.erased,
        "erased_bytes": found.erased_bytes,
        "past_max": [one.to_json() for one in found.past_max_told if one.target in found.past_max],
        "failed": [answer.to_json() for answer in found.failed],
        "problems": found.problems,
        "verdicts": dict(found.verdicts),
    }


def _print(settings: Settings, found: Found, *, erased: bool) -> None:
    from wormfs.cli.output import console, count_text, size_text

    screen = console()
    if found.due:
        _print_table(found)
    total = f"{count_text(len(found.due), 'file is', 'files are')} due, {size_text(found.due_bytes)}"
    others = ", ".join(f"{count} {name}" for name, count in sorted(found.verdicts.items()) if name != "due")
    screen.print(f"{total}{f' ({others})' if others else ''}", soft_wrap=True)
    backends = {target.backend for target in found.due}
    never = {backend for backend in backends if settings.backend(backend).erase == "never"}
    for backend in sorted(never):
        screen.print(f"{backend}: nothing is erased here: 'erase' is 'never'", soft_wrap=True)
    if erased:
        gone = count_text(found.erased, "file", "files")
        screen.print(f"{gone} erased, {size_text(found.erased_bytes)}", soft_wrap=True)
    elif never < backends:
        screen.print("--yes erases them", soft_wrap=True)
    for answer in (one for one in found.past_max_told if one.target in found.past_max):
        text = (
            f"{answer.target.label}: should have gone by {answer.facts['latest']}: {answer.facts['reason']}"
        )
        screen.print(text, soft_wrap=True)
    if found.past_max:
        screen.print(f"{count_text(len(found.past_max), 'file is', 'files are')} past retention.max")


def _print_table(found: Found) -> None:
    from rich.table import Table
    from rich.text import Text

    from wormfs.cli.output import console, size_text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("Due", overflow="fold")
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Committed", no_wrap=True)
    table.add_column("Retained until", no_wrap=True)
    for answer in found.due_told:
        facts = answer.facts
        table.add_row(
            Text(answer.target.label),
            size_text(facts["size_bytes"]),
            facts.get("committed_at", "unknown")[:10],
            facts.get("retain_until", "unknown"),
        )
    screen = console()
    screen.print(table)
    if len(found.due) > len(found.due_told):
        screen.print(f"... and {len(found.due) - len(found.due_told)} more (--json lists all)")


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A sign of life on a terminal; nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from wormfs.cli.output import console

    screen = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
