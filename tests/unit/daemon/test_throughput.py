"""Bytes a second, from counters of a session that the test moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from wormfs.daemon.throughput import Throughput
from wormfs.fuse.counters import Counters, OperationCount


@dataclass
class Moved:
    """Stands for a session's counters and for a clock."""

    read_bytes: int = 0
    written_bytes: int = 0
    at: float = 100.0

    def operations(self) -> dict[str, OperationCount]:
        counts = {"read": self.read_bytes, "write": self.written_bytes}
        return {name: OperationCount((1,), 1, moved) for name, moved in counts.items() if moved}

    def now_ns(self) -> int:
        raise AssertionError

    def boot_s(self) -> float:
        raise AssertionError

    def monotonic(self) -> float:
        return self.at


def test_throughput_is_that_of_the_last_ten_seconds() -> None:
    moved = Moved()
    throughput = Throughput(cast("Counters", moved), moved)
    assert throughput.to_message() is None
    throughput.look()
    moved.at += 0.5
    assert throughput.to_message() is None, "too early to tell"
    moved.at += 1.5
    moved.read_bytes, moved.written_bytes = 4000, 200
    assert throughput.to_message() == {
        "read_bytes_per_s": 2000,
        "written_bytes_per_s": 100,
        "over_s": 2.0,
    }
    for _ in range(20):
        throughput.look()
        moved.at += 1
    assert throughput.to_message() == {"read_bytes_per_s": 0, "written_bytes_per_s": 0, "over_s": 10.0}
