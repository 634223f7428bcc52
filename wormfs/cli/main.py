"""The entry point: the table of commands, and what happens to whatever goes wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import click

from wormfs import __version__
from wormfs.cli.group import LazyCommand, LazyGroup

TRACEBACK_VARIABLE = "WORMFS_TRACEBACK"
_INTERRUPTED = 130

COMMANDS: Mapping[str, LazyCommand] = MappingProxyType(
    {
        "mount": LazyCommand("wormfs.cli.mount", "mount", "Mount the configured backends."),
        "umount": LazyCommand("wormfs.cli.umount", "umount", "Unmount and stop the daemon."),
        "reload": LazyCommand("wormfs.cli.reload", "reload", "Take changed settings over."),
        "check": LazyCommand("wormfs.cli.check", "check", "Try every backend: connect, write, read."),
        "status": LazyCommand("wormfs.cli.status", "status", "Show what the running daemon does."),
        "spool": LazyCommand("wormfs.cli.spool", "spool", "Look after files not committed yet."),
        "stat": LazyCommand("wormfs.cli.stat", "stat", "Show the record of a file."),
        "retain": LazyCommand("wormfs.cli.retain", "retain", "Keep files longer."),
        "hold": LazyCommand("wormfs.cli.hold", "hold", "Put files under legal hold, or take them off."),
        "expire": LazyCommand("wormfs.cli.expire", "expire", "List or erase files whose time is over."),
        "erase": LazyCommand("wormfs.cli.erase", "erase", "Erase a file early, by court order."),
        "clock": LazyCommand("wormfs.cli.clock", "clock", "Look at the time that retention believes."),
        "verify": LazyCommand("wormfs.cli.verify", "verify", "Compare stored files with their records."),
        "manifest": LazyCommand("wormfs.cli.manifest", "manifest", "Print what sha256sum -c takes."),
        "export": LazyCommand("wormfs.cli.export", "export", "Copy files out as a BagIt bag."),
        "config": LazyCommand("wormfs.cli.config", "config", "Check and show the settings."),
        "mounter": LazyCommand("wormfs.cli.mounter", "mounter", "Mount for a daemon that may not."),
        "completion": LazyCommand(
            "wormfs.cli.completion", "completion", "Print a shell's completion script."
        ),
    }
)


@click.command(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="See 'wormfs COMMAND --help' for a command's options and an example.",
)
@click.version_option(__version__, prog_name="wormfs")
def cli() -> None:
    """A write-once file system over several storage backends.

    \b
    Example:
      wormfs mount --config /etc/wormfs/config.yaml
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done. 1: it failed. 2: the call or the settings are wrong. Nobody is shown a traceback
    unless the environment asks for it.
    """
    try:
        code = cli.main(arguments, prog_name="wormfs", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("wormfs: interrupted", err=True)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        hint = "" if isinstance(error, OSError) else f" (set {TRACEBACK_VARIABLE}=1 to see where)"
        click.echo(f"wormfs: {type(error).__name__}: {error}{hint}", err=True)
        return 1
    return code if isinstance(code, int) else 0
