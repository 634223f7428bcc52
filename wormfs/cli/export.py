"""``wormfs export``: a tree of a backend as a package that archives know."""

from __future__ import annotations

from pathlib import Path

import click

from wormfs.cli.options import config_option, load_settings


@click.command()
@config_option
@click.option("--bagit", "as_bagit", is_flag=True, required=True, help="As a BagIt bag (RFC 8493).")
@click.argument("tree", metavar="TREE")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
def export(config_path: str, as_bagit: bool, tree: str, destination: Path) -> None:
    """Copy TREE into the new directory DEST as a BagIt bag, every byte checked against the records.

    TREE is a backend, or a backend, a slash, and a directory or file in it, or a path in the
    mount that begins with / or ./ or ../. The bag's manifest-sha256.txt is
    made from the copies and must agree with the records. A file that is not what its record says, or that has
    no record, ends the export with an error, and nothing is left at DEST. DEST must be absent or empty.

    \b
    Example:
      wormfs export --bagit exams/2026-summer /media/usb/exams-2026-summer
    """
    from wormfs import __version__
    from wormfs.audit import Event
    from wormfs.cli.bar import Bar
    from wormfs.cli.output import count_text, size_text
    from wormfs.clock import SystemClock
    from wormfs.daemon import verifying
    from wormfs.model import show
    from wormfs.verify.bag import Exporter

    settings = load_settings(config_path)
    if tree.startswith(("/", ".")):
        name, key = verifying.place_of(settings, tree)
    else:
        word, _, path = tree.partition("/")
        name, key = verifying.place_of(settings, word, path.strip("/"))
    destination = destination.absolute()
    with (
        verifying.started(settings, name) as backend,
        verifying.audited(settings, name, SystemClock()) as audit,
        Bar() as bar,
    ):

        def progress(files: int, size_bytes: int) -> None:
            bar.bytes_done(size_bytes)
            if files:
                bar.files_done(files)

        exporter = Exporter(backend, key, destination, progress)
        files, size_bytes = exporter.totals()
        bar.begin(name, files, size_bytes)
        shown = show(name.encode() + (b"/" + key if key else b""))
        exporter.export(f"{shown}, exported by wormfs {__version__}; checksums agree with its records")
        audit.note(Event.EXPORTED, key, files=files, bytes=size_bytes)
    click.echo(f"{destination}: {count_text(files, 'file', 'files')}, {size_text(size_bytes)}")
