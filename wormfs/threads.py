"""Blocking work, off the event loop: the only place that knows ``trio.to_thread``.

A round trip costs 60–100 µs and the thread itself cannot be stopped. ``run`` therefore waits for
the end even when it is cancelled, so that nothing durable goes on behind its caller's back.
``run_abandonable`` is for questions whose answer may be thrown away; whoever uses it says what
becomes of the work that goes on.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

import outcome
import trio

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


async def run(
    function: Callable[[*Arguments], Result],
    *arguments: *Arguments,
    limiter: trio.CapacityLimiter | None = None,
) -> Result:
    """Call ``function`` in a thread and wait for it to end, cancelled or not.

    Args:
        limiter: how many may run at once; ``None`` shares trio's own 40 threads.

    Raises whatever ``function`` raises. A checkpoint; a cancellation that arrives while the
    function runs is delivered at the next one.
    """
    return await trio.to_thread.run_sync(function, *arguments, limiter=limiter)


async def run_abandonable(
    function: Callable[[*Arguments], Result],
    *arguments: *Arguments,
    limiter: trio.CapacityLimiter | None = None,
) -> Result:
    """As ``run``, but a cancellation returns at once and leaves the function running alone.

    Only for work without consequences, such as asking a mount that may hang.
    """
    return await trio.to_thread.run_sync(function, *arguments, limiter=limiter, abandon_on_cancel=True)


class Stuck(Exception):
    """A thread has not come to the point in time, and is left alone."""


class Claim:
    """Decides once between a thread that may be stuck and the event loop that loses patience with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether the caller is the first to take it. From any thread; does not block."""
        return self._lock.acquire(blocking=False)


async def run_claiming(
    function: Callable[[*Arguments], Result],
    *arguments: *Arguments,
    claim: Claim,
    patience_s: float,
    limiter: trio.CapacityLimiter,
    then: Callable[[Result], None] | None = None,
) -> Result:
    """Call ``function`` in a thread. It first looks at something that may hang, then takes ``claim``
    and, only if that is granted, does what has consequences.

    Once it has the claim it is waited for, cancelled or not. If it has not within ``patience_s`` seconds, or
    when the caller is cancelled before, the claim is taken away from it, the thread is left alone, and
    its place under ``limiter`` is free again.

    ``then`` is given the result in the same thread, when the caller has gone on already: for what comes next
    and nobody waits for. It must not raise.

    Raises Stuck then, trio.Cancelled, and whatever ``function`` raises.
    """
    place = object()
    await limiter.acquire_on_behalf_of(place)
    task, loop = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
    left_alone = False

    def finish(result: outcome.Outcome[Result]) -> None:
        if not left_alone:
            limiter.release_on_behalf_of(place)
            trio.lowlevel.reschedule(task, result)

    def deliver(result: outcome.Outcome[Result]) -> None:
        # After the end of the loop nobody waits any more.
        with contextlib.suppress(trio.RunFinishedError):
            loop.run_sync_soon(finish, result)

    def abort(_: object) -> trio.lowlevel.Abort:
        nonlocal left_alone
        if not claim.take():
            return trio.lowlevel.Abort.FAILED
        left_alone = True
        limiter.release_on_behalf_of(place)
        return trio.lowlevel.Abort.SUCCEEDED

    def work() -> None:
        result = outcome.capture(function, *arguments)
        deliver(result)
        if then is not None and isinstance(result, outcome.Value):
            then(result.value)

    trio.lowlevel.start_thread_soon(work, lambda _: None)
    with trio.move_on_after(patience_s):
        result: Result = await trio.lowlevel.wait_task_rescheduled(abort)
        return result
    raise Stuck


def from_thread(function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """Call ``function`` on the event loop from a thread that ``run`` started; waits for its result.

    Raises what ``function`` raises, and ``trio.RunFinishedError`` when the loop has ended.
    """
    return trio.from_thread.run_sync(function, *arguments)


def check_cancelled() -> None:
    """In a thread that ``run`` started: raise trio.Cancelled when its caller has been cancelled.

    For long work without consequences that need not be finished then.
    """
    trio.from_thread.check_cancelled()


def within(timeout_s: float, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """Call ``function`` in a thread of its own and wait for it ``timeout_s`` seconds. Blocks.

    Raises TimeoutError when it takes longer (it is then left alone, and does not keep the process
    from ending), and whatever ``function`` raises.
    """
    outcome: Future[Result] = Future()

    def work() -> None:
        try:
            outcome.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 (handed to whoever waits)
            outcome.set_exception(error)

    threading.Thread(target=work, name="within", daemon=True).start()
    return outcome.result(timeout_s)


def limiter(at_once: int) -> trio.CapacityLimiter:
    """A limit for ``run``: how many threads one kind of work may take."""
    return trio.CapacityLimiter(at_once)


class Doorway:
    """Through which any thread asks the event loop, and gives up when the loop has no time for it."""

    def __init__(self, nursery: trio.Nursery):
        """On the event loop: the answers are worked out in tasks of ``nursery``."""
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()

    def ask(self, question: Callable[[], Awaitable[Result]], timeout_s: float) -> Result:
        """Await ``question()`` on the loop; wait ``timeout_s`` seconds for it. Blocks.

        Raises TimeoutError when there is no answer by then (it is worked out all the same, and forgotten)
        or the loop is at its end, and whatever ``question`` raises.
        """
        answer: Future[Result] = Future()

        async def work() -> None:
            try:
                answer.set_result(await question())
            except Exception as error:  # noqa: BLE001 (handed to whoever waits)
                answer.set_exception(error)

        def begin() -> None:
            # A nursery that is closing takes no tasks, and says so with RuntimeError.
            with contextlib.suppress(RuntimeError):
                self._nursery.start_soon(work)

        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(begin)
        return answer.result(timeout_s)


class Beside:
    """A few threads for calls that run beside the thread that asks: two disks' waits become one."""

    def __init__(self, at_once: int):
        """``at_once``: how many calls may run; more wait for their turn."""
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="beside")

    def start(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Future[Result]:
        """Begin ``function``; its ``result()`` waits for the end and raises what it raises."""
        return self._pool.submit(function, *arguments)

    def close(self) -> None:
        """Wait for what runs and end the threads."""
        self._pool.shutdown()
