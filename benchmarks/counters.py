"""What counting costs per request: ``python benchmarks/counters.py``. Processor time, without a mount."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyfuse3

from wormfs.fuse.counters import Counters

CALLS, ROUNDS = 200_000, 5
BLOCK = b"x" * 8192


class Answering(pyfuse3.Operations):
    """Handlers that do nothing."""

    async def read(self, fh: Any, off: int, size: int) -> bytes:
        return BLOCK

    async def write(self, fh: Any, off: int, buf: bytes) -> int:
        return len(buf)

    async def getattr(self, inode: Any, ctx: Any) -> Any:
        return None


def call_ns(handler: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> float:
    """Processor time of one call, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.thread_time_ns()
        for _ in range(CALLS):
            running = handler(*arguments)
            try:  # noqa: SIM105 (suppress would cost more than what is measured)
                running.send(None)
            except StopIteration:
                pass
        best = min(best, (time.thread_time_ns() - begun) / CALLS)
    return best


def main() -> None:
    plain, counted = Answering(), Counters().watch(Answering())
    for name, arguments in (("write", (1, 0, BLOCK)), ("read", (1, 0, 8192)), ("getattr", (1, None))):
        without = call_ns(getattr(plain, name), *arguments)
        print(f"{name:8} +{call_ns(getattr(counted, name), *arguments) - without:.0f} ns")


if __name__ == "__main__":
    main()
