"""Trying a call of a server again: for drivers, whose every call has an end of its own.

Only for what may be repeated without harm. Long outages are not waited for here: after ``total_s`` the
error goes up, and the committer tries the whole file again later.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from wormfs import clock
from wormfs.errors import Unavailable

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a driver goes on by itself. Seconds."""

    total_s: float = 20.0
    first_delay_s: float = 0.1
    last_delay_s: float = 3.0


def retrying(
    call: Callable[[], Result],
    patience: Patience = Patience(),
    *,
    before_again: Callable[[], None] | None = None,
    monotonic: Callable[[], float] = clock.monotonic,
    pause: Callable[[float], None] = clock.pause,
) -> Result:
    """Call until it does not raise Unavailable, or ``patience`` is at its end. Blocks.

    Pauses grow twofold with jitter, so that many clients do not come back at once.
    ``before_again`` runs before each further try, to connect again, say.
    """
    deadline = monotonic() + patience.total_s
    delay_s = patience.first_delay_s
    while True:
        try:
            return call()
        except Unavailable:
            pause_s = delay_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter is no secret)
            if monotonic() + pause_s >= deadline:
                raise
        pause(pause_s)
        delay_s = min(delay_s * 2, patience.last_delay_s)
        if before_again is not None:
            before_again()
