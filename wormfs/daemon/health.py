"""The background check: a mounted backend is tried out again and again, before an application finds out.

What ``wormfs check`` does, but with few requests (``light``), on the backend that is mounted, in a thread
of its own. A check that hangs is given up after a while and counts as failed; as long as its thread lives
no other one is begun, so that a dead disk holds one thread and not one for each interval. Nobody waits for
a check: commits and readers have threads of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import trio

from wormfs import threads
from wormfs.backends.base import Backend
from wormfs.clock import Clock
from wormfs.daemon.messages import Message
from wormfs.errors import WormfsError
from wormfs.model import CheckResult

log = logging.getLogger(__name__)

FIRST_S: Final = 5.0
"""After the mount: whoever waited for it comes first."""
FAILING_EVERY_S: Final = 60.0
"""At most so long between two checks while they fail: what was mended shall be seen to be."""
_SHORTEST_LIMIT_S: Final = 5.0
_LONGEST_LIMIT_S: Final = 60.0
_LAST_WORDS_S: Final = 2.0
"""For a check that is under way when the worker stops: cut off, it would leave its hidden file behind."""
_MAX_TEXT: Final = 1000

_ADVICE: Final = MappingProxyType(
    {
        "answer": "see that it still works and can be reached from this host",
        "connect": "see that it is there and can be reached from this host",
        "authenticate": "see that its user, keys and permissions are as they were",
        "write": "see whether it is full, read-only, or no longer permits writing",
        "overwrite refused": "stop writing to it until you know why: files could be replaced there",
        "read": "its disks may be failing: wormfs verify",
        "free space": "make room",
        "clock": "put the clocks right",
    }
)


@dataclass(frozen=True, slots=True)
class Checked:
    """One check that came to its end or was given up."""

    ended_ns: int
    took_s: float
    failed: tuple[CheckResult, ...]
    """Empty: all is well."""
    warnings: tuple[CheckResult, ...] = ()
    failing_since_ns: int | None = None
    """When the first check of an unbroken row of failed ones ended."""

    def to_message(self) -> Message:
        """As it travels, and as ``wormfs status --json`` shows it."""
        return {
            "at_ns": self.ended_ns,
            "ok": not self.failed,
            "took_s": round(self.took_s, 3),
            "failing_since_ns": self.failing_since_ns,
            "failed": [_result_to_message(result) for result in self.failed],
            "warnings": [_result_to_message(result) for result in self.warnings],
            "advice": advice(self.failed[0].name) if self.failed else None,
        }


def advice(step: str) -> str:
    """What to do when this step of a check fails; steps as ``Backend.check`` names them."""
    return _ADVICE.get(step, "mend what it says")


def limit_s(interval_s: float) -> float:
    """How long a check may take: as long as the interval, but at least 5 s and at most a minute."""
    return min(max(interval_s, _SHORTEST_LIMIT_S), _LONGEST_LIMIT_S)


class Health:
    """Checks one backend while it is mounted."""

    def __init__(
        self, backend: Backend, interval_s: float, clock: Clock, tell: Callable[[Checked], None]
    ) -> None:
        """
        Args:
            interval_s: between the end of a check and the next one; 0 for none at all.
            tell: called on the event loop with each result.
        """
        self._backend = backend
        self._interval_s = interval_s
        self._limit_s = limit_s(interval_s)
        self._clock = clock
        self._tell = tell
        self._last: Checked | None = None
        # An abandoned thread keeps its place until it comes back.
        self._place = threads.limiter(1)

    async def run(self) -> None:
        """Check until cancelled; a check under way then has two more seconds to clean up. Raises nothing."""
        if self._interval_s <= 0:
            return
        await trio.sleep(min(FIRST_S, self._interval_s))
        while True:
            checked = await self._check()
            self._note(checked)
            await trio.sleep(min(self._interval_s, FAILING_EVERY_S) if checked.failed else self._interval_s)

    async def _check(self) -> Checked:
        started = self._clock.monotonic()
        results: list[CheckResult] = []
        began = not self._place.borrowed_tokens
        finished = began and await self._try(results)
        # From here on the thread, if it goes on, talks to nobody.
        found = tuple(results)
        failed = tuple(result for result in found if not result.passed)
        if not finished:
            failed += (self._given_up(found, began=began),)
        ended_ns = self._clock.now_ns()
        since_ns = (self._last.failing_since_ns if self._last else None) or ended_ns
        return Checked(
            ended_ns,
            self._clock.monotonic() - started,
            failed,
            tuple(result for result in found if result.passed and result.warning),
            since_ns if failed else None,
        )

    async def _try(self, results: list[CheckResult]) -> bool:
        """Whether the check came to its end in time."""
        finished = False
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._limit_s) as scope:
                nursery.start_soon(_hurry, scope)
                await threads.run_abandonable(self._collect, results, limiter=self._place)
                finished = True
            nursery.cancel_scope.cancel()
        return finished

    def _collect(self, results: list[CheckResult]) -> None:
        """In the thread."""
        try:
            for result in self._backend.check(light=True):
                results.append(result)  # noqa: PERF402 (looked at while it runs)
        except WormfsError as error:
            results.append(CheckResult("check", False, str(error)))
        except Exception as error:
            log.exception("the check failed in a way that nobody foresaw")
            results.append(CheckResult("check", False, f"unforeseen: {type(error).__name__}: {error}"))

    def _given_up(self, found: tuple[CheckResult, ...], *, began: bool) -> CheckResult:
        if not began:
            return CheckResult("answer", False, "an earlier check still hangs")
        where = f"after the step '{found[-1].name}'" if found else "at the first step"
        return CheckResult("answer", False, f"none within {self._limit_s:g} s, {where}")

    def _note(self, checked: Checked) -> None:
        before, self._last = self._last, checked
        failed_before = before is not None and bool(before.failed)
        if checked.failed and not failed_before:
            first = checked.failed[0]
            log.error(
                "the background check failed at '%s': %s; %s", first.name, first.detail, advice(first.name)
            )
        elif failed_before and not checked.failed:
            log.warning("the background check passes again")
        self._tell(checked)


async def _hurry(scope: trio.CancelScope) -> None:
    """When the worker stops, the check that is under way must come to its end soon."""
    try:
        await trio.sleep_forever()
    finally:
        scope.deadline = min(scope.deadline, trio.current_time() + _LAST_WORDS_S)


def _result_to_message(result: CheckResult) -> Message:
    return {"name": result.name, "detail": result.detail[:_MAX_TEXT]}
