"""One look for many who want to know what is so from now on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Seen = TypeVar("Seen")


class SharedLook(Generic[Seen]):
    """A look that costs a request. Safe from any thread."""

    def __init__(self, look: Callable[[], Seen]) -> None:
        self._look = look
        self._changed = threading.Condition()
        self._begun = 0
        self._looking = False
        self._seen: tuple[int, Seen] | None = None
        """The last look that came to an end, and its number."""

    def fresh(self) -> Seen:
        """What a look has seen that began after this call did. Blocks. Raises what the look raises."""
        with self._changed:
            wanted = self._begun + 1
            while self._looking and not self._has(wanted):
                self._changed.wait()
            if self._has(wanted):
                assert self._seen is not None
                return self._seen[1]
            self._looking = True
            self._begun += 1
            number = self._begun
        try:
            seen = self._look()
            with self._changed:
                self._seen = (number, seen)
            return seen
        finally:
            with self._changed:
                self._looking = False
                self._changed.notify_all()

    def _has(self, wanted: int) -> bool:
        return self._seen is not None and self._seen[0] >= wanted
