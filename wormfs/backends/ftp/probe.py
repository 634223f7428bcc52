"""Proof, at start, that a server keeps the promise; and which names it keeps as they are."""

from __future__ import annotations

import enum
from typing import Final

from wormfs.backends.ftp.listing import Type
from wormfs.backends.ftp.names import Ability, Names
from wormfs.backends.ftp.server import Server
from wormfs.errors import AccessDenied, SettingsError
from wormfs.model import show

_PLACES = (b"s", b"c", b"e")


class Finding(enum.Enum):
    """What a server does that an archive cannot rest on; the values complete "the server …"."""

    MAKES_TWICE = "says yes when a directory is made a second time"
    MERGES = "lets a directory be renamed onto one that is not empty"
    REMOVES_FULL = "removes a directory that is not empty"
    NO_RENAME = "does not let directories be renamed"


BEARABLE: Final = frozenset({Finding.MAKES_TWICE, Finding.MERGES})
"""What a single writer can live with."""


def make_places(server: Server, names: Names, backend: str) -> None:
    """``.wormfs`` and what belongs in it. The configured path itself is never made."""
    root = names.path(b"")
    seen = server.look(root)
    if seen is None or seen.type is not Type.DIRECTORY:
        raise SettingsError(
            f"the server shows no directory {show(root)} to this user: make it, or correct `directory`",
            backend=backend,
        )
    for place in (names.hidden(), *(names.hidden(part) for part in _PLACES)):
        if server.look(place) is None:
            reply = server.make_directory(place)
            if not reply.good and server.look(place) is None:
                raise AccessDenied(
                    f"the directory {show(place)} cannot be made: {reply.shown}",
                    backend=backend,
                )


def find_weakness(server: Server, names: Names) -> Finding | None:
    """Try in a corner of ``.wormfs/s`` what claims rest on. ``None``: all is well. Leaves nothing behind."""
    corner = _renamed(server, names)
    if corner is None:
        return Finding.NO_RENAME
    first, second = corner + b"/a", corner + b"/b"
    for directory in (first, second):
        reply = server.make_directory(directory)
        if not reply.good:
            raise server.fail(reply, None, "make a directory below .wormfs", storing=True)
    try:
        server.store_small(first + b"/x", b"first", None)
        server.store_small(second + b"/y", b"second", None)
        if server.make_directory(first).good:
            return Finding.MAKES_TWICE
        if server.rename(first, second).good or server.size(second + b"/y") is None:
            return Finding.MERGES
        if server.remove_directory(second).good or server.size(second + b"/y") is None:
            return Finding.REMOVES_FULL
        if not server.rename(first, corner + b"/c").good or server.size(corner + b"/c/x") is None:
            return Finding.NO_RENAME
        return None
    finally:
        if not server.session.broken:
            server.remove_tree(corner)


def _renamed(server: Server, names: Names) -> bytes | None:
    """A new directory, made under one name and renamed to another; ``None`` where that is refused.

    First of all, and empty: a server that allows no renaming may allow no removing either.
    """
    before, corner = names.staging(), names.staging()
    reply = server.make_directory(before)
    if not reply.good:
        raise server.fail(reply, None, "make a directory below .wormfs", storing=True)
    if server.rename(before, corner).good and server.look(corner) is not None:
        return corner
    server.remove_directory(before)
    return None


def find_abilities(server: Server, names: Names) -> frozenset[Ability]:
    """Make a directory with a name of each kind, list them, and see which came back as they went."""
    corner = names.staging()
    reply = server.make_directory(corner)
    if not reply.good:
        raise server.fail(reply, None, "make a directory below .wormfs", storing=True)
    made = [ability for ability in Ability if server.make_directory(corner + b"/" + ability.value).good]
    listed = {seen.name for seen in server.list(corner, corner)}
    # Looked up by name, too: what is listed and cannot be found again helps nobody.
    kept = [
        ability
        for ability in made
        if ability.value in listed and server.look(corner + b"/" + ability.value) is not None
    ]
    for ability in made:
        server.remove_directory(corner + b"/" + ability.value)
    server.remove_tree(corner)
    return frozenset(kept)


def refusal(backend: str, finding: Finding) -> SettingsError:
    """Why a server cannot be used, and what to do."""
    if finding in BEARABLE:
        advice = (
            "two hosts could replace each other's files. If this daemon is the only one that writes there, "
            "now and later, write exclusive_writer: true"
        )
    elif finding is Finding.NO_RENAME:
        advice = (
            "wormfs cannot win a name there. Allow this user to rename and to delete (vsftpd: "
            "anon_other_write_enable=YES or virtual_use_local_privs=YES), or use another server; one that "
            "makes files final by forbidding both is not supported"
        )
    else:
        advice = "wormfs needs an RMD that refuses full directories: use another server"
    return SettingsError(f"the server {finding.value}: {advice}", backend=backend)
