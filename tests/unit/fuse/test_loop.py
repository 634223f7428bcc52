"""Who reads the next request, and when the turn is passed on."""

from __future__ import annotations

import select
import socket
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest
import trio
import trio.testing

from wormfs.fuse.handshake import Handshake
from wormfs.fuse.loop import _open_tasks, _served, _Tasks, _Turn, _Waiter


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class Operations(pyfuse3.Operations):
    """Handlers that answer at once, wait, or fail."""

    enable_acl = False

    def __init__(self) -> None:
        super().__init__()
        self.let_go = trio.Event()
        self.cancelled = False

    async def getattr(self, inode: Any, ctx: Any) -> Any:
        return inode + 1

    async def flush(self, fh: Any) -> None:
        try:
            await self.let_go.wait()
        except trio.Cancelled:
            self.cancelled = True
            raise

    async def fsync(self, fh: Any, datasync: bool) -> None:
        await trio.lowlevel.checkpoint()
        raise pyfuse3.FUSEError(fh)


@pytest.fixture
def turn() -> _Turn:
    return _Turn()


def step(call: Awaitable[Any]) -> Any:
    """The value of a handler that answers at once."""
    running = _await(call)
    with pytest.raises(StopIteration) as done:
        running.send(None)
    return done.value.value


def test_what_is_no_handler_is_there_as_it_was(turn: _Turn) -> None:
    served = _served(Operations(), turn)
    assert served.enable_acl is False
    assert served.supports_dot_lookup is Operations.supports_dot_lookup
    assert {name for name in dir(pyfuse3.Operations) if not name.startswith("_")} <= set(vars(served))


def test_a_handler_that_answers_at_once_keeps_the_turn(turn: _Turn) -> None:
    served = _served(Operations(), turn)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            async with turn:
                nursery.start_soon(_enter, turn, took := trio.Event())
                await trio.testing.wait_all_tasks_blocked()
            assert step(cast("Awaitable[Any]", served.getattr(7, None))) == 8
            await trio.testing.wait_all_tasks_blocked()
            assert not took.is_set()
            turn.pass_on()
            await took.wait()

    trio.run(main)


async def _enter(turn: _Turn, took: trio.Event) -> None:
    async with turn:
        took.set()


def test_a_handler_that_waits_passes_the_turn_on_and_is_counted(turn: _Turn) -> None:
    operations = Operations()
    served = _served(operations, turn)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            async with turn:
                nursery.start_soon(_enter, turn, took := trio.Event())
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(_await, served.flush(1))
            await took.wait()
            assert turn.handlers_waiting == 1
            operations.let_go.set()
        assert turn.handlers_waiting == 0

    trio.run(main)


def test_errors_and_cancellation_go_through(turn: _Turn) -> None:
    operations = Operations()
    served = _served(operations, turn)

    async def main() -> None:
        with pytest.raises(pyfuse3.FUSEError) as raised:
            await served.fsync(5, False)
        assert raised.value.errno == 5
        with trio.move_on_after(0):
            await served.flush(1)
        assert operations.cancelled
        assert turn.handlers_waiting == 0

    trio.run(main)


def test_served_is_a_plain_object(turn: _Turn) -> None:
    assert isinstance(_served(Operations(), turn), SimpleNamespace)


class _Poll:
    """Answers as it is told, then that there is something to read."""

    def __init__(self, *answers: list[tuple[int, int]]) -> None:
        self.answers = list(answers)

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        return self.answers.pop(0) if self.answers else [(0, select.POLLIN)]


def test_a_request_that_the_kernel_took_back_is_not_read(turn: _Turn) -> None:
    """Readable a moment ago, and nothing there now: pyfuse3 would block in read, interpreter lock and all."""
    one, other = socket.socketpair()
    waiter = _Waiter(cast("Handshake", None), lambda: None, turn)
    waiter._poll = cast("select.poll", _Poll([], [], []))

    async def main() -> None:
        await waiter.wait_readable(one.fileno())

    with one, other:
        other.send(b"x")  # for trio it stays readable
        trio.run(main)
    assert cast("_Poll", waiter._poll).answers == []


def test_a_task_that_ends_lets_the_next_one_see_why(turn: _Turn) -> None:
    """read(2) may say that the mount is gone though poll(2) has not: then only the reading task knows."""

    async def read(tasks: _Tasks) -> None:
        async with turn:
            for _ in range(3):
                tasks.start_soon(_enter, turn, trio.Event())
            await trio.testing.wait_all_tasks_blocked()

    async def main() -> None:
        async with _open_tasks(turn) as tasks:
            tasks.start_soon(read, tasks)

    trio.run(main)
