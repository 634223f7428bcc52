"""The connections to one server: lent, given back, made anew, and no more than the server likes.

A server that refuses a further connection while others are open (421, or 530 where it says so) lowers the
limit; a minute later one more is tried again. Readers keep connections only as long as nobody else
needs them: ``Lendable`` streams are asked to give theirs back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from wormfs import clock
from wormfs.backends.ftp.session import LoginRefused, Session, TooManyConnections
from wormfs.errors import Unavailable

log = logging.getLogger(__name__)

_TRUSTED_IDLE_S = 3.0
"""A connection that rested longer is asked whether it still lives: servers close idle ones after seconds."""
_KEPT_IDLE_S = 120.0
_LOWERED_S = 60.0
_WAIT_FACTOR = 2.0


class Lendable(Protocol):
    """Somebody who holds a session only for speed."""

    def give_back(self) -> bool:
        """Return the session to the pool now; false when it is in use at this moment. Never blocks long."""
        ...


class Pool:
    """Safe from any thread."""

    def __init__(self, backend: str, connect: Callable[[], Session], limit: int, timeout_s: float) -> None:
        """``limit``: connections at most. ``timeout_s``: the limit of one network operation."""
        self._backend = backend
        self._connect = connect
        self._most = limit
        self._limit = limit
        self._lowered_at = 0.0
        self._wait_s = timeout_s * _WAIT_FACTOR
        self._changed = threading.Condition()
        self._idle: list[Session] = []
        self._open = 0
        self._lendable: dict[Lendable, None] = {}
        self._streams = 0
        self._closed = False
        self.pipelining = False
        """Whether the server was seen to answer several commands that were sent at once."""

    @property
    def limit(self) -> int:
        """How many connections the server seems to allow."""
        return self._limit

    # Lending

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A session for the block. Raises Unavailable, LoginRefused."""
        session = self.take()
        try:
            yield session
        finally:
            self.give(session)

    def take(self) -> Session:
        """A session that the caller gives back. Blocks until one is free, at most two time limits."""
        deadline = clock.monotonic() + self._wait_s
        while True:
            session = self._idle_or_room(deadline)
            if session is not None:
                rested_s = clock.monotonic() - session.idle_since
                if session.quiet() and (rested_s < _TRUSTED_IDLE_S or session.alive()):
                    return session
                self._dispose(session)
                continue
            try:
                session = self._connect()
                session.pipelining = self.pipelining
                return session
            except BaseException as error:
                with self._changed:
                    self._open -= 1
                    others = self._open
                    self._changed.notify()
                if not isinstance(error, LoginRefused | TooManyConnections) or not others:
                    raise
                self._lower(others)

    def give(self, session: Session) -> None:
        """Take a session back; a broken one is closed, and so are those at rest: a server that was started
        again, or a network that was away, has broken them as well."""
        session.settle()
        if session.broken:
            self._drop_idle()
        session.idle_since = clock.monotonic()
        with self._changed:
            if not (session.broken or self._closed or self._open > self._limit):
                self._idle.append(session)
                self._changed.notify()
                return
        self._dispose(session)

    def _idle_or_room(self, deadline: float) -> Session | None:
        """An idle session, or ``None`` with a place reserved for a new one."""
        while True:
            with self._changed:
                if self._closed:
                    raise Unavailable("the backend is closed", backend=self._backend)
                self._raise_again()
                if self._idle:
                    self._drop_stale()
                    return self._idle.pop()
                if self._open < self._limit:
                    self._open += 1
                    return None
                holders = list(self._lendable)
            if any(holder.give_back() for holder in holders):
                continue
            with self._changed:
                if self._idle or self._open < self._limit:
                    continue
                if clock.monotonic() >= deadline:
                    raise Unavailable(f"all {self._limit} connections are in use", backend=self._backend)
                # Not for ever: a lendable stream may come to rest without a notice.
                self._changed.wait(0.05)

    def _drop_stale(self) -> None:
        """Connections that nobody needed for long need not stay open; the freshest is the last."""
        now = clock.monotonic()
        while len(self._idle) > 1 and now - self._idle[0].idle_since > _KEPT_IDLE_S:
            session = self._idle.pop(0)
            self._open -= 1
            session.close()

    def _dispose(self, session: Session) -> None:
        session.close()
        with self._changed:
            self._open -= 1
            self._changed.notify()

    def _lower(self, others: int) -> None:
        with self._changed:
            self._limit = max(1, min(self._limit, others))
            self._lowered_at = clock.monotonic()
        log.info("%s: the server allows %d connections at once", self._backend, self._limit)

    def _raise_again(self) -> None:
        if self._limit < self._most and clock.monotonic() - self._lowered_at > _LOWERED_S:
            self._limit += 1
            self._lowered_at = clock.monotonic()

    # Those who may hold one

    def lend(self, holder: Lendable) -> None:
        """``holder`` keeps a session and can be asked for it."""
        with self._changed:
            self._lendable[holder] = None

    def unlend(self, holder: Lendable) -> None:
        """``holder`` keeps none any more."""
        with self._changed:
            self._lendable.pop(holder, None)
            self._changed.notify()

    def may_stream(self) -> bool:
        """Reserve one of the places for uploads that go on while a program writes; others must remain."""
        with self._changed:
            if self._streams >= self._limit - 2:
                return False
            self._streams += 1
            return True

    def end_stream(self) -> None:
        """The counterpart of a ``may_stream`` that said yes."""
        with self._changed:
            self._streams -= 1

    # Life

    def close(self) -> None:
        """Close what is idle now, and the rest when it comes back."""
        with self._changed:
            self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        with self._changed:
            idle, self._idle = self._idle, []
            self._open -= len(idle)
            self._changed.notify_all()
        for session in idle:
            session.close()
