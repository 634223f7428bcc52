"""``wormfs retain``: keep committed files longer."""

from __future__ import annotations

import os

import click

from wormfs.cli.options import config_option, json_option, load_settings


@click.command()
@config_option
@json_option
@click.option(
    "--until",
    required=True,
    metavar="DATE",
    help="2040-12-31 (the end of that day), 2040-12-31T18:00, with or without offset, or forever.",
)
@click.option("-r", "--recursive", is_flag=True, help="Also everything below a directory.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
def retain(config_path: str, as_json: bool, until: str, recursive: bool, paths: tuple[str, ...]) -> int:
    """Keep committed files until a later date. It can never be made earlier again.

    Times without an offset are in the backend's retention time_zone. The same as
    'setfattr -n user.wormfs.retain_until -v DATE PATH'.

    Exits 0 if every file is kept until then, 1 if one is not (its date is later already, it lies after
    retention.max, or it is not committed yet).

    \b
    Example:
      wormfs retain --until 2040-12-31 /mnt/worm/exams/2026/algebra.pdf
    """
    from wormfs.cli import files, outcomes

    settings = load_settings(config_path)
    chosen = [files.find(settings, path) for path in paths]
    for target in chosen:
        if not recursive and os.path.isdir(files.path_of(settings, target)):
            raise click.UsageError(f"{target.label} is a directory: --recursive extends everything below it")
    targets = (one for target in chosen for one in files.below(settings, target))
    answers = files.ask(settings, "records.extend", targets, until=until)
    return outcomes.tell(answers, f"kept until {until}", as_json=as_json)
