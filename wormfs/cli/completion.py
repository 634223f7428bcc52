"""``wormfs completion``: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

COMPLETION_VARIABLE = "_WORMFS_COMPLETE"
"""click's own rule for the program name ``wormfs``."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      wormfs completion bash > /etc/bash_completion.d/wormfs
      wormfs completion zsh > ~/.zfunc/_wormfs
      wormfs completion fish > ~/.config/fish/completions/wormfs.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root().command
    # source_vars and template instead of source(): that one starts bash to ask for its version.
    script = kind(root, {}, "wormfs", COMPLETION_VARIABLE)
    click.echo(script.source_template % script.source_vars())
