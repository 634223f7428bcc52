"""The background check, without a mount: on time, once, bounded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import cast

import pytest
import trio
import trio.testing

from wormfs.backends.base import Backend
from wormfs.clock import NS_PER_S
from wormfs.daemon.health import FAILING_EVERY_S, FIRST_S, Checked, Health, advice, limit_s
from wormfs.errors import Unavailable
from wormfs.model import CheckResult

OK = CheckResult("connect", True)
WARNED = CheckResult("free space", True, "0.5 GiB free", warning=True)
FULL = CheckResult("write", False, "No space left on device")
Outcome = list[CheckResult] | Exception


class LoopClock:
    """trio's clock, which the tests move."""

    def now_ns(self) -> int:
        return int(trio.current_time() * NS_PER_S)

    def monotonic(self) -> float:
        return trio.current_time()

    def boot_s(self) -> float:
        return trio.current_time()


class Checkable:
    """Answers one outcome after the other, the last one for ever."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.times: list[float] = []
        self.release: threading.Event | None = None
        """Each check waits for it before its second step."""
        self.began, self.ended = threading.Event(), threading.Event()

    @property
    def running(self) -> bool:
        return self.began.is_set() and not self.ended.is_set()

    def check(self, *, light: bool = False) -> Iterator[CheckResult]:
        assert light, "the background check must not cost a store many requests"
        self.times.append(trio.from_thread.run_sync(trio.current_time))
        outcome = self.outcomes[0] if len(self.outcomes) == 1 else self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome[0]
        self.began.set()
        if self.release is not None:
            self.release.wait(20)
        yield from outcome[1:]
        self.ended.set()


class Run:
    """Checks that go on while the test moves the clock."""

    def __init__(self, backend: Checkable, interval_s: float, clock: trio.testing.MockClock) -> None:
        self.backend = backend
        self.told: list[Checked] = []
        self._clock = clock
        self._changed = trio.Event()
        self.health = Health(cast("Backend", backend), interval_s, LoopClock(), self._tell)

    def _tell(self, checked: Checked) -> None:
        self.told.append(checked)
        self._changed.set()
        self._changed = trio.Event()

    async def jump(self) -> None:
        """To the next moment at which something is to happen."""
        await trio.testing.wait_all_tasks_blocked()
        self._clock.jump(trio.lowlevel.current_statistics().seconds_to_next_deadline)

    async def checks(self, count: int) -> None:
        """So many more."""
        for _ in range(count):
            told = self._changed
            await self.jump()
            await told.wait()

    async def wait(self, event: threading.Event) -> None:
        assert await trio.to_thread.run_sync(event.wait, 20)


def run(backend: Checkable, interval_s: float, look: Callable[[Run], Awaitable[None]]) -> list[Checked]:
    told: list[Checked] = []

    async def main() -> None:
        one = Run(backend, interval_s, clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.health.run)
            await look(one)
            nursery.cancel_scope.cancel()
        told.extend(one.told)

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)
    return told


def test_the_first_check_comes_soon_and_the_others_at_their_interval() -> None:
    backend = Checkable([OK, WARNED])
    told = run(backend, 900, lambda one: one.checks(3))
    assert backend.times == pytest.approx([FIRST_S, FIRST_S + 900, FIRST_S + 1800], abs=1)
    assert told[0].failed == ()
    message = told[0].to_message()
    assert (message["ok"], message["advice"], message["failing_since_ns"]) == (True, None, None)
    assert message["warnings"] == [{"name": "free space", "detail": "0.5 GiB free"}]
    assert message["at_ns"] == pytest.approx(FIRST_S * NS_PER_S, abs=NS_PER_S)


def test_none_is_made_when_it_is_switched_off() -> None:
    backend = Checkable([OK])

    async def look(one: Run) -> None:
        await one.health.run()

    assert run(backend, 0, look) == []
    assert backend.times == []


def test_a_failure_is_logged_once_and_so_is_the_recovery(caplog: pytest.LogCaptureFixture) -> None:
    backend = Checkable([OK], [OK, FULL], [OK, FULL], [CheckResult("connect", False, "gone")], [OK])
    with caplog.at_level(logging.INFO):
        told = run(backend, 900, lambda one: one.checks(6))
    assert [bool(checked.failed) for checked in told] == [False, True, True, True, False, False]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "ERROR",
            "the background check failed at 'write': No space left on device; " + advice("write"),
        ),
        ("WARNING", "the background check passes again"),
    ]
    assert told[1].to_message()["failed"] == [{"name": "write", "detail": "No space left on device"}]
    assert told[1].to_message()["advice"] == advice("write")
    since = told[1].ended_ns
    assert [checked.failing_since_ns for checked in told] == [None, since, since, since, None, None]
    pauses = [after - before for before, after in zip(backend.times, backend.times[1:], strict=False)]
    assert pauses == pytest.approx([900, *[FAILING_EVERY_S] * 3, 900], abs=1), "seen soon when it is mended"


@pytest.mark.parametrize(
    ("error", "says"),
    [(Unavailable("no route"), "no route"), (RuntimeError("a bug"), "unforeseen: RuntimeError: a bug")],
)
def test_a_driver_that_raises_has_failed(error: Exception, says: str) -> None:
    told = run(Checkable(error), 900, lambda one: one.checks(2))
    assert [result.detail for checked in told for result in checked.failed] == [says, says]


def test_a_check_that_hangs_is_given_up_and_no_other_is_begun() -> None:
    backend = Checkable([OK, OK])
    backend.release = release = threading.Event()

    async def look(one: Run) -> None:
        await one.jump()
        await one.wait(backend.began)
        await one.checks(3)
        assert len(backend.times) == 1, "they never pile up"
        assert backend.running
        release.set()
        await one.wait(backend.ended)
        while one.health._place.borrowed_tokens:
            await trio.to_thread.run_sync(threading.Event().wait, 0.01)  # the thread is on its way back
        await one.checks(1)

    told = run(backend, 900, look)
    assert told[0].took_s == pytest.approx(limit_s(900), abs=1)
    assert told[0].failed == (CheckResult("answer", False, "none within 60 s, after the step 'connect'"),)
    assert told[1].failed == (CheckResult("answer", False, "an earlier check still hangs"),)
    assert told[-1].failed == ()


def test_how_long_a_check_may_take() -> None:
    assert [limit_s(seconds) for seconds in (1, 30, 900)] == [5, 30, 60]


@pytest.mark.parametrize("hangs", [False, True])
def test_a_stop_lets_a_check_come_to_its_end_but_does_not_wait_for_one_that_hangs(hangs: bool) -> None:
    backend = Checkable([OK, OK])
    backend.release = release = threading.Event()

    async def main() -> None:
        one = Run(backend, 900, clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.health.run)
            await one.jump()
            await one.wait(backend.began)
            asked = trio.current_time()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                if hangs:
                    await one.jump()
                else:
                    release.set()
        assert trio.current_time() - asked == (2 if hangs else 0)
        assert backend.running == hangs
        release.set()

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)
