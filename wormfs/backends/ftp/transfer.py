"""One file on its way to the server.

Bytes flow to ``.wormfs/s/<token>/data`` while the program writes, if a connection can be spared; else when it
closes the file. What is there is counted and, unless that is switched off, compared by SHA-256 before the
name is claimed.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from wormfs.backends.ftp.claims import DATA, META, Claim, Claims, Outcome, encode_meta
from wormfs.backends.ftp.names import Names
from wormfs.backends.ftp.pool import Pool
from wormfs.backends.ftp.replies import Reply, failure
from wormfs.backends.ftp.server import Server
from wormfs.backends.ftp.session import DataStream, Session
from wormfs.errors import (
    AlreadyExists,
    BackendFault,
    DigestMismatch,
    NotFound,
    OutOfSpace,
    Unavailable,
    WormfsError,
)
from wormfs.model import Key, ObjectInfo, Record, show

log = logging.getLogger(__name__)

STREAM_FROM_BYTES = 4 << 20
"""What is smaller is sent at the close: a connection for each small file would help nobody."""
RESUME_FROM_BYTES = 64 << 20
"""An upload that broke later than this goes on where it was; a smaller one begins again."""
_ATTEMPTS = 3
_LOCAL_ERROR = 451
_DEBRIS = 1000


class Interrupted(OutOfSpace):
    """451: a full disk at vsftpd, and a broken connection at pure-ftpd. Another try tells them apart."""


class Ahead(enum.Enum):
    """Whether bytes flow before the close."""

    POSSIBLE = "not begun"
    STREAMING = "a place among those that stream is taken"
    OVER = "it has failed once, or the file is closed: publish sends what is missing"


class Debris:
    """Staged files that could not be removed when their connection broke; removed when the server is back.

    In memory only: what a host that crashes leaves is swept after a week. Safe from any thread.
    """

    def __init__(self) -> None:
        self._places: deque[bytes] = deque(maxlen=_DEBRIS)

    def leave(self, staging: bytes) -> None:
        """It could not be removed now."""
        self._places.append(staging)

    def clear(self, server: Server, claims: Claims) -> None:
        """Remove what lies here. Raises Unavailable; what is left then stays noted."""
        while self._places:
            try:
                staging = self._places.popleft()
            except IndexError:
                return  # another thread was faster
            try:
                claims.discard(server, staging)
            except WormfsError:
                self._places.append(staging)
                raise


@dataclass(frozen=True, slots=True)
class Target:
    """What a transfer needs of its backend."""

    name: str
    pool: Pool
    names: Names
    claims: Claims
    server: Callable[[Session], Server]
    claim: Callable[[Server, bytes, Key], bool]
    committed: Callable[[Key, Record], ObjectInfo]
    debris: Debris
    verify: bool


class FtpTransfer:
    """A ``Transfer``. Calls come from one thread at a time, except ``abort``, which waits."""

    def __init__(self, target: Target, key: Key, *, resumed: bool) -> None:
        """``resumed``: an earlier publish may have arrived."""
        self._target = target
        self._key = key
        self._look_first = resumed
        self._lock = threading.Lock()
        self._staging: bytes | None = None
        self._session: Session | None = None
        self._stream: DataStream | None = None
        self._sent_bytes = 0
        self._ahead = Ahead.POSSIBLE

    # Ahead of the close

    def advance(self, spooled: BinaryIO, ready_bytes: int) -> None:
        with self._lock:
            # One that may have arrived is looked for first, and nothing is sent beside that.
            if (
                self._look_first
                or self._ahead is Ahead.OVER
                or ready_bytes - self._sent_bytes < STREAM_FROM_BYTES
            ):
                return
            try:
                if self._stream is None and not self._open_ahead():
                    return
                self._send(spooled, ready_bytes)
            except WormfsError as error:
                log.info("%s: sending %s ahead: %s", self._target.name, show(self._key), error)
                self._release()

    def _open_ahead(self) -> bool:
        pool = self._target.pool
        if self._ahead is Ahead.POSSIBLE:
            if not pool.may_stream():
                return False
            self._ahead = Ahead.STREAMING
        self._open_upload(self._target.server(self._own_session()))
        return True

    def _own_session(self) -> Session:
        """The session that this transfer keeps until ``_release``."""
        if self._session is None:
            self._session = self._target.pool.take()
        return self._session

    def _release(self) -> None:
        """The connection goes back; what the server holds stays."""
        ahead, self._ahead = self._ahead, Ahead.OVER
        if ahead is Ahead.STREAMING:
            self._target.pool.end_stream()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cut()
        session, self._session = self._session, None
        if session is not None:
            self._target.pool.give(session)

    # Uploading

    def _stage(self, server: Server) -> bytes:
        if self._staging is None:
            staging = self._target.names.staging()
            reply = server.make_directory(staging)
            if not reply.good:
                raise server.fail(reply, self._key, "store it", storing=True)
            self._staging = staging
        return self._staging

    def _open_upload(self, server: Server, offset: int = 0) -> None:
        data = self._stage(server) + b"/" + DATA
        stream = server.session.transfer(b"STOR " + data, offset)
        if isinstance(stream, Reply):
            raise server.fail(stream, self._key, "store it", storing=True)
        self._stream, self._sent_bytes = stream, offset

    def _send(self, spooled: BinaryIO, until: int) -> None:
        assert self._stream is not None
        early = self._stream.send(spooled.fileno(), self._sent_bytes, until - self._sent_bytes)
        if early is not None:
            self._stream = None
            raise self._failed(early)
        self._sent_bytes = until

    def _failed(self, reply: Reply) -> WormfsError:
        error = failure(reply, self._target.name, self._key, "store it", storing=True)
        if reply.code == _LOCAL_ERROR:
            return Interrupted(*error.args, backend=self._target.name, key=self._key)
        return error

    def _upload(self, server: Server, spooled: BinaryIO, record: Record) -> None:
        """All bytes at the server, by its own verdict."""
        if self._stream is None:
            self._open_upload(server)
        self._send(spooled, record.size_bytes)
        assert self._stream is not None
        stream, self._stream = self._stream, None
        reply = stream.finish()
        if not reply.good:
            raise self._failed(reply)

    def _upload_with_patience(self, spooled: BinaryIO, record: Record) -> None:
        """A connection that is lost on the way costs what has not arrived, or all of a small file."""
        for attempt in range(_ATTEMPTS):
            session = self._own_session()
            server = self._target.server(session)
            try:
                if attempt:
                    self._resume_or_begin_again(server, record.size_bytes)
                self._upload(server, spooled, record)
                self._verify(server, record)
            except (Unavailable, Interrupted):
                self._stream = None
                self._release()
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def _resume_or_begin_again(self, server: Server, size_bytes: int) -> None:
        """Only what will be compared by SHA-256 is resumed. With REST and STOR, never APPE: should the server
        still write what the dead connection had brought, it writes the same bytes to the same places."""
        there = None
        if self._staging is not None and self._target.verify:
            there = server.size(self._staging + b"/" + DATA)
        if there is not None and RESUME_FROM_BYTES <= there <= size_bytes:
            self._open_upload(server, there)
            return
        self._discard(server)

    def _verify(self, server: Server, record: Record) -> None:
        """Raises Unavailable for a wrong count after a broken connection, DigestMismatch for wrong bytes."""
        assert self._staging is not None
        data = self._staging + b"/" + DATA
        found = server.size_and_set_mtime(data, record.attributes.mtime_ns)
        if found != record.size_bytes:
            message = f"the server kept {found} of {record.size_bytes} bytes, though it said that all arrived"
            raise BackendFault(message, backend=self._target.name, key=self._key)
        if self._target.verify:
            digest, how = server.sha256(data, record.size_bytes, self._key)
            if digest != record.sha256:
                message = f"what the server holds is not what was sent ({how.value})"
                raise DigestMismatch(message, backend=self._target.name, key=self._key)

    # Publishing

    def prepare(self, spooled: BinaryIO, record: Record) -> None:
        """Nothing travels on the spool file."""

    def publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        with self._lock:
            try:
                return self._publish(spooled, record)
            finally:
                self._release()

    def _publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        if self._look_first or spooled is None:
            done = self._arrived_before(record)
            if done is not None:
                return done
            if spooled is None:
                raise NotFound("no earlier attempt arrived", backend=self._target.name, key=self._key)
        self._look_first = True
        self._upload_with_patience(spooled, record)
        server = self._target.server(self._own_session())
        staging = self._stage(server)
        server.store_small(staging + b"/" + META, encode_meta(self._key, record), self._key)
        if not self._target.claim(server, staging, self._key):
            self._discard(server)
            done = self._arrived_before(record)
            if done is None:
                raise Unavailable(
                    "its claim went away at that moment", backend=self._target.name, key=self._key
                )
            return done
        self._staging = None
        info = self._finish(server, Claim(self._key, record))
        with contextlib.suppress(WormfsError):
            self._target.debris.clear(server, self._target.claims)
        return info

    def _arrived_before(self, record: Record) -> ObjectInfo | None:
        """Ours, finished now if need be. ``None``: the name is free. Raises AlreadyExists."""
        server = self._target.server(self._own_session())
        claim = self._target.claims.read(server, self._key)
        if claim is None:
            if server.look(self._target.names.path(self._key)) is not None:
                raise AlreadyExists("the name is taken", backend=self._target.name, key=self._key)
            return None
        if claim.record.entry_id != record.entry_id:
            self._target.claims.settle(server, claim)
            return None
        return self._finish(server, claim)

    def _finish(self, server: Server, claim: Claim) -> ObjectInfo:
        match self._target.claims.finish(server, claim):
            case Outcome.PUBLISHED:
                return self._target.committed(self._key, claim.record)
            case Outcome.IN_THE_WAY:
                self._target.claims.withdraw(server, claim)
                raise AlreadyExists("the name is taken", backend=self._target.name, key=self._key)
            case Outcome.LOST:
                self._target.claims.withdraw(server, claim)
                raise Unavailable(
                    "its bytes were lost between claim and name; it is sent again",
                    backend=self._target.name,
                    key=self._key,
                )

    # Ends

    def abort(self) -> None:
        with self._lock:
            self._release()
            staging, self._staging = self._staging, None
            if staging is None:
                return
            try:
                with self._target.pool.session() as session:
                    self._target.claims.discard(self._target.server(session), staging)
            except WormfsError:
                self._target.debris.leave(staging)

    def _discard(self, server: Server) -> None:
        """What is staged is of no use any more."""
        staging, self._staging = self._staging, None
        self._sent_bytes = 0
        if staging is None:
            return
        try:
            self._target.claims.discard(server, staging)
        except WormfsError:
            self._target.debris.leave(staging)
            raise
