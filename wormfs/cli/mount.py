"""``wormfs mount``: run the daemon."""

from __future__ import annotations

import itertools
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from wormfs.cli.options import config_option, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from wormfs.config import Settings
    from wormfs.daemon.launch import Started

EXIT_REFUSED = 1
EXIT_INCOMPLETE = 3


@click.command()
@config_option
@click.option("--daemon", "in_background", is_flag=True, help="Return once every backend answers.")
@click.option(
    "--embedded",
    is_flag=True,
    help="To try it out, without a settings file: one backend 'archive' in ./var, mounted at ./mnt.",
)
@click.pass_context
def mount(context: click.Context, config_path: str, in_background: bool, embedded: bool) -> int:
    """Mount the configured backends below one directory.

    Stays in the foreground and logs to standard error; Ctrl-C or SIGTERM unmounts and lets commits finish,
    a second Ctrl-C stops at once. Backends that are down do not stop the others: their directories
    answer EIO, and they are mounted as soon as they come up.

    'wormfs reload' or SIGHUP makes it read its settings file again.

    With --daemon it goes to the background and logs to wormfs.log in the state directory.

    \b
    Exit status:
      0  stopped in order; with --daemon: every backend is mounted
      1  nothing was mounted, or the stop was forced
      2  the settings are wrong
      3  with --daemon: the daemon runs, but some backends could not be mounted
         within 30 seconds; it says which and why, and goes on trying

    \b
    Example:
      wormfs mount --config /etc/wormfs/config.yaml
    """
    from wormfs.daemon import launch
    from wormfs.daemon.refusal import CannotStart
    from wormfs.daemon.supervisor import Plan

    if embedded:
        if context.get_parameter_source("config_path") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--embedded needs no settings file: use either --embedded or --config")
        settings = _embedded()
        plan = Plan(settings)
    else:
        settings = load_settings(config_path)
        plan = Plan(settings, rereading(config_path))

    def greet(missing: dict[str, str]) -> None:
        # Whoever reads this may go away (head, less); the mount stays.
        with suppress(BrokenPipeError):
            _show_mounted(settings, missing)
            if embedded and not missing:
                _show_what_to_try(settings)

    try:
        if in_background:
            return _report_started(settings, launch.run_in_background(plan))
        return launch.run_here(plan, greet)
    except CannotStart as error:
        click.echo(f"wormfs: {error}", err=True)
        return EXIT_REFUSED


def rereading(config_path: str) -> Callable[[], Settings]:
    """Reads the file again, wherever the daemon stands by then."""
    path = os.path.abspath(config_path)

    def load() -> Settings:
        from wormfs.config import load as load_again

        return load_again(path)

    return load


def _embedded() -> Settings:
    from wormfs.config import LocalSettings
    from wormfs.config import embedded as embedded_settings

    settings = embedded_settings(os.getcwd())
    for backend in settings.backends.values():
        if isinstance(backend, LocalSettings):
            # Elsewhere a missing directory is an error: it may be a disk that is not mounted.
            backend.path.mkdir(parents=True, exist_ok=True)
    return settings


def _report_started(settings: Settings, started: Started) -> int:
    if started.refused:
        click.echo(f"wormfs: {started.refused}", err=True)
        return EXIT_REFUSED
    for name, reason in started.missing.items():
        click.echo(f"wormfs: {name} is not mounted: {reason}", err=True)
    if started.missing:
        click.echo(
            f"wormfs: the daemon (pid {started.pid}) goes on trying; stop it with:"
            f" wormfs umount {shlex.quote(str(settings.mountpoint))}",
            err=True,
        )
        return EXIT_INCOMPLETE
    return 0


def _show_mounted(settings: Settings, missing: dict[str, str]) -> None:
    for name, backend in settings.backends.items():
        what = f"not mounted yet: {missing[name]}" if name in missing else f"mounted ({backend.type})"
        click.echo(f"{settings.mountpoint / name}: {what}")


def _show_what_to_try(settings: Settings) -> None:
    """Three commands. Not for a real archive: what they store there could not be taken away again."""
    from wormfs.config import LocalSettings

    [backend] = settings.backends.values()
    assert isinstance(backend, LocalSettings), "what --embedded makes"
    place = settings.mountpoint / backend.name
    file = shlex.quote(str(place / _free_name(backend.path)))
    click.echo("Try in another terminal:")
    click.echo(f"  cp /etc/hostname {file}")
    click.echo(f"  echo changed > {file}    # refused: what is there stays as it is")
    click.echo(f"  df -h {shlex.quote(str(place))}")
    click.echo(f"Ctrl-C here unmounts. The files stay in {backend.path}")


def _free_name(directory: Path) -> str:
    """A name that an earlier run has not taken for good. Not asked through the mount: we are its daemon."""
    names = itertools.chain(["hostname"], (f"hostname-{number}" for number in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(directory / name))
