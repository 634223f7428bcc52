"""The bytes of one file on their way to a directory of their own below ``.wormfs/s``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from wormfs.backends.ftp.ahead import Ahead
from wormfs.backends.ftp.claims import DATA, META, Claims, Won, encode_meta
from wormfs.backends.ftp.names import Names
from wormfs.backends.ftp.pool import Pool
from wormfs.backends.ftp.replies import Reply, failure
from wormfs.backends.ftp.server import Server, Stored
from wormfs.backends.ftp.session import DataStream, Session
from wormfs.errors import BackendFault, DigestMismatch, OutOfSpace, Unavailable, WormfsError
from wormfs.model import Key, ObjectInfo, Record

RESUME_FROM_BYTES = 64 << 20
"""An upload that broke later than this goes on where it was; a smaller one begins again."""
_STEP_BYTES = 32 << 20
"""Between two such steps a cancelled upload ends."""
_ATTEMPTS = 3
_LOCAL_ERROR = 451
_DEBRIS = 1000


class Interrupted(OutOfSpace):
    """451: a full disk at vsftpd, and a broken connection at pure-ftpd. Another try tells them apart."""


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
    claim: Callable[[Server, bytes, Key], Won | None]
    committed: Callable[[Key, Record], ObjectInfo]
    debris: Debris
    verify: bool
    ahead: Ahead | None
    """Threads that send while programs write and disks sync; ``None``: nothing is sent ahead."""


class Upload:
    """For one thread at a time; ``sent_bytes`` may be read from others."""

    def __init__(self, target: Target, key: Key) -> None:
        self._target = target
        self._key = key
        self.staging: bytes | None = None
        """The directory at the server, once it is made and as long as it is ours."""
        self.sent_bytes = 0
        self._session: Session | None = None
        self._stream: DataStream | None = None
        self._streams_ahead = False
        """A place among those that stream while a program writes is taken."""
        self._cancelled = False
        self._staged: Record | None = None
        """All is there, was compared, and has this record beside it."""

    # Connection

    def server(self) -> Server:
        """The server through the session that this upload keeps until ``release``."""
        if self._session is None:
            self._session = self._target.pool.take()
        return self._target.server(self._session)

    def release(self) -> None:
        """The connection goes back; what the server holds stays."""
        if self._streams_ahead:
            self._streams_ahead = False
            self._target.pool.end_stream()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cut()
        session, self._session = self._session, None
        if session is not None:
            self._target.pool.give(session)

    # Sending

    def send_ahead(self, fd: int, until: int) -> bool:
        """Send what is ready of a file that is still written; false when no connection can be spared."""
        if self._stream is None:
            if not self._target.pool.may_stream():
                return False
            self._streams_ahead = True
            self._open(self.server())
        self._send(fd, until)
        return True

    def _open(self, server: Server, offset: int = 0) -> None:
        """Begin to store, in a directory of its own, which is made with the same exchange."""
        before: list[bytes] = []
        if self.staging is None:
            # Known before it is made: should the reply be lost, there is something to remove.
            self.staging = self._target.names.staging()
            before = [b"MKD " + self.staging]
        data = self.staging + b"/" + DATA
        replies, stream = server.session.transfer_after(before, b"STOR " + data, offset)
        for reply in replies:
            if not reply.good:
                server.session.settle()
                self.staging = None
                raise server.fail(reply, self._key, "store it", storing=True)
        if isinstance(stream, Reply):
            raise server.fail(stream, self._key, "store it", storing=True)
        self._stream, self.sent_bytes = stream, offset

    def _send(self, fd: int, until: int) -> None:
        assert self._stream is not None
        while self.sent_bytes < until:
            if self._cancelled:
                raise Unavailable("it was given up", backend=self._target.name, key=self._key)
            step = min(_STEP_BYTES, until - self.sent_bytes)
            early = self._stream.send(fd, self.sent_bytes, step)
            if early is not None:
                self._stream = None
                raise self._failed(early)
            self.sent_bytes += step

    def _failed(self, reply: Reply) -> WormfsError:
        error = failure(reply, self._target.name, self._key, "store it", storing=True)
        if reply.code == _LOCAL_ERROR:
            return Interrupted(*error.args, backend=self._target.name, key=self._key)
        return error

    def complete(self, fd: int, record: Record) -> None:
        """All bytes at the server, by its own verdict, compared, and their record beside them.

        A connection that is lost on the way costs what has not arrived, or all of a small file. What was
        completed before with the same record is complete. Raises the errors of the tree.
        """
        if self._staged == record:
            return
        if self._staged is not None:
            # Prepared for another record: the bytes may be others, too.
            self.discard(self.server())
        broke_off = self.staging is not None and self._stream is None
        for attempt in range(_ATTEMPTS):
            server = self.server()
            try:
                if attempt or broke_off:
                    self._resume_or_begin_again(server, record.size_bytes)
                self._upload(server, fd, record)
                self._verify(server, record)
            except (Unavailable, Interrupted):
                self._stream = None
                self.release()
                if self._cancelled or attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        assert self.staging is not None
        meta = self.staging + b"/" + META
        server.store_small(meta, encode_meta(self._key, record), self._key)
        self._staged = record
        # Until the spool's disk is ready, others may have the connection.
        self.release()

    def _upload(self, server: Server, fd: int, record: Record) -> None:
        if self._stream is None:
            self._open(server)
        self._send(fd, record.size_bytes)
        assert self._stream is not None
        stream, self._stream = self._stream, None
        reply = stream.finish()
        if not reply.good:
            raise self._failed(reply)

    def _resume_or_begin_again(self, server: Server, size_bytes: int) -> None:
        """Only what will be compared by SHA-256 is resumed. With REST and STOR, never APPE: should the server
        still write what the dead connection had brought, it writes the same bytes to the same places."""
        there = None
        if self.staging is not None and self._target.verify:
            there = server.size(self.staging + b"/" + DATA)
        if there is not None and RESUME_FROM_BYTES <= there <= size_bytes:
            self._open(server, there)
            return
        self.discard(server)

    def _verify(self, server: Server, record: Record) -> None:
        """Raises Unavailable for a wrong count after a broken connection, DigestMismatch for wrong bytes."""
        assert self.staging is not None
        data, at_ns, size = self.staging + b"/" + DATA, record.attributes.mtime_ns, record.size_bytes
        if self._target.verify:
            found, digest, how = server.examine(data, at_ns, size, self._key)
        else:
            found, digest, how = server.size_and_set_mtime(data, at_ns), record.sha256, Stored.COUNTED
        if found != size:
            message = f"the server kept {found} of {size} bytes, though it said that all arrived"
            raise BackendFault(message, backend=self._target.name, key=self._key)
        if digest != record.sha256:
            message = f"what the server holds is not what was sent ({how.value})"
            raise DigestMismatch(message, backend=self._target.name, key=self._key)

    # Ends

    def cancel(self) -> None:
        """From any thread: what is under way shall end soon."""
        self._cancelled = True

    def hand_over(self) -> bytes:
        """The directory with all that is complete, to be claimed."""
        assert self._staged is not None and self.staging is not None, "complete comes first"
        return self.staging

    def discard(self, server: Server) -> None:
        """What is staged is of no use any more."""
        staging = self.forget()
        if staging is None:
            return
        try:
            self._target.claims.discard(server, staging)
        except WormfsError:
            self._target.debris.leave(staging)
            raise

    def abandon(self) -> None:
        """Leave nothing behind; what cannot be removed now is removed when the server is back."""
        self.release()
        staging = self.forget()
        if staging is None:
            return
        try:
            with self._target.pool.session() as session:
                self._target.claims.discard(self._target.server(session), staging)
        except WormfsError:
            self._target.debris.leave(staging)

    def forget(self) -> bytes | None:
        """What was staged is not ours any more; where it was."""
        staging, self.staging = self.staging, None
        self.sent_bytes, self._staged = 0, None
        return staging
