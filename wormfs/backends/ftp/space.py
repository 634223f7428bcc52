"""How much room a server has, as far as it says."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Final

from wormfs.backends.base import RESERVED_PREFIX
from wormfs.backends.ftp.listing import Type
from wormfs.backends.ftp.names import Names
from wormfs.backends.ftp.server import Server
from wormfs.clock import Clock
from wormfs.model import Space

_UNKNOWN: Final = Space(None, None)
_QUOTA: Final = re.compile(r"Uploaded\s+([KMGT]?)b(?:ytes)?:\s*([\d.]+)/([\d.]+)", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Counted:
    """What has been used of a configured capacity: counted now and then, and added to in between."""

    def __init__(self, clock: Clock, again_s: float) -> None:
        """``again_s``: after how long it is counted anew. Seconds."""
        self._clock = clock
        self._again_s = again_s
        self._lock = threading.Lock()
        self._bytes = 0
        self._at: float | None = None

    def bytes(self, count: Callable[[], int]) -> int:
        """Calls ``count`` when the last count is too old: blocks and raises as that does."""
        with self._lock:
            now = self._clock.monotonic()
            if self._at is None or now - self._at > self._again_s:
                self._bytes, self._at = count(), now
            return self._bytes

    def add(self, size: int) -> None:
        """A file of ours has been added since. Does not wait for a count under way."""
        self._bytes += size


def ask(server: Server, names: Names) -> Space:
    """AVBL (draft-peterson-streamlined-ftp-command-extensions) or proftpd's SITE QUOTA; else unknown."""
    if server.can("AVBL"):
        reply = server.session.command(b"AVBL " + names.path(b""))
        words = re.findall(r"\d+", reply.text[3:])
        if reply.code == 213 and words:
            return Space(None, int(words[0]))
    reply = server.session.command(b"SITE QUOTA")
    match = _QUOTA.search(reply.text) if reply.good else None
    if match is None:
        return _UNKNOWN
    unit = _UNITS[match[1].lower()]
    used, total = (int(float(word) * unit) for word in match.groups()[1:])
    return Space(total, max(0, total - used)) if total else _UNKNOWN


def used_bytes(server: Server, names: Names) -> int:
    """The sum of all sizes below the root, by listing every directory: long for large trees."""
    total = 0
    waiting = [names.path(b"")]
    while waiting:
        place = waiting.pop()
        for seen in server.list(place, place):
            if seen.type is Type.DIRECTORY:
                if not seen.name.startswith(RESERVED_PREFIX):
                    waiting.append(place.rstrip(b"/") + b"/" + seen.name)
            elif seen.type is Type.FILE:
                total += seen.size_bytes
    return total
