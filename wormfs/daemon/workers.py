"""One backend as the supervisor sees it: its worker process, kept alive."""

from __future__ import annotations

import dataclasses
import enum
import logging
import math
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any

import trio

from wormfs import threads
from wormfs.clock import SystemClock
from wormfs.daemon import mounts, orders
from wormfs.daemon.backoff import Backoff
from wormfs.daemon.channel import Channel, NoAnswer, RequestFailed
from wormfs.daemon.messages import Message, ProtocolError
from wormfs.daemon.orders import Orders
from wormfs.model import Space

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
_HEALTHY_S = 60.0
"""Ready for so long: its next death is a new story."""
_LAST_WORDS_S = 1.0
_STOP_ANSWER_S = 2.0
_KILL_GRACE_S = 5.0
"""Beyond the time that the worker itself was given to stop."""
_PINGS = 4
"""Unanswered in a row: it hangs. Counted and not timed: after a while in which this very process did not run,
an answer may still lie in the socket."""
_FIRST_PINGS = 16
"""Before its first answer: a machine that is busy takes long to load a program."""
_DEATH_S = 10.0
"""After SIGKILL. A process that waits for a dead disk does not even die."""


DEATH_S = _KILL_GRACE_S + _DEATH_S
"""Beyond the time that a worker was given to stop: one that has not ended by then hangs in the kernel."""


class WorkerState(enum.Enum):
    """How a backend is doing."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """The backend is down; the worker tries again and again."""
    FAILED = "failed"
    """It cannot work like this: somebody must change something. Tried again now and then."""
    DOWN = "down"
    """The worker died and will be restarted."""
    HUNG = "hung"
    """It does not answer; it is killed after a while."""
    STOPPING = "stopping"
    STOPPED = "stopped"


_TROUBLED = (WorkerState.WAITING, WorkerState.FAILED, WorkerState.DOWN, WorkerState.HUNG)


class BackendWorker:
    """Starts the worker of one backend, again and again, until told to stop."""

    def __init__(
        self,
        its_orders: Orders,
        changed: Callable[[], None],
        *,
        hang_timeout_s: float,
        own_session: bool = True,
    ):
        """
        Args:
            changed: called after every change of ``state``, ``reason`` or ``space``.
            hang_timeout_s: how long the worker may be deaf before it is killed.
            own_session: whether the worker leaves the supervisor's process group.
        """
        self.name = its_orders.backend
        self.state = WorkerState.STARTING
        self.reason = ""
        """Why it is not ready; empty when it is."""
        self.space: Space | None = None
        """Last known room; kept while the backend is down."""
        self.guarantee: str | None = None
        """Which guarantee held when it was mounted last: the name of a ``Guarantee`` in lower case."""
        self.check: Message | None = None
        """The result of the last background check since it was mounted."""
        self.trouble: tuple[int, str] | None = None
        """When something went wrong last (nanoseconds since the epoch), and what."""
        self.restarts = 0
        self.unfinished = 0
        """Entries that the worker left for the next start when it was stopped."""
        self.detached = trio.Event()
        """Told to stop, and its mount is gone from the tree."""
        self.hang_timeout_s = hang_timeout_s
        self.incurable = False
        """The worker hangs, and SIGKILL has not ended it."""
        self._own_session = own_session
        self._hung = False
        self._orders = its_orders
        self._changed = changed
        self._process: trio.Process | None = None
        self._channel: Channel | None = None
        self._stop_asked = trio.Event()
        self._ended = trio.Event()
        self._ready_since = math.inf
        self._detaching = threads.limiter(1)

    @property
    def pid(self) -> int | None:
        """The worker's process id while it lives."""
        return self._process.pid if self._process is not None else None

    @property
    def mountpoint(self) -> str:
        return self._orders.mountpoint

    async def run(self) -> None:
        """Keep the worker alive until ``stop``. Never raises for what a worker does."""
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while not self._stop_asked.is_set():
            self._change(WorkerState.STARTING, self.reason)
            self._ready_since = math.inf
            try:
                ending = await self._run_once()
            except OSError as error:
                ending = f"the worker cannot be started: {error}"
            except Exception as error:
                # What one worker does must not end the others.
                log.exception("%s: nobody foresaw this", self.name)
                ending = f"the worker could not be followed and was killed: {type(error).__name__}"
            # At once: what is still mounted there answers nobody, and to take it away may last.
            self._change(WorkerState.DOWN, ending)
            await self._detach()
            if self._stop_asked.is_set():
                break
            if trio.current_time() - self._ready_since > _HEALTHY_S:
                backoff.reset()
            pause_s = backoff.next_s()
            log.warning("%s: %s; its directory answers EIO; next start in %g s", self.name, ending, pause_s)
            self.restarts += 1
            with trio.move_on_after(pause_s):
                await self._stop_asked.wait()
        self._change(WorkerState.STOPPED, "")
        self._ended.set()

    async def stop(self, timeout_s: float) -> None:
        """Unmount lazily, let it finish what is open for at most ``timeout_s`` seconds, end it."""
        self._stop_asked.set()
        self._change(WorkerState.STOPPING, "")
        async with trio.open_nursery() as nursery:
            # Here and not only in the worker, so that a hung one takes no new files either.
            nursery.start_soon(self._detach_for_good)
            await self._end(timeout_s)

    async def _detach_for_good(self) -> None:
        await self._detach()
        self.detached.set()

    async def _end(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s + _KILL_GRACE_S):
            with suppress(NoAnswer, RequestFailed):
                await self.request({"op": "stop", "timeout_s": timeout_s}, timeout_s=_STOP_ANSWER_S)
            await self._ended.wait()
        if not self._ended.is_set():
            log.warning("%s: the worker did not stop in time and is killed; its spool is complete", self.name)
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """SIGKILL the worker, and start no other."""
        self._stop_asked.set()
        if self._process is not None:
            self._process.kill()

    async def request(self, request: Message, *, timeout_s: float) -> Message:
        """Ask the worker. Raises NoAnswer, RequestFailed."""
        if self._channel is None:
            raise NoAnswer("its worker is not running")
        return await self._channel.request(request, timeout_s=timeout_s)

    def set_log_level(self, level: str) -> None:
        """For the worker that runs, and for those that follow it."""
        self.order(dataclasses.replace(self._orders, log_level=level))

    def order(self, its_orders: Orders) -> None:
        """New orders for the same backend: the next process gets them whole, the running one what it can
        take over while it runs."""
        self._orders = its_orders
        if self._channel is not None:
            with suppress(NoAnswer):  # it hangs or is ending: the next one is told
                self._channel.send({"request": orders.changeable(its_orders)})

    # -- one process

    async def _run_once(self) -> str:
        """Start a process and wait for its end; says how it ended. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await trio.lowlevel.open_process(
                    [sys.executable, "-m", "wormfs.daemon.worker", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr.fileno(),
                    pass_fds=[theirs.fileno()],
                    # Ctrl-C at the terminal is for the supervisor, which then stops the workers in order.
                    start_new_session=self._own_session,
                    cwd="/",
                )
            except BaseException:
                ours.close()
                raise
        if self._stop_asked.is_set():
            process.kill()  # told while it was being started: it has done nothing yet
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._process, self._channel = process, Channel(stream)
        listened = trio.Event()
        self._hung = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._talk, self._channel, stream, process)
                nursery.start_soon(self._listen, self._channel, process, listened)
                nursery.start_soon(self._watch, self._channel, process)
                status = await process.wait()
                with trio.move_on_after(_LAST_WORDS_S):
                    await listened.wait()
                nursery.cancel_scope.cancel()
        except Exception:
            # Nobody listens to it any more, and the next one needs its place.
            process.kill()
            await process.wait()
            raise
        finally:
            self._process = None
            await self._channel.aclose()
            self._channel = None
            self.incurable = False
        return self.reason if self._hung else _ending(status, self.reason)

    async def _talk(self, channel: Channel, stream: trio.SocketStream, process: trio.Process) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(orders.encode(self._orders))
            await channel.run()

    async def _listen(self, channel: Channel, process: trio.Process, listened: trio.Event) -> None:
        try:
            async with aclosing(channel.messages()) as messages:
                async for message in messages:
                    self._note(message)
        except ProtocolError as error:
            log.error("%s: the worker talks nonsense (%s) and is killed", self.name, error)
            process.kill()
        finally:
            listened.set()

    async def _watch(self, channel: Channel, process: trio.Process) -> None:
        """Kill a worker whose event loop does not turn any more: the next one can serve."""
        unanswered, patience = 0, _FIRST_PINGS
        while unanswered < patience:
            # A ping and a pause each: after that many without an answer, hang_timeout_s is over.
            step_s = self.hang_timeout_s / (2 * _PINGS)
            await trio.sleep(step_s)
            try:
                await channel.request({"op": "ping"}, timeout_s=step_s)
            except NoAnswer:
                unanswered += 1
            except RequestFailed:
                unanswered, patience = 0, _PINGS  # a refusal is an answer, too
            else:
                unanswered, patience = 0, _PINGS
        self._hung = True
        self._change(WorkerState.HUNG, f"the worker did not answer for {self.hang_timeout_s:g} s; killed")
        log.error("%s: %s", self.name, self.reason)
        process.kill()
        await trio.sleep(_DEATH_S)
        self.incurable = True
        self._change(WorkerState.HUNG, "the worker hangs and cannot be killed: it waits for a disk, perhaps")
        log.error("ALERT: %s: %s; process %d", self.name, self.reason, process.pid)

    def _note(self, message: Message) -> None:
        """Take an event of the worker in."""
        reason = str(message.get("reason", ""))
        match message.get("event"):
            case "ready":
                self._ready_since = trio.current_time()
                self.guarantee = str(message.get("guarantee"))
                self.check = None
                log.info("%s: mounted at %s", self.name, self._orders.mountpoint)
                self._change(WorkerState.READY, "")
            case "waiting":
                self._change(WorkerState.WAITING, reason)
            case "failed":
                self._change(WorkerState.FAILED, reason)
            case "check":
                self._note_check({name: value for name, value in message.items() if name != "event"})
            case "drained":
                self.unfinished = int(message.get("unfinished", 0))
            case "space":
                self.space = space_from_message(message)
                self._changed()
            case other:
                log.warning("%s: the worker sent an unknown event %r", self.name, other)

    def _note_check(self, check: Message) -> None:
        self.check = check
        if not check["ok"]:
            first = check["failed"][0]
            self.trouble = check["at_ns"], f"check failed at '{first['name']}': {first['detail']}"
        self._changed()

    def _change(self, state: WorkerState, reason: str) -> None:
        if self._stop_asked.is_set() and state not in (WorkerState.STOPPING, WorkerState.STOPPED):
            return
        self.state, self.reason = state, reason
        if state in _TROUBLED:
            self.trouble = SystemClock().now_ns(), reason
        self._changed()

    async def _detach(self) -> None:
        # In a thread: walking the path asks the root session, which this very process serves, and the mounter
        # may be slow. One at a time, beside the threads that others share: thirty backends can wait for it.
        with trio.CancelScope(shield=True):
            try:
                await threads.run(
                    mounts.detach, self._orders.mountpoint, self._orders.source, limiter=self._detaching
                )
            except OSError as error:  # /proc cannot be read
                log.warning("%s: what is mounted there cannot be found out: %s", self.mountpoint, error)


def space_to_message(space: Space) -> Message:
    """Room in a backend as it travels."""
    return {
        "total_bytes": space.total_bytes,
        "free_bytes": space.free_bytes,
        "total_files": space.total_files,
        "free_files": space.free_files,
    }


def space_from_message(message: Message) -> Space:
    """The reverse; what is missing or no number counts as unknown."""

    def number(name: str) -> int | None:
        value: Any = message.get(name)
        return value if isinstance(value, int) else None

    return Space(number("total_bytes"), number("free_bytes"), number("total_files"), number("free_files"))


def _ending(status: int, reason: str) -> str:
    if status < 0:
        return f"the worker was killed by {_signal_name(-status)}"
    said = f": {reason}" if reason else ""
    return f"the worker ended with status {status}{said}" if status else "it was unmounted"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those between SIGRTMIN and SIGRTMAX
        return f"signal {number}"
