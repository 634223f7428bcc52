"""``wormfs erase``: early deletion, by court order."""

from __future__ import annotations

import json
import os

import click

from wormfs.cli.options import config_option, json_option, load_settings


@click.command()
@config_option
@json_option
@click.option(
    "--reason",
    required=True,
    metavar="TEXT",
    help="The order; it is kept for ever in the audit trail, so name the case and no person.",
)
@click.argument("path", type=click.Path())
def erase(config_path: str, as_json: bool, reason: str, path: str) -> int:
    """Erase one committed file before its retention is over, because a court has ordered it.

    For root only, and not where the backend or its settings are in compliance mode. A legal hold must be
    removed first. Every version goes, it is proved, and a tombstone stays: who, when, why, and salted
    hashes of path and content. There is no way back.

    Exits 0 if the file is gone, else 1.

    \b
    Example:
      wormfs erase --reason "VG Aachen 3 K 12/26" /mnt/worm/exams/2026/algebra.pdf
    """
    from wormfs.cli import files
    from wormfs.cli.output import plain

    if not reason.strip():
        raise click.UsageError("--reason must say something: it is all that remains")
    settings = load_settings(config_path)
    target = files.find(settings, path)
    if os.path.isdir(files.path_of(settings, target)):
        raise click.UsageError(f"{target.label} is a directory: files are erased one by one")
    (answer,) = files.ask(settings, "records.erase-early", [target], reason=reason)
    if as_json:
        click.echo(json.dumps(answer.to_json(), indent=2))
    elif answer.outcome == "done":
        click.echo(f"{target.label}: erased")
    if answer.outcome != "done":
        click.echo(f"wormfs: {target.label}: not erased: {plain(answer.error)}", err=True)
        return 1
    return 0
