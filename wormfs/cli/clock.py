"""``wormfs clock``: the time that retention believes."""

from __future__ import annotations

import json
from typing import Any

import click

from wormfs.cli.options import config_option, json_option, load_settings
from wormfs.cli.output import plain
from wormfs.errors import WormfsError

FAILED, DOUBT = 1, 3


@click.group()
def clock() -> None:
    """Look at the clock that decides on retention, and accept it after a jump.

    It never goes back. While the machine's clock is more than a day ahead or behind of what it should be,
    nothing counts as expired. After a machine was switched off for more than a day it has to be accepted,
    unless the backend's own clock confirms it.

    \b
    Example:
      wormfs clock status
    """


@clock.command()
@config_option
@json_option
@click.argument("backends", nargs=-1, metavar="[BACKEND]...")
def status(config_path: str, as_json: bool, backends: tuple[str, ...]) -> int:
    """Show what is thought of the clock.

    Exits 0 if it is believed by every backend, 3 if not, 1 if a backend does not answer.

    \b
    Example:
      wormfs clock status
    """
    return _ask(config_path, "clock.status", backends, as_json)


@clock.command()
@config_option
@json_option
@click.argument("backends", nargs=-1, metavar="[BACKEND]...")
def accept(config_path: str, as_json: bool, backends: tuple[str, ...]) -> int:
    """Say that the machine's clock is right as it is now. For root only; it is recorded.

    Look at it first: what expires by a wrong clock is erased for good.

    Exits 0 if every backend believes it now, else 1.

    \b
    Example:
      wormfs clock accept
    """
    return 1 if _ask(config_path, "clock.accept", backends, as_json) else 0


def _ask(config_path: str, op: str, backends: tuple[str, ...], as_json: bool) -> int:
    from wormfs.cli import files

    settings = load_settings(config_path)
    chosen = files.chosen_backends(settings, backends)
    found: dict[str, dict[str, Any]] = {}
    problems: dict[str, str] = {}
    for backend in chosen:
        try:
            found[backend] = files.request(settings, backend, op)
        except WormfsError as error:
            problems[backend] = str(error)  # one that is down must not keep the others from it
    if as_json:
        click.echo(json.dumps({"backends": found, "problems": problems}, indent=2))
    else:
        for backend, one in found.items():
            _print(backend, one)
    for backend, why in problems.items():
        click.echo(f"wormfs: {backend}: {plain(why)}", err=True)
    if problems:
        return FAILED
    return 0 if all(one["trust"] == "sure" for one in found.values()) else DOUBT


def _print(backend: str, found: dict[str, Any]) -> None:
    click.echo(f"{backend}: {'believed' if found['trust'] == 'sure' else 'in doubt: ' + found['trust']}")
    click.echo(f"  machine's clock  {found['wall']}")
    click.echo(f"  highest believed {found['believed']}")
    if found["backend"] is not None:
        click.echo(f"  backend's clock  {found['backend']}")
    if found["doubt"]:
        click.echo(f"  {found['doubt']}")
