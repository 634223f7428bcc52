"""Space that stays free, so that "no room" is said early, where the application sees it.

PHP ignores the result of close(2), so a full disk must be told by create or write; and what has been
accepted must be able to come to its end. Therefore new bytes stop while there is still this much left.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeAlias

from wormfs.clock import Clock
from wormfs.errors import OutOfSpace
from wormfs.oserrors import translated

DEFAULT_BYTES: Final = 1 << 30
DEFAULT_PERCENT: Final = 5.0
MEASURE_EVERY_BYTES: Final = 16 << 20
MEASURE_EVERY_S: Final = 1.0


Reserve: TypeAlias = Callable[[int], int]
"""Bytes to keep free on a file system of so many bytes."""


def default_reserve(total_bytes: int) -> int:
    """1 GiB or 5 %, whichever is less."""
    return min(DEFAULT_BYTES, int(total_bytes * DEFAULT_PERCENT / 100))


class SpaceReserve:
    """Watches the free space of one file system.

    Callable from several threads; they may then measure a little later than said, never by more than
    what they write at the same moment.
    """

    __slots__ = ("_backend", "_budget_bytes", "_clock", "_directory", "_measure_at", "_reserve")

    def __init__(
        self, directory: str | int, clock: Clock, reserve: Reserve = default_reserve, backend: str = ""
    ):
        """``directory``: a path or descriptor on the file system."""
        self._directory = directory
        self._clock = clock
        self._reserve = reserve
        self._backend = backend
        self._budget_bytes = 0
        self._measure_at = clock.monotonic()

    def check(self, wanted_bytes: int) -> None:
        """Return if ``wanted_bytes`` more can be written without touching the reserve.

        Asks the file system at most every 16 MiB or 1 s, except when the answer is no: then every
        time, so that room which somebody makes is seen at once. Does not block on anything but that.

        Raises OutOfSpace.
        """
        self._budget_bytes -= wanted_bytes
        if self._budget_bytes < 0 or self._clock.monotonic() >= self._measure_at:
            self._measure(wanted_bytes)

    def free_bytes(self) -> int:
        """What may still be written now, freshly measured; negative inside the reserve."""
        try:
            facts = os.statvfs(self._directory)
        except OSError as error:
            raise translated(error, self._backend, None, "see how much space is free") from error
        # f_bavail: what root alone may use is not ours, and delayed allocations are counted already.
        return facts.f_bavail * facts.f_frsize - self._reserve(facts.f_blocks * facts.f_frsize)

    def _measure(self, wanted_bytes: int) -> None:
        left_bytes = self.free_bytes() - wanted_bytes
        if left_bytes < 0:
            self._budget_bytes = 0
            self._measure_at = self._clock.monotonic()
            raise OutOfSpace(
                f"{wanted_bytes} more bytes would leave less free space than the spool's reserve; "
                "make room or lower spool_reserve",
                backend=self._backend,
            )
        self._budget_bytes = min(left_bytes, MEASURE_EVERY_BYTES)
        self._measure_at = self._clock.monotonic() + MEASURE_EVERY_S
