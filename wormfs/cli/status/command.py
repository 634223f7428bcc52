"""The command."""

from __future__ import annotations

import json
from functools import partial

import click

from wormfs.cli.options import config_option, json_option, load_settings
from wormfs.cli.output import console


@click.command()
@config_option
@json_option
@click.option("-w", "--watch", "watching", is_flag=True, help="Look again each second, until Ctrl-C.")
def status(config_path: str, as_json: bool, watching: bool) -> int:
    """Show how each backend is: mounted or not and why, room, spool, health, throughput.

    'wormfs spool list' shows the files one by one. Answers within a second, even if backends or their workers
    hang.

    \b
    Exit status, for monitoring:
      0  all is well
      1  warning: somebody should look
      2  critical: applications get errors or files are in danger; also if no
         daemon answers, or the settings are wrong

    \b
    Example:
      wormfs status --config /etc/wormfs/config.yaml
    """
    from wormfs.cli.status import render
    from wormfs.cli.status.report import report, to_json
    from wormfs.cli.status.watch import watch

    settings = load_settings(config_path)
    look = partial(report, settings)
    screen = console()
    if watching:
        if as_json:
            raise click.UsageError("--watch is for people and --json for scripts: use one of them")
        if not screen.is_terminal:
            raise click.UsageError("--watch needs a terminal")
        return int(watch(look, screen))
    found = look()
    if as_json:
        click.echo(json.dumps(to_json(found), indent=2))
    else:
        render.show(found, screen)
    return int(found.level)
