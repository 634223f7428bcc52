"""``wormfs mounter``: mounts for a daemon that may not."""

from __future__ import annotations

import os

import click

from wormfs.cli.options import config_option


@click.command()
@config_option
@click.argument("socket", type=click.Path())
def mounter(config_path: str, socket: str) -> int:
    """Mount and unmount at the configured mountpoint for the daemon, which then needs no such right itself.

    Meant for systemd: wormfs-mounter.service runs it. Whoever may connect to SOCKET may ask;
    WORMFS_MOUNTER=SOCKET in its environment tells the daemon to. Of the settings only the mountpoint is read.

    \b
    Example:
      wormfs mounter /run/wormfs/mounter.sock
    """
    from wormfs.config import load_mountpoint
    from wormfs.daemon import logs, mounter
    from wormfs.daemon.notify import Notifier

    logs.set_up(logs.SUPERVISOR, "info")
    mounter.serve(os.path.realpath(load_mountpoint(config_path)), socket, Notifier.from_environment())
    return 0
