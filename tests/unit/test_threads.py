"""Threads that may be stuck are left alone; those that have begun in earnest are waited for."""

from __future__ import annotations

import threading

import pytest
import trio

from wormfs import threads

LIMIT_S = 10.0


class Work:
    """Looks at something that hangs as long as the test says, then claims, then acts."""

    def __init__(self) -> None:
        self.looking = threading.Event()
        self.answered = threading.Event()
        self.acting = threading.Event()
        self.may_end = threading.Event()
        self.claim = threads.Claim()
        self.refused = threading.Event()

    def run(self, word: str) -> str:
        self.looking.set()
        assert self.answered.wait(LIMIT_S)
        if not self.claim.take():
            self.refused.set()
            return "refused"
        self.acting.set()
        assert self.may_end.wait(LIMIT_S)
        if word == "raise":
            raise ValueError(word)
        return word


async def run(work: Work, limiter: trio.CapacityLimiter, patience_s: float, word: str = "done") -> str:
    return await threads.run_claiming(
        work.run, word, claim=work.claim, patience_s=patience_s, limiter=limiter
    )


def test_the_result_and_the_error_come_back() -> None:
    async def main() -> None:
        limiter = threads.limiter(1)
        work = Work()
        work.answered.set()
        work.may_end.set()
        assert await run(work, limiter, LIMIT_S) == "done"
        with pytest.raises(ValueError, match="raise"):
            other = Work()
            other.answered.set()
            other.may_end.set()
            await run(other, limiter, LIMIT_S, "raise")
        assert limiter.borrowed_tokens == 0

    trio.run(main)


def test_a_stuck_thread_is_left_alone_and_may_not_act_any_more() -> None:
    async def main() -> None:
        limiter = threads.limiter(1)
        work = Work()
        with pytest.raises(threads.Stuck):
            await run(work, limiter, 0.01)
        # Its place is free for the next, though the thread still hangs.
        assert limiter.borrowed_tokens == 0
        assert work.looking.is_set()
        work.answered.set()
        assert await trio.to_thread.run_sync(work.refused.wait, LIMIT_S)
        assert not work.acting.is_set()

    trio.run(main)


def test_one_that_acts_is_waited_for_whatever_the_patience_and_though_cancelled() -> None:
    async def main() -> None:
        limiter = threads.limiter(1)
        work = Work()
        work.answered.set()
        results: list[str] = []

        async def call() -> None:
            results.append(await run(work, limiter, 0.01))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            assert await trio.to_thread.run_sync(work.acting.wait, LIMIT_S)
            await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
                assert limiter.borrowed_tokens == 1
                work.may_end.set()
        assert results == ["done"]

    trio.run(main)


def test_a_cancelled_caller_does_not_wait_for_one_that_only_looks() -> None:
    async def main() -> None:
        limiter = threads.limiter(1)
        work = Work()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, work, limiter, LIMIT_S)
            assert await trio.to_thread.run_sync(work.looking.wait, LIMIT_S)
            nursery.cancel_scope.cancel()
        assert limiter.borrowed_tokens == 0
        work.answered.set()
        assert await trio.to_thread.run_sync(work.refused.wait, LIMIT_S)

    trio.run(main)


def test_what_comes_next_goes_on_in_the_thread_when_the_caller_has_its_answer() -> None:
    async def main() -> None:
        limiter = threads.limiter(1)
        may_go_on, told, threads_seen = threading.Event(), threading.Event(), []

        def function() -> str:
            threads_seen.append(threading.get_ident())
            return "sealed"

        def then(result: str) -> None:
            assert may_go_on.wait(LIMIT_S)
            threads_seen.append(threading.get_ident())
            told.set()

        result = await threads.run_claiming(
            function, claim=threads.Claim(), patience_s=LIMIT_S, limiter=limiter, then=then
        )
        assert result == "sealed"
        # The caller goes on, and its place is free, while the thread has not come further.
        assert not told.is_set()
        assert limiter.borrowed_tokens == 0
        may_go_on.set()
        assert await trio.to_thread.run_sync(told.wait, LIMIT_S)
        assert threads_seen[0] == threads_seen[1] != threading.get_ident()

    trio.run(main)


def test_nothing_comes_next_after_an_error() -> None:
    async def main() -> None:
        came: list[object] = []
        done = threading.Event()

        def fail() -> object:
            raise ValueError("not sealed")

        with pytest.raises(ValueError, match="not sealed"):
            await threads.run_claiming(
                fail, claim=threads.Claim(), patience_s=LIMIT_S, limiter=threads.limiter(1), then=came.append
            )
        # The thread is used again for the next one, so it has come to its end.
        await trio.to_thread.run_sync(done.set)
        assert came == []

    trio.run(main)
