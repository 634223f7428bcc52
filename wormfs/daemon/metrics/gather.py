"""Gathers the facts: asks every worker at the same time, and waits for none of them long."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import trio

from wormfs import threads
from wormfs.clock import monotonic
from wormfs.config import BackendSettings
from wormfs.daemon import measured
from wormfs.daemon.channel import NoAnswer, RequestFailed
from wormfs.daemon.measured import Measured
from wormfs.daemon.messages import Message
from wormfs.daemon.metrics.facts import BackendFacts, Snapshot
from wormfs.errors import WormfsError
from wormfs.verify.summary import Summary, summarize

WORKERS_S: Final = 0.5
"""For all workers together: a scrape is answered within a second, whoever hangs."""
LOOP_S: Final = 0.8
"""For the supervisor's event loop, the workers included."""
_VERIFIED_EVERY_S: Final = 30.0
_VERIFIED_S: Final = 0.1


class Asked(Protocol):
    """A worker, as far as it is asked here."""

    @property
    def pid(self) -> int | None: ...

    async def request(self, request: Message, *, timeout_s: float) -> Message: ...


class Gatherer:
    """Makes snapshots, for threads (``from_thread``) and on the event loop (``now``)."""

    def __init__(
        self,
        *,
        workers: Mapping[str, Asked],
        settings: Callable[[], Mapping[str, BackendSettings]],
        status: Callable[[], Awaitable[Message]],
        verified: Verified,
        log_lines: Callable[[], Mapping[str, int]],
        started_ns: int,
    ):
        """
        Args:
            status: what ``wormfs status`` would be told now; within a bounded time.
            log_lines: those of this process, by level.
        """
        self._workers = workers
        self._settings = settings
        self._status = status
        self._verified = verified
        self._log_lines = log_lines
        self._started_ns = started_ns

    def from_thread(self, doorway: threads.Doorway) -> Snapshot:
        """A snapshot within a second, for a thread beside the event loop. Blocks."""
        try:
            backends = doorway.ask(self._backends, LOOP_S)
        except TimeoutError:
            return Snapshot(self._started_ns, answering=False, log_lines=self._log_lines())
        return self._snapshot(backends)

    async def now(self) -> Snapshot:
        """A snapshot within a second, on the event loop."""
        backends = await self._backends()
        return await threads.run(self._snapshot, backends)

    def _snapshot(self, backends: Mapping[str, BackendFacts]) -> Snapshot:
        return Snapshot(
            self._started_ns,
            answering=True,
            backends=backends,
            verified=self._verified.look(),
            log_lines=self._log_lines(),
        )

    async def _backends(self) -> Mapping[str, BackendFacts]:
        counted: dict[str, Measured] = {}
        status: Message = {}

        async def ask_status() -> None:
            status.update(await self._status())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_status)
            for name, worker in self._workers.items():
                nursery.start_soon(_ask_counts, name, worker, counted)
        found = status.get("backends", {})
        return {
            name: BackendFacts(settings.type, found.get(name, {}), counted.get(name))
            for name, settings in self._settings().items()
        }


async def _ask_counts(name: str, worker: Asked, counted: dict[str, Measured]) -> None:
    if worker.pid is None:
        return
    try:
        counted[name] = measured.from_message(
            await worker.request({"op": measured.METRICS}, timeout_s=WORKERS_S)
        )
    except (NoAnswer, RequestFailed):
        return  # said by its absence


class Verified:
    """What verification says of each backend. From disk, so it is remembered and never waited for long."""

    def __init__(self, state_directory: Path, backends: Collection[str]):
        self._state_directory = state_directory
        self._backends = backends
        self._reading = threading.Lock()
        self._known: dict[str, Summary] = {}
        self._asked_at = -_VERIFIED_EVERY_S

    def look(self) -> Mapping[str, Summary]:
        """At most half a minute old, older when the disk does not answer. Blocks for a tenth of a second."""
        if monotonic() - self._asked_at >= _VERIFIED_EVERY_S and self._reading.acquire(blocking=False):
            # When its time is over the thread goes on, and nobody else is sent after it.
            with suppress(TimeoutError):
                threads.within(_VERIFIED_S, self._read)
        return self._known

    def _read(self) -> None:
        try:
            known = {}
            for name in list(self._backends):  # a reload may change them meanwhile
                try:
                    summary = summarize(self._state_directory, name)
                except WormfsError:
                    continue  # 'wormfs status' says what is wrong with it
                if summary is not None:
                    known[name] = summary
            self._known, self._asked_at = known, monotonic()
        finally:
            self._reading.release()
