"""Whom the mounter serves next: connections that wait to be heard, requests that wait for their turn.

Nobody can hold the others up. Whoever has connected and says nothing costs a descriptor and not a process,
and not for long. Each request has a process of its own, so one that waits for a hung mount blocks only those
for the same place: what is done at one place is done one after the other, in the order in which a user asked
for it. Between users it goes in turns, and the greediest one loses when there is no room.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import selectors
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from wormfs.clock import monotonic
from wormfs.fuse.mounterclient import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

FIRST_WORD_S = 2.0
"""From a connection to its request: the daemon sends it at once."""
_MOST_SILENT = 64
_MOST_WAITING = 512
_AT_ONCE_PER_USER = 32
_WORK_S = 60.0
"""A process that still waits for something after that is ended by the kernel."""
_CREDENTIALS = struct.Struct("iII")
"""struct ucred: pid, uid, gid."""


@dataclass(slots=True, eq=False)
class Caller:
    """Somebody who has connected, as the kernel knows him (unix(7), SO_PEERCRED)."""

    connection: socket.socket
    pid: int
    uid: int
    gid: int
    since: float
    request: dict[str, Any] = field(default_factory=dict)
    """Empty until it has come."""

    @classmethod
    def of(cls, connection: socket.socket) -> Caller:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(credentials)
        return cls(connection, pid, uid, gid, since=monotonic())

    @property
    def path(self) -> str:
        """The place that the request is about."""
        return str(self.request.get("path", ""))

    @property
    def is_gone(self) -> bool:
        """He has hung up: nobody waits for the answer. Does not block."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def reply(self, number: int, descriptors: Iterable[int] = ()) -> None:
        """``number``: 0 or an errno. Raises OSError."""
        socket.send_fds(self.connection, [json.dumps({"errno": number}).encode()], list(descriptors))


def greediest(callers: Iterable[Caller]) -> list[Caller]:
    """Those of the user who has most, the first one first."""
    callers = list(callers)
    counts = Counter(caller.uid for caller in callers)
    return [caller for caller in callers if caller.uid == max(counts, key=counts.__getitem__)]


class MounterQueue:
    """Hears whoever connects to ``listening``, and has ``work`` done for each request in its own process."""

    def __init__(self, listening: socket.socket, work: Callable[[Caller], None]):
        self._listening = listening
        self._work = work
        self._selector = selectors.DefaultSelector()
        self._silent: list[Caller] = []
        self._waiting: list[Caller] = []
        self._working: dict[int, Caller] = {}
        """By the descriptor of the process (pidfd)."""
        self._last: dict[str, int] = {}
        """Who was served last at each place that somebody is busy with or waits for."""
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ, self._accept)

    def run(self) -> NoReturn:
        """Until killed."""
        while True:
            for key, _ in self._selector.select(self._until_next_s()):
                key.data()
            self._hang_up_late()
            self._begin()

    # -- who says nothing

    def _accept(self) -> None:
        for _ in range(_MOST_SILENT):
            try:
                connection, _ = self._listening.accept()
            except OSError:  # that was all
                return
            connection.setblocking(False)
            self._hear(Caller.of(connection))

    def _until_next_s(self) -> float | None:
        if not self._silent:
            return None
        return max(0.0, self._silent[0].since + FIRST_WORD_S - monotonic())

    def _hang_up_late(self) -> None:
        while self._silent and self._silent[0].since + FIRST_WORD_S <= monotonic():
            self._hang_up(self._silent[0])

    def _hang_up(self, caller: Caller) -> None:
        self._silence_ends(caller)
        caller.connection.close()

    def _silence_ends(self, caller: Caller) -> None:
        self._silent.remove(caller)
        self._selector.unregister(caller.connection)

    def _hear_silent(self, caller: Caller) -> None:
        if caller in self._silent:  # else hung up on in this very round
            self._silence_ends(caller)
            self._hear(caller)

    def _hear(self, caller: Caller) -> None:
        """His request, if it is there."""
        try:
            message = caller.connection.recv(MAX_MESSAGE_BYTES)
        except BlockingIOError:
            self._silent.append(caller)
            self._selector.register(
                caller.connection, selectors.EVENT_READ, partial(self._hear_silent, caller)
            )
            if len(self._silent) > _MOST_SILENT:
                self._hang_up(greediest(self._silent)[0])
        except OSError:
            caller.connection.close()
        else:
            self._note(caller, message)

    # -- who has said what he wants

    def _note(self, caller: Caller, message: bytes) -> None:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not request:
            self._refuse(caller, errno.EINVAL)
            return
        caller.request = request
        self._waiting.append(caller)
        if len(self._waiting) > _MOST_WAITING:
            # The last one: those before him asked for what is to be done first.
            late = greediest(self._waiting)[-1]
            self._waiting.remove(late)
            self._refuse(late, errno.EAGAIN)

    def _refuse(self, caller: Caller, number: int) -> None:
        with suppress(OSError):
            caller.reply(number)
        caller.connection.close()

    def _begin(self) -> None:
        # Others before him who had his turn there, else in the order in which they came.
        for caller in sorted(self._waiting, key=lambda caller: self._last.get(caller.path) == caller.uid):
            busy = {one.path for one in self._working.values()}
            his = sum(one.uid == caller.uid for one in self._working.values())
            if caller.path in busy or his >= _AT_ONCE_PER_USER:
                continue
            self._waiting.remove(caller)
            try:
                self._start(caller)
                self._last[caller.path] = caller.uid
            except OSError as error:
                log.warning("no process can be started for process %d: %s", caller.pid, error)
                self._refuse(caller, errno.EAGAIN)

    # -- processes

    def _start(self, caller: Caller) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_process_of(caller)
        caller.connection.close()
        process = os.pidfd_open(pid)
        self._working[process] = caller
        self._selector.register(process, selectors.EVENT_READ, partial(self._end, pid, process))

    def _end(self, pid: int, process: int) -> None:
        os.waitpid(pid, 0)
        self._selector.unregister(process)
        os.close(process)
        place = self._working.pop(process).path
        if all(caller.path != place for caller in self._waiting):
            del self._last[place]

    def _be_process_of(self, caller: Caller) -> NoReturn:
        try:
            # Whom the others hang up on must notice it.
            self._selector.close()
            for other in (*self._silent, *self._waiting):
                other.connection.close()
            self._listening.close()
            signal.setitimer(signal.ITIMER_REAL, _WORK_S)
            self._work(caller)
        except Exception:
            log.exception("a request was not answered: nobody foresaw this")
        finally:
            os._exit(0)
