"""A click group that imports a command only when it is called, and turns failures into one clear line."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import click
from click.shell_completion import CompletionItem

from wormfs.errors import SettingsError, WormfsError


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command lives, and what the list of commands says of it."""

    module: str
    attribute: str
    summary: str


class Failure(click.ClickException):
    """A failure that was foreseen: one line on stderr, no traceback, exit code 1."""

    def __init__(self, error: WormfsError):
        super().__init__(str(error))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"wormfs: {self.message}", file=file, err=file is None)


class SettingsFailure(Failure):
    """Wrong settings: one line for each problem, and exit code 2, as click has for wrong options."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=file is None)


class LazyGroup(click.Group):
    """A group whose commands are imported by name when they are needed."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._lazy.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        if importlib.util.find_spec(entry.module) is None:
            raise click.ClickException(f"the command {cmd_name!r} is not part of this installation")
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            matches = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not matches:
                raise
            raise click.UsageError(f"{error.message} Did you mean {matches[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table: the list must not import every command, nor need all of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._lazy.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=entry.summary)
            for name, entry in self._lazy.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise SettingsFailure(error) from error
        except WormfsError as error:
            raise Failure(error) from error
