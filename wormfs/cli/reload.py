"""``wormfs reload``: the running daemon reads its settings again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wormfs.cli.options import config_option, load_settings
from wormfs.cli.output import count_text
from wormfs.errors import Unavailable

DONE, FAILED, WRONG, INCOMPLETE = 0, 1, 2, 3
"""Exit codes."""

_LONGEST_S = 3600.0
"""Backends that go or change drain first, each for at most stop_timeout."""


@click.command()
@config_option
@click.option(
    "--state-directory",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="STATE_DIRECTORY",
    show_envvar=True,
    metavar="DIRECTORY",
    help="Find the daemon by its state directory, even if its settings cannot be read now.",
)
def reload(config_path: str, state_directory: Path | None) -> int:
    """Let the running daemon read its settings file again.

    Takes over backends that were added, removed or changed, and changed secrets; the others are not touched,
    and files open on them stay open. A backend that is removed or changed first finishes what is open, for at
    most stop_timeout. If the settings are wrong, says what is, and changes nothing. The mountpoint and the
    state directory need a restart.

    \b
    Exit status:
      0  taken over
      1  no daemon answers, or it cannot reload
      2  the settings are wrong; the daemon goes on with those it has
      3  taken over, but a backend that is new or changed is not mounted yet

    \b
    Example:
      wormfs reload
    """
    reply = _ask(config_path, state_directory)
    if not reply.get("ok"):
        wrong = bool(reply.get("settings"))
        click.echo(f"{'' if wrong else 'wormfs: '}{reply.get('error')}", err=True)
        if wrong:
            click.echo("wormfs: nothing was changed; the daemon goes on with the settings it has", err=True)
        return WRONG if wrong else FAILED
    for what in ("added", "removed", "changed"):
        for name in reply[what]:
            click.echo(f"{name}: {what}")
    for name, count in reply["unfinished"].items():
        files = count_text(count, "file waits", "files wait")
        click.echo(f"wormfs: {name}: {files} in its spool until it is added again", err=True)
    for name, reason in reply["missing"].items():
        click.echo(f"wormfs: {name} is not mounted: {reason}", err=True)
    return INCOMPLETE if reply["missing"] else DONE


def _ask(config_path: str, state_directory: Path | None) -> dict[str, Any]:
    from wormfs.daemon.control import ControlClient

    request = {"request": "reload"}
    if state_directory is not None:
        try:
            return ControlClient(state_directory).request(request, timeout_s=_LONGEST_S)
        except Unavailable:
            if load_settings(config_path).state_directory == state_directory:
                raise
    # What is wrong with the settings is told here, too; but only the daemon knows its environment.
    settings = load_settings(config_path)
    return ControlClient(settings.state_directory).request(request, timeout_s=_LONGEST_S)
