"""Proof, at start, that a server keeps the promise; and which names it keeps as they are."""

from __future__ import annotations

import enum
from typing import Final

from wormfs.backends.ftp.listing import Type
from wormfs.backends.ftp.names import Ability, Names, token
from wormfs.backends.ftp.replies import Reply
from wormfs.backends.ftp.server import Server
from wormfs.errors import AccessDenied, SettingsError, Unavailable
from wormfs.model import show

_PLACES = (b"s", b"c", b"e")
_ONCE: Final = b"once"
_FIRST: Final = b"This file belongs to wormfs, which proves with it that nothing can replace it.\n"


class Finding(enum.Enum):
    """What a server does that an archive cannot rest on; the values complete "the server …"."""

    MAKES_TWICE = "says yes when a directory is made a second time"
    MERGES = "lets a directory be renamed onto one that is not empty"
    REMOVES_FULL = "removes a directory that is not empty"
    NO_RENAME = "does not let directories be renamed"
    REPLACES = "does not let directories be renamed, and replaces files"
    DELETES = "does not let directories be renamed, but lets files be deleted"
    KEEPS_PARTS = "lets nobody delete, and keeps what had come of an upload that breaks"


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
    if not _may_rename(server, names.hidden(b"e")):
        return Finding.NO_RENAME
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


def _may_rename(server: Server, path: bytes) -> bool:
    """Asked before anything is made: it may be a server where nothing can be removed."""
    if server.session.command(b"RNFR " + path).refused:
        return False
    # proftpd answers nothing else until this has come. Nowhere: no server can do it.
    server.session.command(b"RNTO " + path + b"/none/none")
    return True


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


def find_weakness_of_once(server: Server, names: Names) -> Finding | None:
    """Try whether everything is final at a server that renames nothing. ``None``: all is well.

    What is made for it stays, and serves at the next start again.
    """
    corner = names.hidden(b"s", _ONCE)
    server.make_directory(corner)
    first = corner + b"/first"
    server.store_once(first, _FIRST, None)
    if server.store_once(first, token(), None).good or server.read_small(first) != _FIRST:
        return Finding.REPLACES
    stream = server.session.transfer(b"APPE " + first)
    if not isinstance(stream, Reply):
        stream.cut()
        return Finding.REPLACES
    if server.delete(first).good:
        return Finding.DELETES
    return _keeps_parts(server, corner)


def _keeps_parts(server: Server, corner: bytes) -> Finding | None:
    part = corner + b"/part-" + token()
    stream = server.session.transfer_whole(b"STOR " + part)
    if isinstance(stream, Reply):
        raise server.fail(stream, None, "store a file below .wormfs", storing=True)
    stream.send_bytes(_FIRST)
    stream.cut()
    if server.session.broken:
        raise Unavailable("the connection did not survive an upload that was broken off on purpose")
    return None if server.size(part) is None else Finding.KEEPS_PARTS


def find_abilities_once(server: Server, names: Names) -> frozenset[Ability]:
    """As ``find_abilities``, always in the same place."""
    corner = names.hidden(b"s", _ONCE + b"-names")
    for path in (corner, *(corner + b"/" + ability.value for ability in Ability)):
        server.make_directory(path)
    return _kept(server, corner, list(Ability))


def find_abilities(server: Server, names: Names) -> frozenset[Ability]:
    """Make a directory with a name of each kind, list them, and see which came back as they went."""
    corner = names.staging()
    reply = server.make_directory(corner)
    if not reply.good:
        raise server.fail(reply, None, "make a directory below .wormfs", storing=True)
    made = [ability for ability in Ability if server.make_directory(corner + b"/" + ability.value).good]
    kept = _kept(server, corner, made)
    for ability in made:
        server.remove_directory(corner + b"/" + ability.value)
    server.remove_tree(corner)
    return kept


def _kept(server: Server, corner: bytes, made: list[Ability]) -> frozenset[Ability]:
    listed = {seen.name for seen in server.list(corner, corner)}
    # Looked up by name, too: what is listed and cannot be found again helps nobody.
    return frozenset(
        ability
        for ability in made
        if ability.value in listed and server.look(corner + b"/" + ability.value) is not None
    )


def refusal(backend: str, finding: Finding) -> SettingsError:
    """Why a server cannot be used, and what to do."""
    if finding in BEARABLE:
        advice = (
            "two hosts could replace each other's files. If this daemon is the only one that writes there, "
            "now and later, write exclusive_writer: true"
        )
    elif finding is Finding.KEEPS_PARTS:
        advice = (
            "a file that was stored in part would keep its name for ever. Let the server remove such files "
            "itself (vsftpd: delete_failed_uploads=YES)"
        )
    elif finding in (Finding.NO_RENAME, Finding.REPLACES, Finding.DELETES):
        advice = (
            "wormfs cannot win a name there. Allow this user to rename and to delete (vsftpd: "
            "anon_other_write_enable=YES or virtual_use_local_privs=YES), or forbid it to replace, to rename "
            "and to delete"
        )
    else:
        advice = "wormfs needs an RMD that refuses full directories: use another server"
    return SettingsError(f"the server {finding.value}: {advice}", backend=backend)
