"""What lies below ``.wormfs`` and should not, and what is missing above it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeVar

from wormfs.backends.ftp.claims import DATA, DONE, META, Claim, Claims, decode_meta
from wormfs.backends.ftp.listing import Type
from wormfs.backends.ftp.names import CHECK_KEY, Names, claim_name
from wormfs.backends.ftp.server import Server
from wormfs.clock import NS_PER_S
from wormfs.errors import BackendFault, WormfsError
from wormfs.model import ROOT, Finding, FindingKind, Key, child

Result = TypeVar("Result")
_DISCARDED: Final = re.compile(rb"[0-9a-f]{32}")
"""The token of a file on its way; what an erase leaves has the name of its claim in front of it."""
_ABANDONED_NS: Final = 7 * 86400 * NS_PER_S


class Ask(Protocol):
    """``FtpBackend.ask``."""

    def __call__(self, key: Key | None, question: Callable[[Server], Result], /) -> Result: ...


def server_time_ns(server: Server, names: Names) -> int | None:
    """The server's clock, to the second: the time that it gives a file made now."""
    corner = names.staging()
    server.store_small(corner, b"", None)
    try:
        seen = server.look(corner)
        return (seen.mtime_ns or None) if seen is not None else None
    finally:
        if not server.session.broken:
            server.delete(corner)


def sweep(server: Server, names: Names) -> None:
    """Remove what hosts that crashed left on its way more than a week ago, by the server's clock.

    Each is moved out of reach first: should its host live after all, its claim fails, and it begins again.
    """
    now_ns = server_time_ns(server, names)
    if now_ns is None:
        return
    places = names.hidden(b"s")
    for seen in list(server.list(places, places)):
        path = places + b"/" + seen.name
        touched_ns = max(seen.mtime_ns, server.mtime_ns(path + b"/" + DATA) or 0)
        if touched_ns and now_ns - touched_ns > _ABANDONED_NS:
            away = names.hidden(b"e", seen.name)
            if server.rename(path, away).good:
                _remove(server, away)
    _sweep_discarded(server, names, now_ns)


def _sweep_discarded(server: Server, names: Names, now_ns: int) -> None:
    """What was given up on its way (never a claim) and could not be deleted to its end."""
    places = names.hidden(b"e")
    for seen in list(server.list(places, places)):
        if _DISCARDED.fullmatch(seen.name) and seen.mtime_ns and now_ns - seen.mtime_ns > _ABANDONED_NS:
            _remove(server, places + b"/" + seen.name)


def _remove(server: Server, path: bytes) -> None:
    seen = server.look(path)
    if seen is not None and seen.type is Type.DIRECTORY:
        server.remove_tree(path)
    else:
        server.delete(path)


def findings(ask: Ask, names: Names, claims: Claims) -> Iterator[Finding]:
    """See ``Backend.findings``: claims without a file, half-way claims, odd names. Streamed."""
    yield from _claims(ask, names, claims.write_once)
    places = names.hidden(b"e")
    for seen in ask(None, lambda server: server.list(places, places)):
        given_up = _DISCARDED.fullmatch(seen.name) is not None
        yield Finding(
            FindingKind.UNEXPECTED,
            b".wormfs/e/" + seen.name,
            "the rest of an upload that was given up: a start removes it when it is a week old"
            if given_up
            else "an erase was cut off here: erase the file again",
        )
    yield from _odd_names(ask, names)


def _claims(ask: Ask, names: Names, write_once: bool) -> Iterator[Finding]:
    places = names.hidden(b"c")
    for seen in ask(None, lambda server: server.list(places, places)):
        if seen.name == claim_name(CHECK_KEY):
            continue
        name = seen.name
        finding = ask(None, lambda server, name=name: _judge(server, names, name, write_once))  # type: ignore[misc]
        if finding is not None:
            yield finding


def _judge(server: Server, names: Names, name: bytes, write_once: bool) -> Finding | None:
    shown = b".wormfs/c/" + name
    place = names.hidden(b"c", name)
    text = server.read_small(place + b"/" + META)
    if text is None:
        if server.look(place) is None:
            return None  # gone meanwhile
        return Finding(FindingKind.UNEXPECTED, shown, "a claim without a meta file")
    if write_once and not text.endswith(b"\n"):
        return Finding(FindingKind.UNEXPECTED, shown, "a claim that is just being made, or was cut off")
    try:
        claim = decode_meta(text)
        names.checked(claim.key)
    except (BackendFault, WormfsError) as error:
        return Finding(FindingKind.ALTERED, shown, str(error))
    if claim_name(claim.key) != name:
        return Finding(FindingKind.ALTERED, shown, f"its meta names another path, {claim.key!r}")
    return _judge_file(server, names, place, claim)


def _judge_file(server: Server, names: Names, place: bytes, claim: Claim) -> Finding | None:
    size = server.size(names.path(claim.key))
    if claim.needs_done and not server.are_directories([place + b"/" + DONE])[0]:
        detail = "a host claimed the name and did not finish, or is at it now; it goes on when it is back"
        return Finding(FindingKind.UNEXPECTED, claim.key, detail)
    if size == claim.record.size_bytes:
        return None
    if server.size(place + b"/" + DATA) is not None:
        detail = (
            "a host crashed before it gave the file its name; the next attempt to create it finishes that"
        )
        if size is not None:
            detail = "a file that wormfs did not write has the name of one that waits in .wormfs/c"
        return Finding(FindingKind.UNEXPECTED, claim.key, detail)
    if size is None:
        if server.look(place) is None:
            return None  # erased meanwhile
        return Finding(FindingKind.MISSING, claim.key, "the record is there, the file is not")
    return Finding(
        FindingKind.ALTERED, claim.key, f"it has {size} bytes, {claim.record.size_bytes} were committed"
    )


def _odd_names(ask: Ask, names: Names) -> Iterator[Finding]:
    """Links, devices, and names that no path of the mount can show."""
    waiting = [ROOT]
    while waiting:
        directory = waiting.pop()
        path = names.path(directory)
        for seen in ask(directory, lambda server, path=path, key=directory: server.list(path, key)):  # type: ignore[misc]
            name = names.inward(seen.name)
            if name is None or b"/" in name:
                yield Finding(
                    FindingKind.UNEXPECTED, child(directory, seen.name), "a name that no path can show"
                )
            elif name.startswith(b".wormfs"):
                continue
            elif seen.type is Type.DIRECTORY:
                waiting.append(child(directory, name))
            elif seen.type is Type.OTHER:
                yield Finding(
                    FindingKind.UNEXPECTED, child(directory, name), "neither a file nor a directory"
                )
