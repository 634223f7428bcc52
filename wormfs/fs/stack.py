"""One backend, ready to be mounted: spool, committer and file system, put together in one place."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from wormfs import threads
from wormfs.backends.base import Backend
from wormfs.clock import NS_PER_S, Clock
from wormfs.errors import WormfsError
from wormfs.fs.filesystem import FileSystem
from wormfs.model import Space
from wormfs.spool import restart
from wormfs.spool.quarantine import Quarantine
from wormfs.spool.reserve import Reserve, SpaceReserve, default_reserve
from wormfs.spool.spool import Spool, SpoolOptions
from wormfs.spool.store import SpoolStore

log = logging.getLogger(__name__)

_REST_S = 3.0
"""How long a stop waits for attempts that are under way, once nothing new begins."""
_EXPIRE_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Settings of one backend, as the layers below want them. Seconds."""

    spool: SpoolOptions = field(default_factory=SpoolOptions)
    reserve: Reserve = default_reserve
    directory_cache_s: float = 1.0
    space_cache_s: float = 30.0
    quarantine_keep_s: float | None = None
    quarantine_max_bytes: int | None = None


class Stack:
    """See the module's text. ``start`` once, ``stop`` once."""

    def __init__(self, backend: Backend, options: StackOptions, spool_directory: str, clock: Clock):
        """``spool_directory``: the spool's own directory; it is made when it does not exist."""
        self.backend = backend
        self._options = options
        self._clock = clock
        self._working = trio.CancelScope()
        self._rested = trio.Event()
        self.store = SpoolStore(spool_directory, clock, backend.name)
        reserve = SpaceReserve(spool_directory, clock, options.reserve, backend.name)
        self.spool = Spool(backend, self.store, reserve, clock, options.spool)
        self.filesystem = FileSystem(
            backend,
            self.spool,
            clock,
            directory_cache_s=options.directory_cache_s,
            space_cache_s=options.space_cache_s,
        )

    async def start(self, nursery: trio.Nursery) -> None:
        """Recover the spool and begin the work behind, in ``nursery``.

        Raises SpoolLocked, JournalError, Unavailable.
        """
        await threads.run(restart.recover, self.store, self.spool, self.backend.name)
        await nursery.start(self._work)

    async def _work(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._working:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.spool.run)
                    nursery.start_soon(self._bound_quarantine)
                    task_status.started()
        finally:
            self._rested.set()

    async def stop(self, timeout_s: float) -> None:
        """Finish what is closed within ``timeout_s`` seconds; leave the rest for the next start.

        Files still open for writing are not records: the next start puts them to quarantine.
        """
        with trio.move_on_after(timeout_s):
            await self.spool.drain()
        with trio.CancelScope(shield=True):
            self._working.cancel()
            with trio.move_on_after(_REST_S):
                await self._rested.wait()
            if not self._rested.is_set():
                # The store's descriptors must not be closed under a thread that works with them.
                log.warning("%s: the backend does not answer; the spool is left as it is", self.backend.name)
                return
            await threads.run(self.spool.end)
            await threads.run(self.store.close)

    async def _bound_quarantine(self) -> None:
        """Only where the administrator has set bounds."""
        options = self._options
        if options.quarantine_keep_s is None and options.quarantine_max_bytes is None:
            return
        while True:
            try:
                await threads.run(
                    self.quarantine.expire, options.quarantine_keep_s, options.quarantine_max_bytes
                )
            except WormfsError as error:
                log.warning("%s: quarantine cannot be kept within its bounds: %s", self.backend.name, error)
            await trio.sleep(_EXPIRE_EVERY_S)

    @property
    def quarantine(self) -> Quarantine:
        """What is kept and never published."""
        return self.store.quarantined

    async def space(self) -> Space:
        """The backend's room, as fresh as the settings ask."""
        return await self.filesystem.space.space()

    def status(self) -> Mapping[str, Any]:
        """Entries by state, bytes, oldest age, last error. Never blocks."""
        entries = list(self.spool)
        waiting = [entry for entry in entries if not entry.state.changeable]
        now = self._clock.now_ns()
        return {
            "entries": dict(Counter(entry.state.value for entry in entries)),
            "bytes": sum(entry.size_bytes for entry in entries),
            "waiting": len(waiting),
            "oldest_s": max(((now - e.history[-1][1]) / NS_PER_S for e in waiting), default=None),
            "last_error": self.spool.committer.last_error,
            "open_writers": self.filesystem.open_writers,
        }
