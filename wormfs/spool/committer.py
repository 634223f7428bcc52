"""Brings sealed entries to the backend: each for ever, in the order in which they were closed.

An entry is first tried by the thread that sealed it (one trip for the common case). If that fails, or
others wait already, it joins the backlog. While the backend is unavailable one entry at a time asks
whether it is back, with growing delay and jitter; after a success several go at once again. A failure
that concerns one entry only (no room for it, refused) delays that entry alone.

``publish`` is the only place from which bytes become a name; it is called from threads.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import logging
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

import trio

from wormfs import durability, threads
from wormfs.backends.base import Backend, Transfer
from wormfs.clock import Clock
from wormfs.errors import AlreadyExists, BackendFault, NotFound, Unavailable, WormfsError
from wormfs.model import ROOT, DirectoryAttributes, Key, Kind, Record, parent_of, show
from wormfs.oserrors import translating
from wormfs.spool.digest import StreamingDigest
from wormfs.spool.entry import Entry, SpooledFile

log = logging.getLogger(__name__)

_COMPARE_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How attempts are spaced. Delays in seconds, doubled up to the last, times 0.5 to 1."""

    first_delay_s: float = 0.25
    last_delay_s: float = 60.0

    def delay_s(self, attempts: int) -> float:
        """How long to wait after ``attempts`` failures in a row."""
        full = min(self.last_delay_s, self.first_delay_s * 2.0 ** min(attempts - 1, 30))
        return full * random.uniform(0.5, 1.0)  # noqa: S311 (jitter, not a secret)


class Published(enum.Enum):
    """How a publish ended well."""

    OURS = "the backend holds the entry"
    IDENTICAL = "somebody else has stored the same bytes under this name"


class Conflict(WormfsError):
    """These bytes must never get this name: it holds others, or they are not what was sealed."""


Attempt = Published | WormfsError
"""What one try came to; of the errors, Conflict is an end."""


class Committer:
    """One per backend. Call ``run`` in a nursery for as long as the daemon lives."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        ended: Callable[[Entry, Published | Conflict], None],
        release: Callable[[Entry], None],
        policy: RetryPolicy = RetryPolicy(),
        committed: Callable[[Key, Record], None] | None = None,
    ):
        """``release`` frees the spool files of a committed entry and ``committed`` is told of it, both in the
        publishing thread and in this order; ``ended`` is told the outcome, on the event loop."""
        self._backend = backend
        self._clock = clock
        self._ended = ended
        self._release = release
        self._committed = committed
        self._policy = policy
        self._backlog: dict[str, Entry] = {}
        self._in_flight: set[str] = set()
        self._elsewhere: set[str] = set()
        """Those that the thread publishes which seals them, from before it seals them."""
        self._places = threading.Lock()
        """Over the look whether a place is free, and taking it."""
        self._limit = max(1, backend.traits.connections)
        self._wake = trio.Event()
        self._failures = 0
        self._not_before = 0.0
        self._threads = trio.CapacityLimiter(self._limit)
        self.last_error: str | None = None
        self.latest_error: tuple[int, str] | None = None
        """When an attempt failed last (wall clock, nanoseconds), and why; stays when all is well again."""

    @property
    def waiting(self) -> int:
        """Entries that are sealed and not yet committed, those under way included."""
        return len(self._backlog)

    @property
    def resting(self) -> bool:
        """The backend did not answer at the last attempt: nothing is tried before a delay is over."""
        return self._clock.monotonic() < self._not_before

    def may_publish_now(self) -> bool:
        """Whether a sealing thread may go on and publish itself: nobody waits, and there is room."""
        return not self._backlog and len(self._in_flight) < self._limit

    def enter(self, entry: Entry) -> None:
        """The thread that seals ``entry`` is going to ask for a place. Sealing takes none: a large file that
        is hashed and synced must not keep small ones from the backend."""
        self._elsewhere.add(entry.id)

    def take_place(self, entry: Entry) -> bool:
        """Whether the thread that has sealed ``entry`` may publish it now; if not, ``enqueue`` follows. From
        any thread."""
        with self._places:
            if not self.may_publish_now():
                return False
            self._in_flight.add(entry.id)
            return True

    def leave(self, entry: Entry) -> None:
        """It has tried, or does not."""
        self._in_flight.discard(entry.id)
        self._elsewhere.discard(entry.id)
        self._wake.set()

    def enqueue(self, entry: Entry) -> None:
        """A sealed entry waits for its turn."""
        self._elsewhere.discard(entry.id)
        self._backlog[entry.id] = entry
        self._wake.set()

    def retry_now(self) -> None:
        """Forget all delays: an administrator knows that the backend is back."""
        self._not_before = 0.0
        for entry in self._backlog.values():
            entry.retry_at = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Work off the backlog until cancelled; what is under way then is waited for."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    entry = self._take_next()
                    if entry is not None:
                        nursery.start_soon(self._attempt, entry)
                        continue
                    self._wake = trio.Event()
                    with trio.move_on_after(self._until_next_s()):
                        await self._wake.wait()
        finally:
            with trio.CancelScope(shield=True):
                while self._elsewhere:
                    self._wake = trio.Event()
                    await self._wake.wait()

    async def drained(self) -> None:
        """Returns when nothing waits any more."""
        while self._backlog:
            await next(iter(self._backlog.values())).ended.wait()

    def _take_next(self) -> Entry | None:
        """The entry whose turn it is, with its place."""
        with self._places:
            entry = self._next()
            if entry is not None:
                self._in_flight.add(entry.id)
            return entry

    def _next(self) -> Entry | None:
        now = self._clock.monotonic()
        limit = 1 if self._failures else self._limit
        if len(self._in_flight) >= limit or now < self._not_before:
            return None
        for entry in self._backlog.values():
            if entry.id not in self._in_flight and entry.retry_at <= now:
                return entry
        return None

    def _until_next_s(self) -> float:
        if len(self._in_flight) >= (1 if self._failures else self._limit):
            return float("inf")
        now = self._clock.monotonic()
        if now < self._not_before:
            # Not a look at each of the thousands that may wait: nothing is tried before that anyway.
            return self._not_before - now if self._backlog else float("inf")
        idle = (e.retry_at for e in self._backlog.values() if e.id not in self._in_flight)
        return max(0.0, min(idle, default=float("inf")) - now)

    async def _attempt(self, entry: Entry) -> None:
        self.attempted(entry, await threads.run(self.attempt, entry, limiter=self._threads))

    def attempt(self, entry: Entry) -> Attempt:
        """Publish a sealed entry once; what it came to, for ``attempted``. Blocks; from a thread."""
        try:
            return self.publish(entry)
        except WormfsError as error:
            return error
        except Exception as error:  # noqa: BLE001 (logged there; a bug in a driver must not cost a byte)
            return self.unforeseen(entry, error)

    def attempted(self, entry: Entry, outcome: Attempt) -> None:
        """On the event loop: the entry has its end, or is tried again later."""
        self.leave(entry)
        if isinstance(outcome, Published | Conflict):
            self.succeeded(entry, outcome)
        else:
            self.failed(entry, outcome)

    def succeeded(self, entry: Entry, outcome: Published | Conflict) -> None:
        """On the event loop: the entry has its end."""
        if self._failures:
            log.info("%s: the backend takes files again", self._backend.name)
        self._failures = 0
        self._not_before = 0.0
        self._backlog.pop(entry.id, None)
        if not self._backlog:
            self.last_error = None
        self._wake.set()
        self._ended(entry, outcome)

    def failed(self, entry: Entry, error: WormfsError) -> None:
        """On the event loop: an attempt failed; the entry stays, and is tried again later."""
        entry.attempts += 1
        with entry.content:
            if entry.slot is not None:
                entry.slot.close_data()  # thousands may wait; it is opened again when needed
        entry.last_error = self.last_error = str(error)
        self.latest_error = self._clock.now_ns(), str(error)
        now = self._clock.monotonic()
        if isinstance(error, Unavailable):
            if now >= self._not_before:
                # Once for all that were under way: a short outage under load must not cost a long delay.
                self._failures += 1
                self._not_before = now + self._policy.delay_s(self._failures)
            delay_s = self._not_before - now
        else:
            delay_s = self._policy.delay_s(entry.attempts)
            entry.retry_at = now + delay_s
        log.warning(
            "%s: %s is safe in the spool but not yet at the backend (attempt %d, next in %.1f s): %s",
            self._backend.name, show(entry.key), entry.attempts, delay_s, error,
        )  # fmt: skip
        self.enqueue(entry)

    def unforeseen(self, entry: Entry, error: Exception) -> BackendFault:
        """A bug in a driver: shown once with its traceback; the entry is kept and tried again."""
        name = self._backend.name
        log.error("%s: unforeseen failure while committing %s", name, show(entry.key), exc_info=error)
        return BackendFault(f"unforeseen failure: {error!r}", backend=name, key=entry.key)

    def publish(self, entry: Entry) -> Published:
        """Bring a sealed entry to the backend. Blocks; from a thread.

        Raises Conflict when somebody else has the name with other bytes, and other
        WormfsErrors when it must be tried again.
        """
        record = entry.record
        assert record is not None
        self._compare(entry, record)
        try:
            self._publish_once(entry, record)
        except AlreadyExists:
            self._drop_transfer(entry)
            if not self._holds_same_bytes(entry.key, record):
                message = "somebody else has stored other bytes under this name"
                raise Conflict(message, backend=self._backend.name, key=entry.key) from None
            return Published.IDENTICAL
        except WormfsError:
            self._drop_transfer(entry)
            raise
        self._release(entry)
        if self._committed is not None:
            self._committed(entry.key, record)
        return Published.OURS

    def _compare(self, entry: Entry, record: Record) -> None:
        """After a restart: are the bytes in the spool those that were sealed? Once per entry."""
        if not entry.taken_up or entry.slot is None or not entry.slot.has_data:
            return
        with translating(self._backend.name, entry.key, "read the spool file again"):
            # From the disk, not from memory: after a sync that failed these may differ.
            durability.sync_file(entry.data_fd)
            os.posix_fadvise(entry.data_fd, 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                found = StreamingDigest().finish(entry.data_fd, record.size_bytes)
            except EOFError:
                found = ""
        if found != record.sha256:
            message = "the bytes in the spool are not those that were sealed (power loss?)"
            raise Conflict(message, backend=self._backend.name, key=entry.key)
        entry.taken_up = False

    def _publish_once(self, entry: Entry, record: Record) -> None:
        spooled = self._spooled(entry)
        if entry.transfer is None:
            entry.transfer = self._resume(entry.key)
            if spooled is not None:
                entry.transfer.advance(spooled, record.size_bytes)
                entry.transfer.prepare(spooled, record)
                # What has just been put onto the file must be durable before the name is.
                self._sync(entry)
        try:
            entry.transfer.publish(spooled, record)
        except NotFound:
            if spooled is None:
                raise
            # Somebody removed the directory meanwhile; what has been accepted needs it.
            self._make_parents(entry.key)
            entry.transfer.publish(spooled, record)

    @staticmethod
    def _spooled(entry: Entry) -> SpooledFile | None:
        if entry.slot is None or not entry.slot.has_data:
            return None
        try:
            return entry.spooled()
        except NotFound:
            # An earlier publish took the spool's name along (immutable files), and its reply was lost.
            return None

    def _sync(self, entry: Entry) -> None:
        try:
            with translating(self._backend.name, entry.key, "sync the spool file"):
                durability.sync_file(entry.data_fd)
        except WormfsError:
            # A later sync would prove nothing: what is on the disk must be read again.
            entry.taken_up = True
            raise

    def _resume(self, key: Key) -> Transfer:
        try:
            return self._backend.resume(key)
        except NotFound:
            self._make_parents(key)
            return self._backend.resume(key)

    def _make_parents(self, key: Key) -> None:
        missing: list[Key] = []
        directory = parent_of(key)
        while directory != ROOT:
            missing.append(directory)
            directory = parent_of(directory)
        for directory in reversed(missing):
            with contextlib.suppress(AlreadyExists):
                self._backend.make_directory(directory, DirectoryAttributes(mode=0o755))

    def _drop_transfer(self, entry: Entry) -> None:
        """What is at the backend of a failed attempt goes, if the backend lets us."""
        transfer, entry.transfer = entry.transfer, None
        if transfer is not None:
            with contextlib.suppress(WormfsError):
                transfer.abort()

    def _holds_same_bytes(self, key: Key, record: Record) -> bool:
        info = self._backend.stat(key)
        if info.kind is not Kind.FILE or info.size_bytes != record.size_bytes:
            return False
        theirs = self._backend.record(key)
        if theirs is not None and theirs.sha256 != record.sha256:
            return False
        # Read even where a record says the same: ours are given up for what is there, not for what was.
        reader = self._backend.open(info)
        digest, offset = hashlib.sha256(), 0
        try:
            while data := reader.read(offset, _COMPARE_CHUNK_BYTES):
                digest.update(data)
                offset += len(data)
        finally:
            reader.close()
        return digest.hexdigest() == record.sha256
