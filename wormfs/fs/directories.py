"""Directories that were looked at a moment ago, at backends where nothing about a directory can change.

The kernel may keep a directory's attributes for ``directory_cache``, but forgets them at each file that is
made in it, and asks again before the next one. That question costs a trip to the server for each file.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from wormfs.backends.base import Traits
from wormfs.clock import Clock
from wormfs.model import Key, Kind, ObjectInfo

_KEPT: Final = 1024


class KnownDirectories:
    """For the event loop."""

    def __init__(self, traits: Traits, clock: Clock, kept_s: float) -> None:
        """``kept_s``: as long as the kernel may keep them. Seconds."""
        self._kept_s = 0.0 if traits.inline or traits.keeps_directory_attributes else kept_s
        self._clock = clock
        self._known: OrderedDict[Key, tuple[ObjectInfo, float]] = OrderedDict()

    def get(self, key: Key) -> ObjectInfo | None:
        """What was seen less than that long ago."""
        known = self._known.get(key)
        if known is None or known[1] < self._clock.monotonic():
            return None
        return known[0]

    def put(self, info: ObjectInfo) -> None:
        """It was seen now. What is no directory is not kept."""
        if info.kind is not Kind.DIRECTORY or not self._kept_s:
            return
        self._known[info.key] = (info, self._clock.monotonic() + self._kept_s)
        self._known.move_to_end(info.key)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)

    def drop(self, key: Key) -> None:
        """It is gone."""
        self._known.pop(key, None)
