"""``mount.fuse.wormfs``: what mount(8) calls for a line of fstab such as

    /etc/wormfs/config.yaml  /mnt/worm  fuse.wormfs  _netdev,nofail,allow_other  0 0

It returns when every backend is mounted or known to be down. The daemon goes on in the background, as root.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from wormfs.cli.group import Failure

if TYPE_CHECKING:
    from wormfs.config import Settings

MOUNT_FAILED = 32
"""Exit code, as mount(8) has it."""

_SAID_ANYWAY = {"allow_other", "default_permissions", "nodev", "nosuid", "noatime", "rw"}
_MEANT_FOR_MOUNT = {
    "_netdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "dev",
    "exec",
    "group",
    "noauto",
    "nofail",
}
_MEANT_FOR_MOUNT |= {"nouser", "owner", "relatime", "suid", "user", "users"}
_PREFIXES = ("x-", "X-", "comment=")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("config_path", metavar="SETTINGS", type=click.Path(dir_okay=False))
@click.argument("mountpoint")
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="As in fstab, separated by commas.")
@click.option("-f", "fake", is_flag=True, help="Do everything but mount.")
@click.option("-s", "sloppy", is_flag=True, help="Ignore options that are not known.")
@click.option("-n", "_no_mtab", is_flag=True, hidden=True)
@click.option("-v", "_verbose", is_flag=True, hidden=True)
@click.option("-t", "_kind", hidden=True)
def helper(
    config_path: str,
    mountpoint: str,
    options: tuple[str, ...],
    fake: bool,
    sloppy: bool,
    _no_mtab: bool,
    _verbose: bool,
    _kind: str | None,
) -> int:
    """Mount the backends of SETTINGS at MOUNTPOINT; for mount(8) and fstab.

    \b
    Example, a line of /etc/fstab:
      /etc/wormfs/config.yaml /mnt/worm fuse.wormfs _netdev,nofail,allow_other 0 0
    """
    unknown = [] if sloppy else _unknown(options)
    if unknown:
        raise click.UsageError(f"these mount options mean nothing to wormfs: {', '.join(unknown)}")
    from wormfs.cli.options import load_settings

    settings = load_settings(config_path)
    if os.path.abspath(mountpoint) != str(settings.mountpoint):
        raise click.ClickException(
            f"{config_path} names the mountpoint {settings.mountpoint}, not {mountpoint};"
            " put the same into both"
        )
    return 0 if fake else _mount(settings, config_path)


def _unknown(options: Sequence[str]) -> list[str]:
    words = [word for part in options for word in part.split(",") if word]
    known = _SAID_ANYWAY | _MEANT_FOR_MOUNT
    return [word for word in words if word not in known and not word.startswith(_PREFIXES)]


def _mount(settings: Settings, config_path: str) -> int:
    from wormfs.cli.mount import rereading
    from wormfs.daemon import launch
    from wormfs.daemon.supervisor import Plan

    # `mount -a` knows by the source that it is mounted already.
    plan = Plan(settings, rereading(config_path), source=config_path, waits_for_backends=False)
    started = launch.run_in_background(plan)
    if started.refused:
        click.echo(f"wormfs: {started.refused}", err=True)
        return MOUNT_FAILED
    for name, reason in started.missing.items():
        click.echo(f"wormfs: {name} is not mounted yet: {reason}", err=True)
    return 0


def main() -> int:
    """Run it with the arguments of the command line; returns the exit code."""
    try:
        code = helper.main(prog_name="mount.fuse.wormfs", standalone_mode=False)
    except Failure as error:
        error.show()
        return MOUNT_FAILED
    except click.ClickException as error:
        error.show()
        return MOUNT_FAILED if error.exit_code == 1 else error.exit_code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
