"""``wormfs config``: check and show the settings."""

from __future__ import annotations

import click

from wormfs.cli.options import config_option, load_settings


@click.group()
def config() -> None:
    """Check and show the settings.

    \b
    Example:
      wormfs config check --config /etc/wormfs/config.yaml
    """


@config.command()
@config_option
def check(config_path: str) -> None:
    """Check the settings file and print everything that is wrong with it.

    Contacts no backend: 'wormfs check' does. Exits 0 if the file can be used, else 2.

    \b
    Example:
      wormfs config check --config /etc/wormfs/config.yaml
    """
    settings = load_settings(config_path)
    names = ", ".join(f"{name} ({backend.type})" for name, backend in settings.backends.items())
    click.echo(f"{config_path}: good; {settings.mountpoint} shows {names}")


@config.command()
@config_option
def show(config_path: str) -> None:
    """Print the settings as YAML, defaults written out, secrets masked.

    \b
    Example:
      wormfs config show --config /etc/wormfs/config.yaml
    """
    settings = load_settings(config_path)
    from wormfs.config import dump

    click.echo(dump(settings), nl=False)
