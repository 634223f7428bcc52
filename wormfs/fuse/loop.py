"""A faster wait for pyfuse3's request loop.

pyfuse3 looks ``trio`` up in its own module, so that ``pyfuse3.asyncio`` can take its place. wormfs
puts this object there. While no handler waits for anything, it waits for the next request in poll(2) for a
moment: while a program writes 8 KiB after 8 KiB the next request is there within microseconds, and a
trip through trio's scheduler (epoll, two checkpoints of a lock) costs more than handling it. For the
same reason a task whose handler has answered at once goes on reading itself (see ``_Turn``).
Every N-th request gives the scheduler a turn, so that timers, threads and other tasks are served.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import select
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from types import SimpleNamespace, TracebackType
from typing import Any, cast

import pyfuse3
import trio

from wormfs.fuse.handshake import Handshake
from wormfs.fuse.passthrough import Passthrough

_TURNS_BETWEEN_CHECKPOINTS = 32
_SLEEP_MS = 1
"""Poll's smallest step. Timers and threads that end meanwhile wait as long."""


class _Turn:
    """Who reads the next request: pyfuse3's read lock, kept by the task that has it.

    pyfuse3 keeps one task reading and one waiting for this lock. A fair lock would hand itself to the
    other after each request, at the price of a trip through the scheduler. This one stays with a task
    whose handlers answer at once; a handler that has to wait calls ``pass_on`` first.
    """

    def __init__(self) -> None:
        self.handlers_waiting = 0
        """Handlers that are in the middle of something that the event loop has to go on with."""
        self._taken = False
        self._others = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._taken:
            await self._others.park()
        self._taken = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taken = False

    def pass_on(self) -> None:
        """The task that had the last turn is not coming back at once: the other may go on."""
        if not self._taken:
            self._others.unpark()


class _ForwardingTurn(_Turn):
    """Whatever a task does once pyfuse3 has answered, take its turn or end, it comes by here first."""

    def __init__(self, passthrough: Passthrough) -> None:
        super().__init__()
        self._forward = passthrough.forward

    async def __aenter__(self) -> None:
        self._forward()
        await super().__aenter__()

    def pass_on(self) -> None:
        self._forward()
        super().pass_on()


class _Waiter:
    """``wait_readable`` for the one descriptor of this session, with the handshake at its start."""

    def __init__(
        self,
        handshake: Handshake,
        ready: Callable[[], None],
        turn: _Turn,
        passthrough: Passthrough | None = None,
    ):
        self._handshake: Handshake | None = handshake
        self._passthrough = passthrough
        self._ready = ready
        self._turn = turn
        self._calls = 0
        self._poll = select.poll()

    async def wait_readable(self, fd: int) -> None:
        self._calls += 1
        if self._handshake is not None:
            # First call: INIT waits in the socket. Second call: libfuse has answered it.
            if self._calls == 1:
                return
            device_fd = self._handshake.finish()
            if self._passthrough is not None:
                self._passthrough.begin(device_fd, self._handshake.session_fd)
            self._handshake = None
            self._ready()
            self._poll.register(fd, select.POLLIN)
        if self._calls % _TURNS_BETWEEN_CHECKPOINTS == 0:
            await trio.lowlevel.checkpoint()
        # Asleep right here while nothing else is under way: the request then wakes this thread on the core of
        # whoever sent it, and both stay there. On two cores the same exchange costs more than twice as much.
        ready = self._poll.poll(0 if self._turn.handlers_waiting else _SLEEP_MS)
        while not ready:
            await trio.lowlevel.wait_readable(fd)
            # The kernel takes a request back when its program is killed before it was read. To read now would
            # block, interpreter lock and all, until some program asks for something else.
            ready = self._poll.poll(0)


class _Tasks:
    """pyfuse3's nursery. A task that ends passes the turn on: it may have been the one that read, and
    have learned from read(2) alone that the session is over; whoever waits must learn it, too."""

    def __init__(self, nursery: trio.Nursery, turn: _Turn):
        self._nursery = nursery
        self._turn = turn

    def start_soon(
        self, function: Callable[..., Awaitable[Any]], *arguments: Any, name: object = None
    ) -> None:
        self._nursery.start_soon(self._run, function, arguments, name=name)

    async def _run(self, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        try:
            await function(*arguments)
        finally:
            self._turn.pass_on()


@contextlib.asynccontextmanager
async def _open_tasks(turn: _Turn) -> AsyncIterator[_Tasks]:
    async with trio.open_nursery() as nursery:
        yield _Tasks(nursery, turn)


class _Served(SimpleNamespace):
    """What pyfuse3 is given in place of the operations: the same attributes and handlers."""


def _served(operations: pyfuse3.Operations, turn: _Turn) -> pyfuse3.Operations:
    """The operations, with ``turn`` passed on by every handler that has to wait."""
    members: dict[str, Any] = {
        name: getattr(operations, name) for name in dir(operations) if not name.startswith("_")
    }
    for name, member in members.items():
        if inspect.iscoroutinefunction(member):
            members[name] = _passing_on(member, turn)
    return cast("pyfuse3.Operations", _Served(**members))


def _passing_on(handler: Callable[..., Coroutine[Any, Any, Any]], turn: _Turn) -> Callable[..., Any]:
    def call(*arguments: Any) -> Generator[Any, Any, Any]:
        return _stepwise(handler(*arguments), turn)

    return call


@types.coroutine
def _stepwise(running: Coroutine[Any, Any, Any], turn: _Turn) -> Generator[Any, Any, Any]:
    """Await ``running``; before it waits for anything for the first time, pass the turn on."""
    try:
        waited_for = running.send(None)
    except StopIteration as done:
        return done.value
    turn.pass_on()
    turn.handlers_waiting += 1
    try:
        return (yield from _rest(running, waited_for))
    finally:
        turn.handlers_waiting -= 1


def _rest(running: Coroutine[Any, Any, Any], waited_for: object) -> Generator[Any, Any, Any]:
    while True:
        try:
            answer = yield waited_for
        except BaseException as error:  # noqa: BLE001 (handed to whoever waits in there)
            step = functools.partial(running.throw, error)
        else:
            step = functools.partial(running.send, answer)
        try:
            waited_for = step()
        except StopIteration as done:
            return done.value


def install(
    operations: pyfuse3.Operations,
    handshake: Handshake,
    ready: Callable[[], None],
    passthrough: Passthrough | None = None,
) -> pyfuse3.Operations:
    """Make pyfuse3's loop in this process wait the fast way. Before ``pyfuse3.init``.

    ``ready`` is called once when the kernel has the answer to its first request. ``passthrough`` begins
    just before, where files are to be read by the kernel itself. Returns what pyfuse3 is to be given as
    its operations.
    """
    turn = _Turn() if passthrough is None else _ForwardingTurn(passthrough)
    waiter = _Waiter(handshake, ready, turn, passthrough)
    pyfuse3.trio = SimpleNamespace(  # type: ignore[attr-defined]
        Lock=lambda: turn,
        ClosedResourceError=trio.ClosedResourceError,
        open_nursery=functools.partial(_open_tasks, turn),
        lowlevel=SimpleNamespace(
            wait_readable=waiter.wait_readable,
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
            notify_closing=trio.lowlevel.notify_closing,
        ),
    )
    return _served(operations, turn)
