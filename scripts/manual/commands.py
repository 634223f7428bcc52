"""wormfs(1) and a page for each command, out of their own help and the texts in ``texts``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from scripts.manual import roff, texts
from scripts.manual.prose import Piece, from_help
from wormfs.cli.main import COMMANDS, cli


def overview() -> Iterator[str]:
    """The body of wormfs(1)."""
    yield roff.section("name")
    yield f"wormfs \\- {roff.escape(texts.SUMMARY)}"
    yield roff.section("synopsis")
    words = [f"[{roff.italic('OPTIONS')}]", roff.italic("COMMAND"), f"[{roff.italic('ARGUMENTS')}]"]
    yield " ".join([roff.bold("wormfs"), *words])
    yield roff.section("description")
    for text in texts.DESCRIPTION:
        yield from roff.paragraph(text)
    yield roff.section("commands")
    for name, entry in COMMANDS.items():
        yield from roff.item(f"{roff.bold(f'wormfs {name}')}", f"{entry.summary} See wormfs-{name}(1).")
    yield roff.section("options")
    yield from _options(cli, "wormfs")
    yield roff.section("exit status")
    for status, meaning in texts.EXIT_STATUS:
        yield from roff.item(roff.bold(status), meaning)
    for title, entries in (
        ("environment", texts.ENVIRONMENT),
        ("files", texts.FILES),
        ("signals", texts.SIGNALS),
    ):
        yield roff.section(title)
        for name, meaning in entries:
            yield from roff.item(roff.bold(name), meaning)
    yield roff.section("see also")
    yield from _references([f"wormfs-{name}(1)" for name in COMMANDS] + list(texts.SEE_ALSO))


def command_page(name: str) -> Iterator[str]:
    """The body of the page of one command, and of the commands below it."""
    command = _command(cli, name)
    pieces = list(from_help(command.help or ""))
    yield roff.section("name")
    yield f"wormfs\\-{roff.escape(name)} \\- {roff.escape(pieces[0].text.removesuffix('.'))}"
    yield roff.section("synopsis")
    for path, below in [(f"wormfs {name}", command), *_below(command, f"wormfs {name}")]:
        if not isinstance(below, click.Group):
            yield from _usage(below, path)
    yield roff.section("description")
    yield from _description(pieces)
    if not isinstance(command, click.Group):
        yield roff.section("options")
        yield from _options(command, f"wormfs {name}")
    else:
        yield roff.section("commands")
        for path, below in _below(command, f"wormfs {name}"):
            parts = list(from_help(below.help or ""))
            yield roff.subsection(path)
            yield from _description(parts)
            yield from _options(below, path)
            for piece in _titled(parts, "Example", "Examples"):
                yield from (".PP", "For example:", *piece.roff())
    yield roff.section("exit status")
    for piece in _titled(pieces, "Exit status"):
        yield from _statuses(piece)
    yield from roff.paragraph(texts.EXIT_STATUS_OF_ALL)
    if examples := _titled(pieces, "Example", "Examples"):
        yield roff.section("examples")
        for piece in examples:
            yield from piece.roff()
    yield roff.section("see also")
    yield from _references(["wormfs(1)", *texts.SEE_ALSO])


def helper_page(helper: click.Command) -> Iterator[str]:
    """The body of the page of what mount(8) calls."""
    name = "mount.fuse.wormfs"
    pieces = list(from_help(helper.help or ""))
    yield roff.section("name")
    yield f"{name} \\- mount the backends of wormfs; for mount(8) and fstab"
    yield roff.section("synopsis")
    yield from _usage(helper, name)
    yield roff.section("description")
    yield from _description(pieces)
    for text in texts.MOUNTING:
        yield from roff.paragraph(text)
    yield roff.section("options")
    yield from _options(helper, name)
    yield roff.section("exit status")
    yield from roff.paragraph(texts.EXIT_STATUS_OF_MOUNT)
    yield roff.section("examples")
    for piece in _titled(pieces, "Example, a line of /etc/fstab"):
        yield from piece.roff()
    yield roff.section("see also")
    yield from _references(["fstab(5)", "mount(8)", "wormfs(1)", "wormfs.yaml(5)"])


def _context(command: click.Command, path: str) -> click.Context:
    """As if it were called, with what it inherits from the group above it."""
    return click.Context(command, info_name=path, help_option_names=cli.context_settings["help_option_names"])


def _command(group: click.Group, name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None, name
    return found


def _below(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """The commands of a group, with how they are called, to every depth."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = _command(command, name)
            yield f"{path} {name}", below
            yield from _below(below, f"{path} {name}")


def _usage(command: click.Command, path: str) -> Iterator[str]:
    pieces = command.collect_usage_pieces(_context(command, path))
    yield from (".HP", " ".join([roff.bold(path), *map(roff.italic, pieces)]))


def _description(pieces: Sequence[Piece]) -> Iterator[str]:
    """Everything but what has a section of its own."""
    for piece in pieces:
        if piece.title.startswith(("Example", "Exit status")):
            continue
        if piece.title:
            yield from roff.paragraph(f"{piece.title}:")
        yield from piece.roff()


def _titled(pieces: Sequence[Piece], *titles: str) -> list[Piece]:
    return [piece for piece in pieces if piece.title in titles]


def _statuses(piece: Piece) -> Iterator[str]:
    """Lines such as ``0  unmounted``; a deeper line goes on with the one above."""
    found: list[tuple[str, str]] = []
    for line in piece.below():
        if line.startswith(" "):
            status, meaning = found.pop()
            found.append((status, f"{meaning} {line.strip()}"))
        else:
            status, _, meaning = line.partition(" ")
            found.append((status, meaning.strip()))
    for status, meaning in found:
        yield from roff.item(roff.bold(status), meaning)


def _options(command: click.Command, path: str) -> Iterator[str]:
    context = _context(command, path)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        # Arguments are told of in the text.
        if isinstance(parameter, click.Option) and record is not None:
            yield from roff.item(roff.bold(record[0]), record[1])


def _references(names: Sequence[str]) -> Iterator[str]:
    """A list of pages, in the usual order: by section, then by name."""
    ordered = sorted(names, key=lambda name: (name[-2], name))
    for name in ordered:
        end = "" if name == ordered[-1] else " ,"
        yield f".BR {roff.escape(name[:-3])} {name[-3:]}{end.strip()}"
