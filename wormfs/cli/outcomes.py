"""How commands that change files one by one tell what came of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import click

from wormfs.cli.files import Answer
from wormfs.cli.output import count_text, plain

FAILED = 1


def tell(answers: Iterable[Answer], done: str, *, as_json: bool) -> int:
    """What failed goes to stderr as it comes, the sum to stdout. Returns the exit code.

    ``done``: what is said of the files with which it went well.
    """
    counts: Counter[str] = Counter()
    told = []
    for answer in answers:
        counts[answer.outcome] += 1
        if as_json:
            told.append(answer.to_json())
        elif answer.outcome != "done":
            click.echo(f"wormfs: {answer.target.label}: {plain(answer.error)}", err=True)
    if as_json:
        click.echo(json.dumps({"counts": dict(counts), "files": told}, indent=2))
    else:
        click.echo(f"{count_text(counts['done'], 'file', 'files')} {done}")
        rest = counts.total() - counts["done"]
        if rest:
            click.echo(f"wormfs: {count_text(rest, 'file', 'files')} failed", err=True)
    return 0 if counts.total() == counts["done"] else FAILED
