"""A server on which everything is final: it stores only what is not there yet; nobody renames or deletes.

vsftpd is one for its guests (``anon_other_write_enable=NO``). Nothing can be moved to its name there, so the
bytes are stored under it, and a name is won and made known by two small files beside it:

1. ``.wormfs/c/<sha256 of the key>/meta``: who stores it first has the name. It says what the bytes will be.
2. the file itself, under its name.
3. ``done`` beside ``meta``, an empty directory: the file is whole and was compared. Without it the mount
   shows no such file.

A host that crashes between two of these steps finishes when it is back; once the bytes are whole, any host
does. Of an upload that breaks the server itself must remove what had come (``delete_failed_uploads=YES``):
nobody else could, so ``probe`` refuses servers that do not. Few bytes, as a claim's, are on their way before
the server is asked. Connections with more end with a reset until all are sent, so that a host that is killed
in the middle is never taken for one that has come to its end; vsftpd ends without removing anything when that
host dies between its question and the first reply (a millisecond): then a person must, and is told so.
"""

from __future__ import annotations

import os
import threading
from typing import BinaryIO

from wormfs.backends import record_codec
from wormfs.backends.ftp.claims import CHANGE, META, RECORD, Claim, Claims, encode_meta
from wormfs.backends.ftp.replies import Reply, failure
from wormfs.backends.ftp.server import Server
from wormfs.backends.ftp.session import EARLY_BYTES
from wormfs.backends.ftp.upload import Target
from wormfs.errors import AlreadyExists, BackendFault, NotFound, Unavailable
from wormfs.model import Key, ObjectInfo, Record

_NO_MEND = "which wormfs cannot remove there: remove that file at the server itself, and ours is stored"


class OnceTransfer:
    """A ``Transfer``. Nothing is sent before the publish: what has begun under a name cannot be undone."""

    def __init__(self, target: Target, key: Key) -> None:
        self._target = target
        self._key = key
        self._lock = threading.Lock()

    def advance(self, spooled: BinaryIO, ready_bytes: int) -> None:
        """Nothing is sent early."""

    def prepare(self, spooled: BinaryIO, record: Record) -> None:
        """Nothing travels on the spool file."""

    def publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        with self._lock, self._target.pool.session() as session:
            server = self._target.server(session)
            claim = self._target.claims.read(server, self._key)
            if claim is None:
                if spooled is None:
                    raise NotFound("no earlier attempt arrived", backend=self._target.name, key=self._key)
                claim = self._claim(server, record)
            if claim.record.entry_id != record.entry_id:
                self._target.claims.settle(server, claim)
            if self._target.claims.done(server, self._key):
                return self._target.committed(self._key, claim.record)
            self._store(server, spooled, record)
            finish(server, self._target.claims, claim)
            return self._target.committed(self._key, record)

    def _claim(self, server: Server, record: Record) -> Claim:
        """Win the name, or find out who has."""
        place = self._target.names.claim(self._key)
        if server.look(self._target.names.path(self._key)) is not None:
            raise AlreadyExists("the name is taken", backend=self._target.name, key=self._key)
        made = server.make_directory(place)
        meta = encode_meta(self._key, record, needs_done=True)
        reply = server.store_once(place + b"/" + META, meta, self._key)
        if reply.good:
            return Claim(self._key, record, needs_done=True)
        claim = self._target.claims.read(server, self._key)
        if claim is None:
            refused = reply if made.good else made
            raise server.fail(refused, self._key, "claim the name", storing=True)
        return claim

    def _store(self, server: Server, spooled: BinaryIO | None, record: Record) -> None:
        path = self._target.names.path(self._key)
        found = server.size(path)
        fresh = found is None
        if found is None:
            if spooled is None:
                raise NotFound("no earlier attempt arrived", backend=self._target.name, key=self._key)
            self._send(server, spooled, path, record)
            found = server.size_and_set_mtime(path, record.attributes.mtime_ns)
        if found != record.size_bytes:
            message = f"the server holds {found} bytes under its name, not {record.size_bytes}, {_NO_MEND}"
            raise BackendFault(message, backend=self._target.name, key=self._key)
        if self._target.verify or not fresh:
            digest, how = server.sha256(path, record.size_bytes, self._key)
            if digest != record.sha256:
                message = f"the server holds other bytes under its name ({how.value}), {_NO_MEND}"
                raise BackendFault(message, backend=self._target.name, key=self._key)

    def _send(self, server: Server, spooled: BinaryIO, path: bytes, record: Record) -> None:
        line, fd, size = b"STOR " + path, spooled.fileno(), record.size_bytes
        if size <= EARLY_BYTES:
            content = os.pread(fd, size, 0)
            if len(content) != size:
                raise Unavailable("the spool file is shorter than it was", backend=self._target.name)
            reply = server.session.store_few(line, content)
        else:
            stream = server.session.transfer_whole(line)
            reply = stream if isinstance(stream, Reply) else stream.send(fd, 0, size) or stream.finish()
        if not reply.good:
            self._target.claims.must_have_parent(server, self._key)
            raise failure(reply, self._target.name, self._key, "store it", storing=True)

    def abort(self) -> None:
        """What has been begun is finished by a later publish; nothing can be taken back."""


def finish(server: Server, claims: Claims, claim: Claim) -> None:
    """Say that the file is whole. By any host, after it has compared it."""
    # A directory: it is there or it is not, whatever becomes of the connection.
    reply = server.make_directory(claims.done_of(claim.key))
    if not reply.good and not claims.done(server, claim.key):
        raise server.fail(reply, claim.key, "store that it is complete", storing=True)


def finish_for_another(server: Server, claims: Claims, claim: Claim, path: bytes) -> bool:
    """Finish what a host has left that stored all bytes and not ``done``; false when some are missing."""
    if server.size(path) != claim.record.size_bytes:
        return False
    if server.sha256(path, claim.record.size_bytes, claim.key)[0] != claim.record.sha256:
        return False
    finish(server, claims, claim)
    return True


def append(server: Server, claims: Claims, claim: Claim, number: int, record: Record) -> bool:
    """Add a change of retention; false when that number is taken."""
    place = claims.place_of(claim.key) + b"/" + CHANGE % number
    server.make_directory(place)
    text = record_codec.encode(record) + b"\n"
    reply = server.store_once(place + b"/" + RECORD, text, claim.key)
    if reply.good:
        return True
    if server.size(place + b"/" + RECORD) is None:
        raise server.fail(reply, claim.key, "store a change of its retention", storing=True)
    return False


def uncommitted(server: Server, claims: Claims, keys: list[Key]) -> set[Key]:
    """Which of these files have a claim and no ``done``: they are not there yet, or never will be."""
    are_done = server.are_directories(map(claims.done_of, keys))
    without = [key for key, is_done in zip(keys, are_done, strict=True) if not is_done]
    claimed = server.sizes(map(claims.meta_of, without))
    return {
        key
        for key, size in zip(without, claimed, strict=True)
        if size is not None and _needs(server, claims, key)
    }


def _needs(server: Server, claims: Claims, key: Key) -> bool:
    claim = claims.read(server, key)
    return claim is not None and claim.needs_done
