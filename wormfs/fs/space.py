"""Free space as statfs shows it: asked for rarely, and never a reason to fail."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio

from wormfs import threads
from wormfs.backends.base import Backend
from wormfs.clock import Clock
from wormfs.errors import WormfsError
from wormfs.model import Space

log = logging.getLogger(__name__)

UNKNOWN_FREE_BYTES = 1 << 50
"""Shown where a backend cannot know: above the 1 GiB that Moodle wants, below PHP's 2^63."""

_UNKNOWN_FILES = 1 << 30
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class ShownSpace:
    """Numbers without gaps, for statfs."""

    total_bytes: int
    free_bytes: int
    total_files: int
    free_files: int


class SpaceView:
    """One backend's space, at most ``cache_s`` old; the last good value when it cannot be had."""

    def __init__(self, backend: Backend, clock: Clock, cache_s: float):
        self._backend = backend
        self._clock = clock
        self._cache_s = cache_s
        self._known = Space(None, None)
        self._asked_at = float("-inf")
        self._lock = trio.Lock()
        # A backend that hangs keeps its thread; it must not have another one for each time somebody asks.
        self._thread = threads.limiter(1)

    async def space(self) -> Space:
        """What the backend said last. Waits for it only when the answer is too old."""
        async with self._lock:
            if self._clock.monotonic() - self._asked_at >= self._cache_s:
                # A backend that hangs must not hang df: the question is left alone with its own time limit.
                with trio.move_on_after(_PATIENCE_S):
                    try:
                        self._known = await threads.run_abandonable(self._backend.space, limiter=self._thread)
                    except WormfsError as error:
                        log.warning("%s: free space is not known: %s", self._backend.name, error)
                self._asked_at = self._clock.monotonic()
        return self._known


def shown(space: Space) -> ShownSpace:
    """Fill in what a backend cannot know."""
    free = UNKNOWN_FREE_BYTES if space.free_bytes is None else space.free_bytes
    total = free if space.total_bytes is None else space.total_bytes
    files = _UNKNOWN_FILES if space.total_files is None else space.total_files
    free_files = files if space.free_files is None else space.free_files
    return ShownSpace(max(total, free), free, files, free_files)
