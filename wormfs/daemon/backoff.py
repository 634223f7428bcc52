"""Growing pauses between attempts at something that may work again later."""

from __future__ import annotations


class Backoff:
    """``first_s``, then twice as long each time, up to ``longest_s``."""

    def __init__(self, first_s: float, longest_s: float):
        assert 0 < first_s <= longest_s
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next_s(self) -> float:
        """How long to wait before the next attempt, in seconds."""
        pause_s = self._next_s
        self._next_s = min(self._next_s * 2, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """It has worked for a while: begin with the short pause again."""
        self._next_s = self._first_s
