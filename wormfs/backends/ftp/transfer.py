"""One file on its way to the server.

Bytes flow to ``.wormfs/s/<token>/data`` while the program writes, if a connection can be spared, and the
rest of them while the spool's disk syncs; else at the publish. What is there is counted and, unless that is
switched off, compared by SHA-256 before the name is claimed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from concurrent.futures import Future
from typing import BinaryIO

from wormfs.backends.ftp.claims import Claim, Outcome, Won
from wormfs.backends.ftp.server import Server
from wormfs.backends.ftp.upload import Target, Upload
from wormfs.errors import AlreadyExists, BackendFault, NotFound, Unavailable, WormfsError
from wormfs.model import Key, ObjectInfo, Record, show

log = logging.getLogger(__name__)

STREAM_FROM_BYTES = 4 << 20
"""What is smaller is sent when it is complete: a connection for each small file would help nobody."""


class _Plan:
    """What may be sent ahead, and whether a thread is at it. Guarded by ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ready_bytes = 0
        self.record: Record | None = None
        """Set when all is ready."""
        self.running: Future[None] | None = None
        self.over = False
        """Nothing is begun any more: the rest is for ``publish``."""


class FtpTransfer:
    """A ``Transfer``. Calls come from one thread at a time, except ``abort``, which waits.

    While a thread sends ahead, the upload is that thread's; ``publish`` and ``abort`` wait for its end first.
    """

    def __init__(self, target: Target, key: Key, *, resumed: bool) -> None:
        """``resumed``: an earlier publish may have arrived."""
        self._target = target
        self._key = key
        self._look_first = resumed
        self._lock = threading.Lock()
        self._plan = _Plan()
        self._upload = Upload(target, key)

    # Ahead of the publish

    def advance(self, spooled: BinaryIO, ready_bytes: int) -> None:
        plan = self._plan
        with plan.lock:
            plan.ready_bytes = ready_bytes
            if self._next_stop() is not None:
                self._send_ahead(spooled)

    def prepare(self, spooled: BinaryIO, record: Record) -> None:
        """The rest is sent, compared and given its record while the spool's disk syncs. Does not block."""
        plan = self._plan
        with plan.lock:
            plan.ready_bytes, plan.record = record.size_bytes, record
            self._send_ahead(spooled)

    def _next_stop(self) -> int | None:
        """Up to where to send next, with the plan's lock held; ``None``: not now."""
        plan = self._plan
        if plan.over:
            return None
        enough = plan.ready_bytes - self._upload.sent_bytes >= STREAM_FROM_BYTES
        return plan.ready_bytes if enough else None

    def _send_ahead(self, spooled: BinaryIO) -> None:
        """With the plan's lock held."""
        plan = self._plan
        # One that may have arrived is looked for first, and nothing is sent beside that.
        if plan.over or plan.running is not None or self._look_first or self._target.ahead is None:
            return
        # The spool closes its own descriptor when it likes.
        fd = os.dup(spooled.fileno())
        plan.running = self._target.ahead.start(lambda: self._go_on(fd))
        if plan.running is None:
            os.close(fd)

    def _go_on(self, fd: int) -> None:
        """In a thread."""
        plan = self._plan
        try:
            while True:
                with plan.lock:
                    record, until = plan.record, self._next_stop()
                    if plan.over or (record is None and until is None):
                        plan.running = None
                        return
                if record is not None:
                    self._upload.complete(fd, record)
                    break
                if until is None or not self._upload.send_ahead(fd, until):
                    break
        except WormfsError as error:
            # Not lost: the publish does it again, and tells.
            log.info("%s: sending %s ahead: %s", self._target.name, show(self._key), error)
            self._upload.release()
        finally:
            os.close(fd)
            with plan.lock:
                plan.over = plan.over or plan.running is not None
                plan.running = None

    def _stop_ahead(self) -> None:
        """From here on the upload is the caller's."""
        with self._plan.lock:
            running = self._plan.running
            if self._plan.record is None:
                # Nobody needs what is under way: all is sent at once by the caller.
                self._plan.over = True
        if running is not None:
            running.result()
        with self._plan.lock:
            self._plan.over = True

    # Publishing

    def publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        with self._lock:
            self._stop_ahead()
            try:
                return self._publish(spooled, record)
            finally:
                self._upload.release()

    def _publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        if self._look_first or spooled is None:
            done = self._arrived_before(record, bytes_are_here=spooled is not None)
            if done is not None:
                return done
            if spooled is None:
                raise NotFound("no earlier attempt arrived", backend=self._target.name, key=self._key)
        self._look_first = True
        self._upload.complete(spooled.fileno(), record)
        server = self._upload.server()
        staging = self._upload.hand_over()
        won = self._target.claim(server, staging, self._key)
        if won is None:
            self._upload.discard(server)
            done = self._arrived_before(record)
            if done is None:
                raise Unavailable(
                    "its claim went away at that moment", backend=self._target.name, key=self._key
                )
            return done
        self._upload.forget()
        info = self._finish(server, Claim(self._key, record), won)
        with contextlib.suppress(WormfsError):
            self._target.debris.clear(server, self._target.claims)
        return info

    def _arrived_before(self, record: Record, *, bytes_are_here: bool = True) -> ObjectInfo | None:
        """Ours, finished now if need be. ``None``: the name is free. Raises AlreadyExists."""
        server = self._upload.server()
        claim = self._target.claims.read(server, self._key)
        if claim is None:
            if server.look(self._target.names.path(self._key)) is not None:
                raise AlreadyExists("the name is taken", backend=self._target.name, key=self._key)
            return None
        if claim.record.entry_id != record.entry_id:
            self._target.claims.settle(server, claim)
            return None
        return self._finish(server, claim, bytes_are_here=bytes_are_here)

    def _finish(
        self, server: Server, claim: Claim, won: Won | None = None, *, bytes_are_here: bool = True
    ) -> ObjectInfo:
        match self._target.claims.finish(server, claim, won):
            case Outcome.PUBLISHED:
                return self._target.committed(self._key, claim.record)
            case Outcome.IN_THE_WAY:
                self._target.claims.withdraw(server, claim)
                raise AlreadyExists("the name is taken", backend=self._target.name, key=self._key)
            case Outcome.LOST if not bytes_are_here:
                # The claim is all that is left of it, and it may be that the file only cannot be seen now.
                raise BackendFault(
                    "it was stored, and the file is gone from the server: its record stays, and verification "
                    "reports it; restore the file from a backup",
                    backend=self._target.name,
                    key=self._key,
                )
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
            self._upload.cancel()
            self._stop_ahead()
            self._upload.abandon()
