"""What one FUSE session has done: operations, their times, bytes, failures by reason.

Counted around every handler, so it has to cost next to nothing: a write of 8 KiB takes the whole
daemon about 30 µs, of which this is 0.4 µs (``benchmarks/counters.py`` measures it). Hence closures over
plain integers instead of objects with methods, and two looks at a clock instead of one per stage.
All of it lives on the event loop's thread: a number is never half written, and no lock is needed.
"""

from __future__ import annotations

import errno
import inspect
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, cast

import pyfuse3

from wormfs.clock import precise_ns
from wormfs.errors import Refused, WormfsError
from wormfs.fuse.guard import cause_of

BOUNDS_NS: Final = (
    20_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    5_000_000,
    25_000_000,
    100_000_000,
    500_000_000,
    2_500_000_000,
    10_000_000_000,
    60_000_000_000,
)
"""Upper ends of the buckets: from a write into the page cache to a close that waits for a backend."""

_Handler = Callable[..., Coroutine[Any, Any, Any]]

_MOVED: Final[dict[str, Callable[[Any], int]]] = {"read": len, "write": int}
"""How many bytes an answer stands for."""


@dataclass(frozen=True, slots=True)
class OperationCount:
    """One kind of request. ``buckets`` has one more than ``BOUNDS_NS``: what took longer."""

    buckets: tuple[int, ...]
    total_ns: int
    moved_bytes: int

    @property
    def count(self) -> int:
        """How many were answered, well or with an error."""
        return sum(self.buckets)


@dataclass(frozen=True, slots=True)
class FailureKind:
    """What an operation was answered with, and why."""

    operation: str
    reason: str
    """The error of ``wormfs.errors`` in snake case; where there was none, the errno in lower case."""
    errno: str
    refused: bool
    """The rules of a write-once file system forbid it; nothing is broken."""


class Counters:
    """The counts of one session. Not for other threads."""

    def __init__(self) -> None:
        self._looks: dict[str, Callable[[], OperationCount]] = {}
        self._failures: Counter[FailureKind] = Counter()

    def watch(self, operations: pyfuse3.Operations) -> pyfuse3.Operations:
        """The same attributes and handlers in an object of its own, with every handler counted."""
        members: dict[str, Any] = {
            name: getattr(operations, name) for name in dir(operations) if not name.startswith("_")
        }
        for name, member in members.items():
            if inspect.iscoroutinefunction(member):
                members[name] = self._counted(name, member)
        return cast("pyfuse3.Operations", SimpleNamespace(**members))

    def operations(self) -> dict[str, OperationCount]:
        """By the name of the handler; those that were never asked for are left out."""
        counts = {name: look() for name, look in self._looks.items()}
        return {name: count for name, count in counts.items() if count.count}

    def failures(self) -> dict[FailureKind, int]:
        """How often each kind of failure was answered."""
        return dict(self._failures)

    def _counted(self, name: str, handler: _Handler) -> _Handler:
        buckets = [0] * (len(BOUNDS_NS) + 1)
        total_ns = moved_bytes = 0
        measure = _MOVED.get(name)

        async def counted(*arguments: Any) -> Any:
            nonlocal total_ns, moved_bytes
            started_ns = precise_ns()
            try:
                answer = await handler(*arguments)
            except pyfuse3.FUSEError as error:
                taken_ns = precise_ns() - started_ns
                total_ns += taken_ns
                buckets[bisect_left(BOUNDS_NS, taken_ns)] += 1
                self._failures[_kind_of(name, error)] += 1
                raise
            taken_ns = precise_ns() - started_ns
            total_ns += taken_ns
            buckets[bisect_left(BOUNDS_NS, taken_ns)] += 1
            if measure is not None:
                moved_bytes += measure(answer)
            return answer

        def look() -> OperationCount:
            return OperationCount(tuple(buckets), total_ns, moved_bytes)

        self._looks[name] = look
        return counted


def _kind_of(operation: str, error: pyfuse3.FUSEError) -> FailureKind:
    number = int(error.errno)
    name = errno.errorcode.get(number, str(number))
    cause = cause_of(error.__cause__) if isinstance(error.__cause__, Exception) else None
    if isinstance(cause, WormfsError):
        return FailureKind(operation, _snake_case(type(cause).__name__), name, isinstance(cause, Refused))
    if cause is not None and not isinstance(cause, pyfuse3.FUSEError):
        return FailureKind(operation, "unforeseen", name, refused=False)
    return FailureKind(operation, name.lower(), name, refused=number == errno.EPERM)


def _snake_case(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")
