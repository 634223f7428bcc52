"""How many bytes a second go through a mount, from the counters of its session."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import trio

from wormfs.clock import Clock
from wormfs.daemon.messages import Message
from wormfs.fuse.counters import Counters

WINDOW_S: Final = 10.0
_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    read_bytes: int
    written_bytes: int


class Throughput:
    """Looks at the counters each second and remembers ten of them."""

    def __init__(self, counters: Counters, clock: Clock):
        """``counters``: those of one session."""
        self._counters = counters
        self._clock = clock
        self._looks: deque[_Look] = deque(maxlen=int(WINDOW_S / _EVERY_S))

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await trio.sleep(_EVERY_S)

    def look(self) -> None:
        """Remember what the counters say now."""
        self._looks.append(self._now())

    def to_message(self) -> Message | None:
        """Bytes a second over the last ten seconds, or since the mount; ``None`` before the first second."""
        now = self._now()
        over_s = now.at - self._looks[0].at if self._looks else 0.0
        if over_s < _EVERY_S:
            return None
        first = self._looks[0]
        return {
            "read_bytes_per_s": round((now.read_bytes - first.read_bytes) / over_s),
            "written_bytes_per_s": round((now.written_bytes - first.written_bytes) / over_s),
            "over_s": round(over_s, 1),
        }

    def _now(self) -> _Look:
        operations = self._counters.operations()
        read, write = operations.get("read"), operations.get("write")
        return _Look(
            self._clock.monotonic(), read.moved_bytes if read else 0, write.moved_bytes if write else 0
        )
