"""What a worker has counted, as it travels to the supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wormfs.daemon.messages import Message
from wormfs.fuse.counters import Counters, FailureKind, OperationCount

METRICS = "metrics"
"""The request. Answered from memory: no disk, no backend."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One worker's counts since its session began."""

    operations: dict[str, OperationCount] = field(default_factory=dict)
    failures: dict[FailureKind, int] = field(default_factory=dict)
    log_lines: dict[str, int] = field(default_factory=dict)
    """By level."""


def to_message(counters: Counters, log_lines: Mapping[str, int]) -> Message:
    """The answer to ``METRICS``."""
    return {
        "operations": {
            name: [list(count.buckets), count.total_ns, count.moved_bytes]
            for name, count in counters.operations().items()
        },
        "failures": [
            [kind.operation, kind.reason, kind.errno, kind.refused, times]
            for kind, times in counters.failures().items()
        ],
        "log_lines": dict(log_lines),
    }


def from_message(message: Message) -> Measured:
    """The reverse. Both ends are the same program: anything else raises what Python raises."""
    return Measured(
        {
            name: OperationCount(tuple(buckets), total_ns, moved_bytes)
            for name, (buckets, total_ns, moved_bytes) in message["operations"].items()
        },
        {
            FailureKind(operation, reason, number, refused): times
            for operation, reason, number, refused, times in message["failures"]
        },
        dict(message["log_lines"]),
    )
