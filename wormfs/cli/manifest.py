"""``wormfs manifest``: the recorded SHA-256 of every file, for other tools."""

from __future__ import annotations

import sys

import click

from wormfs.cli.options import config_option, load_settings

_INCOMPLETE = 1


@click.command()
@config_option
@click.argument("backend", metavar="BACKEND")
@click.argument("path", required=False, default="", metavar="[PATH]")
def manifest(config_path: str, backend: str, path: str) -> int:
    """Print the recorded SHA-256 of every file, as 'sha256sum --check' takes them.

    PATH is from the backend's directory on. A path that begins with / or ./ or ../ is taken as it is in the
    mount, and needs no BACKEND.

    From the records: no file is read, and files that are not committed yet are not in it. Names are below the
    backend's directory: check from there, in the mount or at the backend. Files without a record are named on
    standard error and left out; then the exit status is 1.

    \b
    Example:
      wormfs manifest exams > exams.sha256 && cd /mnt/worm/exams && sha256sum --quiet -c ~/exams.sha256
    """
    from wormfs.cli.output import plain
    from wormfs.daemon import verifying
    from wormfs.errors import NotFound, Unavailable, WormfsError
    from wormfs.model import show
    from wormfs.verify.manifest import line
    from wormfs.verify.walk import files_below

    settings = load_settings(config_path)
    out = sys.stdout.buffer
    complete = True
    name, key = verifying.place_of(settings, backend, path)
    with verifying.started(settings, name) as driver:
        for info in files_below(driver, key):
            try:
                record = driver.record(info.key)
                why = "it has no record: wormfs did not write it"
            except NotFound:
                continue  # erased meanwhile
            except Unavailable:
                raise
            except WormfsError as error:
                record, why = None, plain(str(error))
            if record is None:
                complete = False
                click.echo(f"wormfs: left out: {name}/{show(info.key)}: {why}", err=True)
            else:
                out.write(line(info.key, record.sha256))
    out.flush()
    return 0 if complete else _INCOMPLETE
