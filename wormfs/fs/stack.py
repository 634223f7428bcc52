"""One backend, ready to be mounted: spool, committer and file system, put together in one place."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from wormfs import threads
from wormfs.audit import AuditLog
from wormfs.backends.base import Backend
from wormfs.clock import NS_PER_S, Clock
from wormfs.errors import WormfsError
from wormfs.fs.filesystem import FileSystem
from wormfs.model import Space
from wormfs.records.records import RecordOptions, Records
from wormfs.records.trustedclock import TrustedClock
from wormfs.spool import restart
from wormfs.spool.quarantine import Quarantine
from wormfs.spool.reserve import Reserve, SpaceReserve, default_reserve
from wormfs.spool.spool import Spool, SpoolOptions
from wormfs.spool.store import SpoolStore

log = logging.getLogger(__name__)

_REST_S = 3.0
"""How long a stop waits for attempts that are under way, once nothing new begins."""
_EXPIRE_EVERY_S = 3600.0
_RECORDS_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Settings of one backend, as the layers below want them. Seconds."""

    spool: SpoolOptions = field(default_factory=SpoolOptions)
    reserve: Reserve = default_reserve
    directory_cache_s: float = 1.0
    space_cache_s: float = 30.0
    quarantine_keep_s: float | None = None
    quarantine_max_bytes: int | None = None
    records: RecordOptions = field(default_factory=RecordOptions)


@dataclass(frozen=True, slots=True)
class StatePlace:
    """Where what must outlive the daemon is kept, besides the spool."""

    directory: Path
    """The state directory."""
    boot_id: str
    """Names this boot of the machine."""


class Stack:
    """See the module's text. ``start`` once, ``stop`` once."""

    def __init__(
        self,
        backend: Backend,
        options: StackOptions,
        spool_directory: str,
        clock: Clock,
        state: StatePlace | None = None,
    ):
        """Blocks for the disk where ``state`` lies. Raises Unavailable.

        Args:
            spool_directory: the spool's own directory; it is made when it does not exist.
            state: without it there is no audit trail, and nothing can be erased.
        """
        self.backend = backend
        self._options = options
        self._clock = clock
        self._working = trio.CancelScope()
        self._rested = trio.Event()
        self.store = SpoolStore(spool_directory, clock, backend.name)
        self.reserve = SpaceReserve(spool_directory, clock, options.reserve, backend.name)
        self.records = _records(backend, options.records, clock, state)
        self.spool = Spool(backend, self.store, self.reserve, clock, options.spool, self.records)
        self.filesystem = FileSystem(
            backend,
            self.spool,
            clock,
            self.records,
            directory_cache_s=options.directory_cache_s,
            space_cache_s=options.space_cache_s,
        )

    async def start(self, nursery: trio.Nursery) -> None:
        """Recover the spool and begin the work behind, in ``nursery``.

        Raises SpoolLocked, JournalError, Unavailable.
        """
        await threads.run(self._start_records)
        await threads.run(
            restart.recover, self.store, self.spool, self.backend.name, self.records.erased_among
        )
        await nursery.start(self._work)

    async def _work(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._working:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.spool.run)
                    nursery.start_soon(self._bound_quarantine)
                    nursery.start_soon(self._look_after_records)
                    if self.records.trail is not None:
                        nursery.start_soon(self.records.trail.run)
                    task_status.started()
        finally:
            self._rested.set()

    def _start_records(self) -> None:
        self.records.announce()
        self.records.finish()
        self.records.clock.keep()

    async def _look_after_records(self) -> None:
        """The clock's mark goes to the disk, and erasures that were cut off go on."""
        while True:
            await trio.sleep(_RECORDS_EVERY_S)
            try:
                await threads.run(self.records.clock.keep_sometimes)
                await threads.run(self.records.finish)
            except Exception:  # a bug in a driver must not take the mount down
                log.exception("%s: looking after records failed", self.backend.name)

    def close_records(self) -> None:
        """The clock's mark and the audit trail are on the disk when it returns. Blocks; does not raise."""
        self.records.clock.keep_sometimes()
        if self.records.trail is not None:
            self.records.trail.close()

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
            await threads.run(self.close_records)

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
        """Entries by state, bytes, oldest age, last error. Never blocks.

        ``last_error`` is over when nothing waits any more; ``latest_error`` stays, with its time.
        """
        entries = list(self.spool)
        waiting = [entry for entry in entries if not entry.state.changeable]
        now = self._clock.now_ns()
        return {
            "entries": dict(Counter(entry.state.value for entry in entries)),
            "bytes": sum(entry.size_bytes for entry in entries),
            "waiting": len(waiting),
            "failed": sum(entry.attempts > 0 for entry in waiting),
            "oldest_s": max(((now - e.history[-1][1]) / NS_PER_S for e in waiting), default=None),
            "last_error": self.spool.committer.last_error,
            "latest_error": self.spool.committer.latest_error,
            "open_writers": self.filesystem.open_writers,
        }


def _records(backend: Backend, options: RecordOptions, clock: Clock, state: StatePlace | None) -> Records:
    name = backend.name
    if state is None:
        in_memory = TrustedClock(name, clock, "", path=None, backend_time_ns=backend.time_ns)
        return Records(backend, options, in_memory)
    trail = AuditLog(state.directory, name, clock)
    trusted = TrustedClock(
        name,
        clock,
        state.boot_id,
        path=state.directory / "clock" / f"{name}.json",
        backend_time_ns=backend.time_ns,
        trail=trail,
    )
    return Records(backend, options, trusted, trail, state.directory / "erasing" / name)
