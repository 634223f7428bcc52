"""Claims: how a name is won, published and given up, without locks and without time limits.

What all servers but rclone refuse atomically is to rename a directory onto one that is not empty; none
renames a *file* without overwriting. So a name is won by renaming a directory with the file and its record to
``.wormfs/c/<sha256 of the key>``, where ``meta`` keeps it non-empty for ever. Only then the file is moved
out to its final name, which anybody may do who finds the claim half finished: there is one claim, so there
is one content.

Erasing never deletes by a name that could by then be another file's. The file is moved into its claim, the
claim is moved to a private place, and only there, after a look at whose it is, bytes are deleted. A host that
was asleep in the middle of this and moves somebody else's new file finds that out and puts it back.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import re
from dataclasses import dataclass
from typing import Final

from wormfs import clock
from wormfs.backends import record_codec
from wormfs.backends.ftp.names import Names, claim_name
from wormfs.backends.ftp.replies import Reply
from wormfs.backends.ftp.server import Server
from wormfs.errors import AlreadyExists, BackendFault, NotFound, Unavailable
from wormfs.model import ROOT, Key, Record, parent_of, show

META: Final = b"meta"
DATA: Final = b"data"
_GONE: Final = b"gone"
DONE: Final = b"done"
"""Where nothing can be renamed (``once``): beside ``meta``, when the file is whole."""
CHANGE: Final = b"r%06d"
_CHANGE_NAME: Final = re.compile(rb"r(\d{6})")
RECORD: Final = b"record"
_VERSION: Final = 1
_LOOKS: Final = 20
_LOOK_PAUSE_S: Final = 0.05


class Outcome(enum.Enum):
    """How an attempt to finish a publish ended."""

    PUBLISHED = "the file has its name"
    IN_THE_WAY = "something that wormfs did not write has the name"
    LOST = "neither the claim nor the name holds the bytes"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who has a name. ``record``: as committed, without later changes."""

    key: Key
    record: Record
    needs_done: bool = False
    """Its file is there only if ``done`` says so: it was stored where nothing can be renamed."""


@dataclass(frozen=True, slots=True)
class Won:
    """A name was won just now. ``size_bytes``: of the file that has it all the same, if there is one."""

    size_bytes: int | None


def encode_meta(key: Key, record: Record, *, needs_done: bool = False) -> bytes:
    """Two lines of JSON: whose claim it is, and the record."""
    try:
        path: object = key.decode()
    except UnicodeDecodeError:
        path = {"base64": base64.b64encode(key).decode()}
    told = {"v": _VERSION, "path": path} | ({"needs": DONE.decode()} if needs_done else {})
    head = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return head.encode() + b"\n" + record_codec.encode(record) + b"\n"


def decode_meta(text: bytes) -> Claim:
    """Raises BackendFault for what ``encode_meta`` did not make."""
    head, _, rest = text.partition(b"\n")
    try:
        document = json.loads(head)
        if document["v"] != _VERSION:
            raise BackendFault(f"a claim of version {document['v']!r}: a newer wormfs wrote it")
        path = document["path"]
        key = path.encode() if isinstance(path, str) else base64.b64decode(path["base64"], validate=True)
        needs_done = document.get("needs") == DONE.decode()
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise BackendFault("a claim's meta cannot be understood: it was damaged") from error
    return Claim(Key(key), record_codec.decode(rest.strip()), needs_done)


class Claims:
    """The claims of one backend. Holds nothing; safe from any thread, each with its own ``Server``."""

    def __init__(self, backend: str, names: Names) -> None:
        self._backend = backend
        self._names = names
        self.write_once = False
        """Claims are stored in their place, so one may be seen half stored: ``read`` waits a second."""

    # Looking

    def meta_of(self, key: Key) -> bytes:
        """The path of the file that makes a claim."""
        return self._names.claim(key) + b"/" + META

    def read(self, server: Server, key: Key) -> Claim | None:
        """The claim of a key. Raises BackendFault for one that cannot be understood."""
        text = self._whole(server, key)
        if text is None:
            return None
        if self.write_once and not text.endswith(b"\n"):
            raise Unavailable(
                "a host claims the name at this moment; if this stays, that host or the server died then, "
                f"and the server's administrator can remove {show(self._names.claim(key))}",
                backend=self._backend,
                key=key,
            )
        try:
            claim = decode_meta(text)
        except BackendFault as error:
            error.backend, error.key = self._backend, key
            raise
        if claim.key != key:
            raise BackendFault("its claim names another path: it was damaged", backend=self._backend, key=key)
        return claim

    def _whole(self, server: Server, key: Key) -> bytes | None:
        """What a claim says; one that is just being stored is given a moment."""
        for _ in range(_LOOKS):
            text = server.read_small(self.meta_of(key))
            if text is None or not self.write_once or text.endswith(b"\n"):
                return text
            clock.pause(_LOOK_PAUSE_S)
        return text

    def place_of(self, key: Key) -> bytes:
        """The path of a claim."""
        return self._names.claim(key)

    def done_of(self, key: Key) -> bytes:
        """The path of the word that a file is whole."""
        return self._names.claim(key) + b"/" + DONE

    def done(self, server: Server, key: Key) -> bool:
        """Whether a file is whole whose claim needs that word."""
        return server.are_directories([self.done_of(key)])[0]

    def pending(self, server: Server, key: Key) -> bool:
        """Whether a claim still holds its bytes: what has the name, if anything, is not its file."""
        return server.size(self._names.claim(key) + b"/" + DATA) is not None

    def current(self, server: Server, claim: Claim) -> tuple[int, Record]:
        """The number of the last change (0: none), and the record with it."""
        place = self._names.claim(claim.key)
        if server.size(place + b"/" + CHANGE % 1 + b"/" + RECORD) is None:
            return 0, claim.record
        numbers = [
            int(found[1]) for found in map(_CHANGE_NAME.fullmatch, self._names_in(server, place)) if found
        ]
        if claim.needs_done:
            # The directory is made first there, and its host may have died before it was a change.
            sizes = server.sizes(place + b"/" + CHANGE % number + b"/" + RECORD for number in numbers)
            numbers = [number for number, size in zip(numbers, sizes, strict=True) if size is not None]
        for number in sorted(numbers, reverse=True):
            text = server.read_small(place + b"/" + CHANGE % number + b"/" + RECORD)
            if text is None or (claim.needs_done and not text.endswith(b"\n")):
                # Never taken for "no change": a hold might be in it.
                raise Unavailable(
                    "a change of its retention cannot be read now", backend=self._backend, key=claim.key
                )
            record = record_codec.decode(text.strip())
            if record.entry_id == claim.record.entry_id:
                return max(numbers), record
        return max(numbers, default=0), claim.record

    def _names_in(self, server: Server, place: bytes) -> list[bytes]:
        return [seen.name for seen in server.list(place, place)]

    # Winning

    def claim(self, server: Server, staging: bytes, key: Key) -> bool:
        """The one moment at which a name is won: false when somebody else has it."""
        return self.claim_and_look(server, staging, key) is not None

    def claim_and_look(self, server: Server, staging: bytes, key: Key) -> Won | None:
        """The same in the exchange that looks what has the name; ``None`` when somebody else has won it."""
        target = self._names.claim(key)
        reply, found = server.rename_and_size(staging, target, self._names.path(key))
        if reply.good:
            return Won(found)
        if server.size(target + b"/" + META) is not None:
            return None
        if server.look(target) is not None:
            raise BackendFault(
                f"its claim {show(target)} has no meta: look what is in it, and move it away",
                backend=self._backend,
                key=key,
            )
        raise server.fail(reply, key, "claim the name")

    def finish(self, server: Server, claim: Claim, won: Won | None = None) -> Outcome:
        """Give the claimed bytes their name, if they have not got it yet. Any host may do this.

        ``won``: what ``claim_and_look`` has just said. Raises NotFound when the directory is gone; and the
        errors of the server.
        """
        key, size = claim.key, claim.record.size_bytes
        path = self._names.path(key)
        data = self._names.claim(key) + b"/" + DATA
        found = server.size(path) if won is None else won.size_bytes
        if found is None:
            # A directory has no size; the server refuses to put a file in its place.
            reply, found = server.move_file(data, path)
            if not reply.good:
                outcome = self._not_moved(server, key, reply)
                if outcome is not Outcome.PUBLISHED:
                    return outcome
                found = server.size(path)
        elif server.size(data) is not None:
            return Outcome.IN_THE_WAY
        if found != size:
            raise BackendFault(
                f"the server shows {found} bytes under its name, not {size}", backend=self._backend, key=key
            )
        return Outcome.PUBLISHED

    def _not_moved(self, server: Server, key: Key, refusal: Reply) -> Outcome:
        """Where the bytes of a claim are that could not be moved. Another host may be moving them just now.

        Bytes only ever go from the claim to the name. So what has the name while the claim holds them is not
        they if it was seen *before*; and they are lost only if the name was still free *after* the claim was
        seen without them.
        """
        path, data = self._names.path(key), self._names.claim(key) + b"/" + DATA
        before = server.look(path)
        if server.size(data) is None:
            return Outcome.LOST if before is None and server.look(path) is None else Outcome.PUBLISHED
        if before is not None:
            return Outcome.IN_THE_WAY
        self.must_have_parent(server, key)
        raise server.fail(refusal, key, "give the file its name")

    def must_have_parent(self, server: Server, key: Key) -> None:
        """Raises NotFound when the directory of a file is gone."""
        parent = parent_of(key)
        if parent != ROOT and server.look(self._names.path(parent)) is None:
            raise NotFound("its directory does not exist", backend=self._backend, key=key)

    def must_be_free(self, server: Server, key: Key) -> None:
        """Finish what somebody else has begun under this name. Raises AlreadyExists when it has a claim."""
        claim = self.read(server, key)
        if claim is not None:
            self.settle(server, claim)

    def settle(self, server: Server, claim: Claim) -> None:
        """A claim that is not ours: bring it to its end. Raises AlreadyExists unless it was being erased."""
        key = claim.key
        if claim.needs_done:
            raise AlreadyExists("the name is taken", backend=self._backend, key=key)
        try:
            outcome = self.finish(server, claim)
        except NotFound:
            outcome = Outcome.PUBLISHED  # its directory was removed: its own host makes it again
        if outcome is Outcome.LOST:
            if self._marked(server, claim):
                self._remove(server, claim)
                return
            message = "the name belongs to a record whose file is gone: verification reports it"
            raise AlreadyExists(message, backend=self._backend, key=key)
        raise AlreadyExists("the name is taken", backend=self._backend, key=key)

    # Giving up

    def withdraw(self, server: Server, claim: Claim) -> None:
        """Give a claim of ours up whose name something else has."""
        self._take_away(server, claim)

    def discard(self, server: Server, staging: bytes) -> None:
        """Remove a file on its way. First out of reach: a claim that is under way must not lose its bytes."""
        away = self._names.hidden(b"e", staging.rpartition(b"/")[2])
        if server.rename(staging, away).good:
            server.remove_tree(away)

    def erase(self, server: Server, claim: Claim) -> None:
        """Remove the file and its claim. Can be called again after it was cut off."""
        mark = self._mark(claim)
        reply = server.make_directory(mark)
        if not reply.good and server.look(mark) is None:
            if self.read(server, claim.key) is None:
                return  # another host was faster
            raise server.fail(reply, claim.key, "erase it")
        self._remove(server, claim)

    def _remove(self, server: Server, claim: Claim) -> None:
        """The second half: what carries the mark goes."""
        path, place = self._names.path(claim.key), self._names.claim(claim.key)
        if server.look(path) is not None:
            reply = server.rename(path, place + b"/" + _GONE)
            if not reply.good and server.look(path) is not None:
                raise server.fail(reply, claim.key, "erase it")
            now = self.read(server, claim.key)
            if now is not None and now.record.entry_id != claim.record.entry_id:
                # We were late: the erased file's name has a new owner, whose file we have just moved.
                server.rename(place + b"/" + _GONE, path)
                return
        self._take_away(server, claim)

    def _take_away(self, server: Server, claim: Claim) -> None:
        """Move a claim to a private place, see that it is the one that was meant, delete it there."""
        place, away = self._names.claim(claim.key), self._names.leaving(claim.key)
        reply = server.rename(place, away)
        if not reply.good:
            if server.look(place) is None:
                return
            raise server.fail(reply, claim.key, "remove its claim")
        text = server.read_small(away + b"/" + META)
        if text is not None and decode_meta(text).record.entry_id == claim.record.entry_id:
            server.remove_tree(away)
            return
        self._put_back(server, away, place, claim.key)
        if text is None:
            # Many servers call whatever goes wrong "no such file". Nothing of unknown owner is deleted.
            raise Unavailable("its claim cannot be read now", backend=self._backend, key=claim.key)

    def _put_back(self, server: Server, away: bytes, place: bytes, key: Key) -> None:
        """Somebody else's claim. Whoever took the name meanwhile finds the file and withdraws."""
        for _ in range(_LOOKS):
            reply = server.rename(away, place)
            if reply.good:
                return
            clock.pause(_LOOK_PAUSE_S)
        raise BackendFault(
            f"a claim of another file could not be put back: move {show(away)} to {show(place)}",
            backend=self._backend,
            key=key,
        )

    def finish_leaving(self, server: Server, key: Key) -> bool:
        """Delete what an erase of this key that was cut off has left; whether there was any."""
        found = False
        prefix = claim_name(key) + b"-"
        places = self._names.hidden(b"e")
        for name in self._names_in(server, places):
            if name.startswith(prefix):
                server.remove_tree(places + b"/" + name)
                found = True
        return found

    def _mark(self, claim: Claim) -> bytes:
        """A directory in the claim that says: this very file is being erased."""
        return self._names.claim(claim.key) + b"/x-" + claim.record.entry_id.encode()

    def _marked(self, server: Server, claim: Claim) -> bool:
        return server.look(self._mark(claim)) is not None

    # Changes

    def append(self, server: Server, claim: Claim, number: int, record: Record) -> bool:
        """Add a change of retention; false when that number is taken.

        Raises NotFound when the file is being erased.
        """
        staging = self._names.staging()
        target = self._names.claim(claim.key) + b"/" + CHANGE % number
        made = server.make_directory(staging)
        if not made.good:
            raise server.fail(made, claim.key, "store a change of its retention", storing=True)
        server.store_small(staging + b"/" + RECORD, record_codec.encode(record) + b"\n", claim.key)
        # Where renaming merges directories, only this look keeps a number for one.
        taken = server.size(target + b"/" + RECORD) is not None
        reply = None if taken else server.rename(staging, target)
        if reply is None or not reply.good:
            self.discard(server, staging)
            if reply is None or server.size(target + b"/" + RECORD) is not None:
                return False
            raise server.fail(reply, claim.key, "store a change of its retention")
        if self._marked(server, claim):
            raise NotFound("it is being erased", backend=self._backend, key=claim.key)
        return True
