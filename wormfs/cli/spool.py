"""``wormfs spool``: files that are not committed yet, and those that are never to be without a decision."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from wormfs.cli.options import config_option, json_option, load_settings
from wormfs.errors import Refused, SpoolLocked, Unavailable

if TYPE_CHECKING:
    from wormfs.cli.entries import Collected, Seen
    from wormfs.config import Settings

EXIT_FAILED = 1

_STATES = ("writing", "settling", "sealed", "quarantined")
_ANSWER_S = 30.0


@click.group()
def spool() -> None:
    """Look after files that are not committed yet, and after quarantine.

    An entry is writing (a program has it open), settling (closed, may still be renamed), sealed
    (accepted; committed as soon as the backend takes it) or quarantined (kept, never published: a killed
    writer, or other bytes have its name). ID is an entry's id, or a unique beginning of either half of it.

    \b
    Example:
      wormfs spool list
    """


# -- looking


@spool.command("list")
@config_option
@json_option
@click.option("--state", "states", type=click.Choice(_STATES), multiple=True, help="Only such entries.")
@click.argument("backends", nargs=-1, metavar="[BACKEND]...")
def list_entries(config_path: str, as_json: bool, states: tuple[str, ...], backends: tuple[str, ...]) -> int:
    """List the entries of the spools, with or without a running daemon.

    Age is the time in the present state. Attempts and the newest errors are known only while the daemon
    runs. Exits 0; 1 if a spool cannot be read (the others are listed all the same).

    \b
    Example:
      wormfs spool list --state quarantined exams
    """
    from wormfs.cli.entries import collect, print_entries

    found = collect(load_settings(config_path), backends)
    entries = [seen for seen in found.entries if not states or seen.entry.state.value in states]
    if as_json:
        problems = [{"backend": name, "problem": why} for name, why in found.problems.items()]
        click.echo(
            json.dumps({"entries": [seen.to_json() for seen in entries], "problems": problems}, indent=2)
        )
    else:
        print_entries(entries)
    _tell_problems(found)
    return EXIT_FAILED if found.problems else 0


@spool.command()
@config_option
@json_option
@click.argument("entry_id", metavar="ID")
def show(config_path: str, as_json: bool, entry_id: str) -> None:
    """Show all that is known of one entry, with its history.

    Exits 0, or 1 if there is no such entry.

    \b
    Example:
      wormfs spool show 3f9c2a1b
    """
    from wormfs.cli.entries import collect, entry_json, print_entry

    found = collect(load_settings(config_path))
    seen = found.find(entry_id)
    if as_json:
        click.echo(json.dumps(entry_json(seen), indent=2))
    else:
        print_entry(seen)


def _tell_problems(found: Collected) -> None:
    from wormfs.cli.output import plain

    for name, why in found.problems.items():
        click.echo(f"wormfs: the spool of {name} cannot be read: {plain(why)}", err=True)
    for name, why in found.notes.items():
        click.echo(f"wormfs: {name}: the daemon does not say more: {plain(why)}", err=True)


# -- trying again


@spool.command()
@config_option
@json_option
@click.option("--all", "all_sealed", is_flag=True, help="Every sealed entry of every backend.")
@click.option("--as-is", is_flag=True, help="Make a record of quarantined bytes as they are.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
def retry(config_path: str, as_json: bool, all_sealed: bool, as_is: bool, ids: tuple[str, ...]) -> int:
    """Try entries again now. Needs the running daemon.

    Sealed entries are tried for ever anyway; this forgets the delay. A quarantined entry comes back only
    if it is named, its name is free, and its bytes are those that were sealed. One that was never sealed,
    such as a killed writer's, may be half a file: look at it (export), and if it is whole, --as-is
    makes a record of it.

    \b
    Exit status:
      0  committed
      1  refused, or in quarantine (again)
      2  the call or the settings are wrong
      3  not committed yet: safe in the spool, and tried for ever

    \b
    Example:
      wormfs spool retry --all
      wormfs spool retry --as-is 3f9c2a1b
    """
    from wormfs.cli.attempts import Attempts
    from wormfs.cli.entries import collect
    from wormfs.spool.administration import Promise
    from wormfs.worm.lifecycle import EntryState

    if all_sealed == bool(ids):
        raise click.UsageError("give either ids or --all")
    if as_is and all_sealed:
        raise click.UsageError("--as-is is a decision about single entries: name them")
    settings = load_settings(config_path)
    found = collect(settings)
    _tell_problems(found)
    attempts = Attempts(settings)
    sealed = [seen for seen in found.entries if seen.entry.state is EntryState.SEALED]
    if all_sealed:
        attempts.retry_all(sealed)
    else:
        chosen = _named(found, ids)
        attempts.retry([seen for seen in chosen if seen in sealed])
        for seen in chosen:
            if seen not in sealed:
                attempts.restore(seen, Promise.AS_IS if as_is else Promise.AS_SEALED)
    attempts.tell(as_json=as_json)
    return attempts.exit_code()


def _named(found: Collected, ids: Iterable[str]) -> list[Seen]:
    """The entries, each once, in the order of the call. Raises NotFound, InvalidArgument."""
    return list({seen.entry.entry_id: seen for seen in map(found.find, ids)}.values())


# -- taking out


@spool.command()
@config_option
@json_option
@click.argument("entry_id", metavar="ID")
@click.argument("target", metavar="DEST", type=click.Path(path_type=str))
def export(config_path: str, as_json: bool, entry_id: str, target: str) -> None:
    """Copy an entry's bytes to the new file DEST.

    For sealed and quarantined entries, with or without a running daemon; the entry stays. The SHA-256 is
    verified where it is known. DEST is never overwritten, and can be read by its owner only.

    Exits 0 if DEST is complete and on the disk, else 1 (and there is no DEST).

    \b
    Example:
      wormfs spool export 3f9c2a1b /root/rescued.tgz
    """
    from wormfs.cli.entries import collect
    from wormfs.cli.output import plain, size_text
    from wormfs.spool.export import export as export_bytes

    seen = collect(load_settings(config_path)).find(entry_id)
    known = seen.entry.sha256
    with seen.entry.open_data() as source, _progress(seen) as progress:
        digest = export_bytes(source, target, known, progress)
    size_bytes = os.stat(target).st_size
    if as_json:
        result = {"id": seen.entry.entry_id, "path": target, "size_bytes": size_bytes, "sha256": digest}
        click.echo(json.dumps({**result, "verified": known is not None}, indent=2))
        return
    proof = "as it was sealed" if known is not None else "not known before: it was never sealed"
    click.echo(f"{plain(target)}: {size_text(size_bytes)}, sha256 {digest} ({proof})")


@contextmanager
def _progress(seen: Seen) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; nothing elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from wormfs.cli.output import console

    screen = console(stderr=True)
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=seen.size_bytes)
        yield lambda count: bar.advance(task, count)


# -- throwing away


@spool.command()
@config_option
@json_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is written to discarded.log.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def discard(config_path: str, as_json: bool, reason: str, yes: bool, ids: tuple[str, ...]) -> int:
    """Throw quarantined entries away for good.

    Shows what will be lost and asks. Who did it, when and why is kept in discarded.log beside
    the quarantine. Only for quarantined entries: a sealed one is accepted and will be committed.

    Exits 0 if all are gone, else 1.

    \b
    Example:
      wormfs spool discard 3f9c2a1b --reason "killed upload, was repeated"
    """
    from wormfs.cli.entries import collect, print_entries
    from wormfs.cli.who import whoami

    if not reason.strip():
        raise click.UsageError("--reason must say something: it is all that remains")
    settings = load_settings(config_path)
    chosen = _named(collect(settings), ids)
    for seen in chosen:
        _must_be_quarantined(seen)
    if not yes:
        print_entries(chosen, stderr=True)
        if not click.confirm("These bytes will be lost for good. Discard them?", err=True):
            click.echo("wormfs: nothing was discarded", err=True)
            return EXIT_FAILED
    who = whoami()
    for seen in chosen:
        _discard(settings, seen, who, reason)
        if not as_json:
            click.echo(f"{seen.label}: discarded")
    if as_json:
        click.echo(json.dumps({"discarded": [seen.entry.entry_id for seen in chosen]}, indent=2))
    return 0


def _must_be_quarantined(seen: Seen) -> None:
    """Raises Refused with what can be done instead."""
    from wormfs.spool.inventory import Where
    from wormfs.worm.lifecycle import EntryState

    match seen.entry.state:
        case EntryState.QUARANTINED if seen.entry.where is Where.QUARANTINE:
            return
        case EntryState.QUARANTINED:
            advice = "it waits for its move to quarantine: make room for it, or start the daemon"
        case EntryState.SEALED:
            advice = (
                "it is sealed: its writer was told that it is safe, so it cannot be discarded. It is "
                "committed as soon as the backend takes it"
            )
        case state:
            advice = f"it is {state.value}, not in quarantine: remove the file from the mount instead"
    raise Refused(f"{seen.label}: {advice}")


def _discard(settings: Settings, seen: Seen, who: str, why: str) -> None:
    """By ourselves if nobody uses the spool, else by the daemon. Raises what either says."""
    from wormfs.cli.output import plain
    from wormfs.clock import SystemClock
    from wormfs.daemon.spoolrequests import discard_request
    from wormfs.daemon.spools import SpoolClient, discard_without_daemon

    entry_id = seen.entry.entry_id
    try:
        discard_without_daemon(seen.place, entry_id, who, why, SystemClock())
        return
    except SpoolLocked as error:
        locked = error
    client = SpoolClient(settings.state_directory, seen.place.backend)
    try:
        client.ask(discard_request(entry_id, who, why), _ANSWER_S)
    except Unavailable as error:
        raise Unavailable(f"{plain(str(locked))} ({plain(str(error))})") from error
    except Refused as error:
        raise Refused(plain(str(error))) from error
