"""Nothing but FUSEError leaves a handler."""

from __future__ import annotations

import errno
import inspect
import logging
from collections.abc import Awaitable, Callable

import pyfuse3
import pytest
import trio

from wormfs.errors import Busy, Sealed, Unavailable
from wormfs.fuse.guard import guarded, guarded_unanswered
from wormfs.fuse.operations import WormOperations
from wormfs.fuse.root import RootOperations

HANDLERS = sorted(
    name
    for name, member in vars(pyfuse3.Operations).items()
    if not name.startswith("_") and (inspect.iscoroutinefunction(member) or callable(member))
)


def number_of(handler: Callable[[], Awaitable[object]]) -> int:
    with pytest.raises(pyfuse3.FUSEError) as raised:
        trio.run(handler)
    return int(raised.value.errno)


def raising(error: BaseException) -> Callable[[], Awaitable[object]]:
    @guarded
    async def handler() -> None:
        raise error

    return handler


def test_handlers_of_pyfuse3_are_known() -> None:
    assert {"lookup", "read", "write", "forget", "release"} <= set(HANDLERS)


@pytest.mark.parametrize("operations", [WormOperations, RootOperations])
def test_every_handler_is_guarded(operations: type[pyfuse3.Operations]) -> None:
    own = [name for name in HANDLERS if name in vars(operations)]
    assert own
    assert [name for name in own if not hasattr(vars(operations)[name], "__guarded__")] == []


def test_worm_operations_answer_everything_that_a_mount_is_asked() -> None:
    not_needed = {"init", "poll", "stacktrace"}
    assert [name for name in HANDLERS if name not in vars(WormOperations)] == sorted(
        not_needed & set(HANDLERS)
    )


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (Busy("x"), errno.EBUSY),
        (Sealed("x"), errno.EPERM),
        (pyfuse3.FUSEError(errno.EXDEV), errno.EXDEV),
        (ExceptionGroup("", [Busy("x")]), errno.EBUSY),
        (ExceptionGroup("", [ExceptionGroup("", [pyfuse3.FUSEError(errno.EXDEV)])]), errno.EXDEV),
    ],
    ids=repr,
)
def test_foreseen_errors_become_their_errno_without_a_traceback(
    error: BaseException, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert number_of(raising(error)) == number
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    "error",
    [ValueError("bug"), AssertionError(), ExceptionGroup("", [Busy("x"), Sealed("y")]), OSError(2, "x")],
    ids=repr,
)
def test_unforeseen_errors_become_eio_and_one_traceback(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    assert number_of(raising(error)) == errno.EIO
    [record] = caplog.records
    assert record.levelno == logging.ERROR and record.exc_info is not None


def test_an_error_from_a_nursery_is_unwrapped() -> None:
    @guarded
    async def handler() -> None:
        async def fail() -> None:
            raise Unavailable("down")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    assert number_of(handler) == errno.EIO


def test_forget_raises_nothing_at_all(caplog: pytest.LogCaptureFixture) -> None:
    @guarded_unanswered
    async def forget() -> None:
        raise ValueError("bug")

    trio.run(forget)
    assert "unforeseen failure in forget" in caplog.text


def test_cancellation_goes_through() -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:

            @guarded
            async def handler() -> None:
                scope.cancel()
                await trio.sleep_forever()

            await handler()
        assert scope.cancelled_caught

    trio.run(main)
