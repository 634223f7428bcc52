"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wormfs.cli.group import SettingsFailure
from wormfs.errors import SettingsError

if TYPE_CHECKING:
    from wormfs.config import Settings

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_CONFIG = "/etc/wormfs/config.yaml"


def config_option(command: F) -> F:
    """``--config FILE``, handed to the command as ``config_path``."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(dir_okay=False),
        default=DEFAULT_CONFIG,
        show_default=True,
        envvar="WORMFS_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help="The settings file.",
    )(command)


def json_option(command: F) -> F:
    """``--json``, handed to the command as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


def load_settings(path: str) -> Settings:
    """The settings in a file. What is wrong with them goes to stderr, one line each, with exit code 2."""
    # pydantic takes a tenth of a second to import: only commands that need it pay.
    from wormfs.config import load

    try:
        return load(path)
    except SettingsError as error:
        if not os.path.lexists(path):
            hint = "wormfs: name your settings with --config or WORMFS_CONFIG; config.example.yaml shows how"
            raise SettingsFailure(SettingsError(f"{error}\n{hint}")) from error
        raise SettingsFailure(error) from error
