"""``wormfs umount``: unmount everything and end the daemon."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wormfs.cli.options import config_option, load_settings
from wormfs.errors import Unavailable

if TYPE_CHECKING:
    from wormfs.daemon.control import ControlClient

_FIND_S = 5.0
_STATUS_S = 5.0
_ENDING_S = 15.0
"""What the daemon may need beyond the time that its commits were given."""

# In a child: a process that waits for a hung file system cannot be killed.
_FIND_PROGRAM = """
import os, sys
try:
    sys.stdout.buffer.write(os.getxattr(sys.argv[1], "user.wormfs.state_directory"))
except OSError as error:
    sys.exit(error.errno)
"""


@click.command()
@config_option
@click.argument("mountpoint", required=False)
@click.option("-l", "--lazy", is_flag=True, help="Detach now; what is open goes on until it is closed.")
@click.option(
    "--stale",
    is_flag=True,
    help="Only take away what a dead daemon left; it is fine if there is nothing, or a live one.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long open commits may take. [default: stop_timeout of the settings]",
)
@click.pass_context
def umount(
    context: click.Context,
    config_path: str,
    mountpoint: str | None,
    lazy: bool,
    stale: bool,
    timeout_s: float | None,
) -> int:
    """Unmount all backends and the root, and end the daemon.

    Waits until the commits that are open are done, at most --timeout seconds; what is left then is
    kept in the spool and committed at the next start. If somebody uses the mount, says who, and
    changes nothing.
    Give --config, or the mountpoint itself.

    \b
    Exit status:
      0  unmounted
      1  busy, or nothing is mounted
      2  the settings are wrong

    \b
    Example:
      wormfs umount --config /etc/wormfs/config.yaml
      wormfs umount --lazy /mnt/worm
    """
    from wormfs.daemon.control import ControlClient

    if mountpoint is not None:
        if context.get_parameter_source("config_path") is ParameterSource.COMMANDLINE:
            raise click.UsageError("give either --config or the mountpoint")
        where = os.path.realpath(mountpoint)
        state_directory = None if stale else _find_daemon(where)
    else:
        settings = load_settings(config_path)
        where = os.path.realpath(settings.mountpoint)
        state_directory = settings.state_directory
    # Standing below the mountpoint ourselves would make it busy.
    os.chdir("/")
    if stale:
        return _clear_stale(where)
    if state_directory is None:
        return _clear_remains(where, lazy)
    try:
        return _ask_daemon(ControlClient(state_directory), where, lazy, timeout_s)
    except Unavailable as error:
        return _clear_remains(where, lazy, str(error))


def _find_daemon(mountpoint: str) -> Path | None:
    """The state directory of the daemon behind a mountpoint; ``None`` if nothing alive answers there."""
    try:
        found = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _FIND_PROGRAM, mountpoint],
            check=False,
            capture_output=True,
            timeout=_FIND_S,
        )
    except subprocess.TimeoutExpired:
        return None
    return Path(os.fsdecode(found.stdout)) if found.returncode == 0 and found.stdout else None


def _ask_daemon(client: ControlClient, mountpoint: str, lazy: bool, timeout_s: float | None) -> int:
    pid = client.request({"request": "status"}, timeout_s=_STATUS_S)["pid"]
    # Taken while it surely lives, so that the number cannot have come to mean another process.
    process = os.pidfd_open(pid)
    request: dict[str, Any] = {"request": "stop", "mode": "lazy" if lazy else "clean"}
    if timeout_s is not None:
        request["timeout_s"] = timeout_s
    longest_s = (timeout_s if timeout_s is not None else 3600.0) + _ENDING_S
    reply = client.request(request, timeout_s=longest_s)
    if not reply.get("ok"):
        click.echo(f"wormfs: {reply.get('error')}; nothing was unmounted", err=True)
        for user in reply.get("users", []):
            click.echo(f"  pid {user['pid']} ({user['command']}): {user['path']}", err=True)
        if reply.get("users"):
            click.echo("wormfs: --lazy detaches it now and lets them finish", err=True)
        return 1
    for name, count in reply.get("unfinished", {}).items():
        click.echo(f"wormfs: {name}: {count} files wait in the spool for the next start", err=True)
    if not lazy:
        # So that the next mount finds the state directory free.
        select.select([process], [], [], _ENDING_S)
    os.close(process)
    return 0


def _clear_stale(mountpoint: str) -> int:
    """Quiet when there is nothing to do: a service calls it after every end."""
    from wormfs.daemon import mounts
    from wormfs.daemon.refusal import CannotStart

    try:
        for cleared in mounts.clear_stale(mountpoint):
            click.echo(f"wormfs: cleared a mount that a dead daemon left: {cleared}", err=True)
    except CannotStart:
        return 0  # not stale
    return 0


def _clear_remains(mountpoint: str, lazy: bool, problem: str = "") -> int:
    """No daemon answers: take away what a dead one left, or with ``--lazy`` what a hung one holds."""
    from wormfs.daemon import mounts
    from wormfs.daemon.refusal import CannotStart

    try:
        cleared = mounts.clear_stale(mountpoint)
    except CannotStart as error:
        if lazy and mounts.detach(mountpoint, None):
            return 0
        click.echo(f"wormfs: {problem or error}", err=True)
        return 1
    if not cleared:
        click.echo(
            f"wormfs: nothing is mounted at {mountpoint}" + (f" ({problem})" if problem else ""), err=True
        )
        return 1
    return 0
