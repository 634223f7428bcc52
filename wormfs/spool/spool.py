"""The files on their way through this daemon: created, written, closed, committed.

One object per backend. It knows every live entry by its key, serves as the reservation of names on this
host, and moves entries along their life. Everything runs on the event loop but the functions that say
that they block; these are given to threads by the methods here. While a thread works on an entry it
holds ``entry.closing``, and nobody else changes that entry.

What a close does, in this order, each step durable before the next begins: SHA-256 → record onto the
spool file → fsync → journal says sealed → the name comes into being at the backend → spool files go.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import trio

import wormfs
from wormfs import durability, threads
from wormfs.backends.base import Backend, Transfer
from wormfs.clock import NS_PER_S, Clock
from wormfs.errors import (
    AlreadyExists,
    BackendFault,
    Busy,
    Sealed,
    TooLarge,
    Unavailable,
    WormfsError,
)
from wormfs.model import Key, Record, parent_of, show
from wormfs.oserrors import translated, translating
from wormfs.spool.committer import Committer, Conflict, Published, RetryPolicy
from wormfs.spool.entry import Entry, Writer
from wormfs.spool.journal import payload_bound
from wormfs.spool.reserve import SpaceReserve
from wormfs.spool.store import SpoolStore
from wormfs.worm.lifecycle import EntryState

log = logging.getLogger(__name__)

Waiting = Callable[[], Awaitable[None]]
"""What a closing program waits for once its file is sealed."""

_REFILL_PAUSE_S = 5.0
_SETTLE_LOOK_S = 30.0
_THREADS = 32
"""Closes that can be sealed at once; the disk under the spool is the same for all."""


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """What an administrator may set. Seconds."""

    settle_s: float = 0.0
    empty_grace_s: float = 60.0
    commit_timeout_s: float = 60.0
    retry: RetryPolicy = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Closed:
    """What a close came to, on its way from the sealing thread to the event loop."""

    published: Published | Conflict | None = None
    error: WormfsError | None = None


class Spool:
    """See the module's text."""

    def __init__(
        self,
        backend: Backend,
        store: SpoolStore,
        reserve: SpaceReserve,
        clock: Clock,
        options: SpoolOptions = SpoolOptions(),
    ):
        self._backend = backend
        self._store = store
        self._reserve = reserve
        self._clock = clock
        self._options = options
        self._entries: dict[Key, Entry] = {}
        self._below: dict[Key, dict[Key, Entry]] = {}
        self._limiter = threads.limiter(_THREADS)
        self._hashers = threads.limiter(max(1, os.cpu_count() or 1))
        self._settle_wake = trio.Event()
        self._refill_wake = trio.Event()
        self._nursery: trio.Nursery
        self.committer = Committer(
            backend, clock, ended=self._ended, release=self._release, policy=options.retry
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The work behind: hashing ahead, refilling, settling, committing. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.committer.run)
            nursery.start_soon(self._refill)
            nursery.start_soon(self._watch_settling)
            task_status.started()

    async def _refill(self) -> None:
        while True:
            self._refill_wake = trio.Event()
            if self._store.wants_refill:
                try:
                    await threads.run(self._store.refill, limiter=self._limiter)
                except WormfsError as error:
                    log.warning("%s: the spool cannot prepare files: %s", self._backend.name, error)
                    with trio.move_on_after(_REFILL_PAUSE_S):
                        await self._refill_wake.wait()
                continue
            await self._refill_wake.wait()

    async def _watch_settling(self) -> None:
        while True:
            self._settle_wake = trio.Event()
            now = self._clock.now_ns()
            settling = [e for e in self if e.state is EntryState.SETTLING and e.settle_until_ns is not None]
            for entry in settling:
                if (entry.settle_until_ns or 0) <= now:
                    self._nursery.start_soon(self._settled, entry)
            waiting = [e.settle_until_ns or 0 for e in settling if (e.settle_until_ns or 0) > now]
            wait_s = (min(waiting) - now) / NS_PER_S if waiting else float("inf")
            # Wall clock, because the promise must survive a restart; looked at again in case it jumps.
            with trio.move_on_after(min(wait_s, _SETTLE_LOOK_S)):
                await self._settle_wake.wait()

    async def _settled(self, entry: Entry) -> None:
        async with entry.closing:
            due = entry.settle_until_ns is not None and entry.settle_until_ns <= self._clock.now_ns()
            if entry.state is EntryState.SETTLING and due:
                try:
                    await self._seal_and_commit(entry)
                except WormfsError as error:
                    name = self._backend.name
                    log.error("%s: ALERT: cannot seal %s: %s", name, show(entry.key), error)

    async def drain(self) -> None:
        """Returns when nothing sealed waits any more."""
        await self.committer.drained()

    # Starting again

    def adopt(self, entry: Entry) -> None:
        """An entry that an earlier daemon left: settling or sealed. Before ``run``."""
        self._add(entry)
        if entry.state is EntryState.SEALED:
            self.committer.enqueue(entry)

    # Looking

    def get(self, key: Key) -> Entry | None:
        """The live entry that stands for ``key`` on this host."""
        return self._entries.get(key)

    def below(self, directory: Key) -> list[Entry]:
        """The live entries directly in ``directory``."""
        return list(self._below.get(directory, {}).values())

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    # Writing

    async def create(self, key: Key, *, mode: int, uid: int, gid: int, writer: Writer) -> Entry:
        """Reserve ``key`` on this host, ask the backend, and open a spool file for it.

        Raises AlreadyExists or Busy when the name is taken, OutOfSpace, and what the backend's
        ``begin`` raises. Nothing is left behind on an error.
        """
        now = self._clock.now_ns()
        taken = self._entries.get(key)
        if taken is not None:
            raise (Busy if taken.state is EntryState.WRITING else AlreadyExists)(
                "somebody is writing this file", backend=self._backend.name, key=key
            )
        self._reserve.check(0)
        entry = Entry(
            id=self._store.new_id(),
            key=key, state=EntryState.WRITING, mode=mode, uid=uid, gid=gid,
            atime_ns=now, mtime_ns=now, ctime_ns=now, created_at_ns=now, writer=writer,
        )  # fmt: skip
        entry.history.append((EntryState.WRITING, now, ""))
        self._add(entry)
        try:
            if self._backend.traits.inline:
                entry.transfer = self._backend.begin(key)
            else:
                entry.transfer = await threads.run(self._backend.begin, key, limiter=self._limiter)
            if not self._store.has_prepared:
                await threads.run(self._store.refill, limiter=self._limiter)
            entry.slot = self._store.allocate()
            self._fit_journal(entry)
            entry.slot.write(entry.journal())
        except BaseException:
            self._remove(entry)
            self._abandon(entry)
            raise
        return entry

    def write(self, entry: Entry, offset: int, data: bytes) -> int:
        """Put bytes into the spool file. Blocks for a copy into the page cache.

        Raises Sealed after the last close; after a failed write the same error again, for ever.
        """
        if entry.write_error is not None:
            raise entry.write_error
        try:
            with entry.content:
                if entry.closed_to_writes:
                    raise Sealed("the file has been closed", backend=self._backend.name, key=entry.key)
                if offset < entry.sent_bytes:
                    entry.went_back = True
                self._write_all(entry, offset, data)
                entry.digest.wrote(offset, len(data))
        except Sealed:
            raise
        except WormfsError as error:
            entry.write_error = error
            raise
        entry.size_bytes = max(entry.size_bytes, offset + len(data))
        if entry.digest.worthwhile:
            self._nursery.start_soon(self._absorb_ahead, entry)
        entry.mtime_ns = entry.ctime_ns = self._clock.now_ns()
        entry.mode &= ~0o6000  # promised to the kernel in the FUSE handshake
        return len(data)

    def _write_all(self, entry: Entry, offset: int, data: bytes) -> None:
        if offset + len(data) > self._backend.traits.max_object_bytes:
            raise TooLarge(
                f"the backend holds at most {self._backend.traits.max_object_bytes} bytes in a file",
                backend=self._backend.name,
                key=entry.key,
            )
        self._reserve.check(len(data))
        try:
            done = os.pwrite(entry.data_fd, data, offset)
            while done < len(data):
                done += os.pwrite(entry.data_fd, data[done:], offset + done)
        except OSError as error:
            raise translated(error, self._backend.name, entry.key, "write to the spool") from error

    async def _absorb_ahead(self, entry: Entry) -> None:
        if entry.slot is not None and entry.digest.worthwhile:
            try:
                await threads.run(self._absorb, entry, os.dup(entry.data_fd), limiter=self._hashers)
            except Exception as error:
                # The digest is computed again when the file is sealed; that is when it matters.
                log.warning("%s: hashing ahead of %s failed: %r", self._backend.name, show(entry.key), error)

    def _absorb(self, entry: Entry, fd: int) -> None:
        try:
            ready_bytes = entry.digest.absorb(fd)
            if entry.transfer is not None and self._options.settle_s == 0:
                self._advance(entry, ready_bytes)
        finally:
            os.close(fd)

    def _advance(self, entry: Entry, ready_bytes: int) -> None:
        """Let the driver send what will not change unless the writer goes back."""
        with entry.sending:
            transfer = entry.transfer
            if transfer is None or entry.closed_to_writes or entry.went_back:
                return
            entry.sent_bytes = ready_bytes
            try:
                transfer.advance(entry.spooled(), ready_bytes)
            except WormfsError as error:
                log.info("%s: sending ahead of %s: %s", self._backend.name, show(entry.key), error)
                entry.went_back = True

    def truncate(self, entry: Entry, size: int) -> None:
        """Set the length of a file that is being written."""
        self._must_change(entry)
        try:
            with entry.content, self._translating(entry, "change the length in the spool"):
                self._reserve.check(max(0, size - entry.size_bytes))
                if size < entry.sent_bytes:
                    entry.went_back = True
                os.ftruncate(entry.data_fd, size)
                entry.digest.truncated(size)
        except WormfsError as error:
            entry.write_error = error
            raise
        entry.size_bytes = size
        entry.mtime_ns = entry.ctime_ns = self._clock.now_ns()

    async def sync(self, entry: Entry) -> None:
        """Make what has been written so far durable here. Does not seal."""
        if entry.write_error is not None:
            raise entry.write_error
        async with entry.closing:
            await self.sync_closed(entry)

    async def sync_closed(self, entry: Entry) -> None:
        """The same, for a caller that holds ``entry.closing``."""
        if entry.slot is not None:
            await threads.run(self._sync, entry, limiter=self._limiter)

    def _sync(self, entry: Entry) -> None:
        if entry.slot is not None:
            with self._translating(entry, "sync the spool file"):
                durability.sync_file(entry.data_fd)
            entry.slot.write_durably(entry.journal())

    # Changing what is not a record yet

    async def changed(self, entry: Entry) -> None:
        """Attributes have been changed by the caller; what has been promised must be durable."""
        entry.ctime_ns = self._clock.now_ns()
        if entry.state is EntryState.SETTLING:
            await self._journal(entry)

    async def set_xattrs(self, entry: Entry, xattrs: dict[bytes, bytes]) -> None:
        """Replace the attributes of what is not a record yet. The caller holds ``entry.closing``."""
        self._must_change(entry)
        before, entry.xattrs = entry.xattrs, xattrs
        try:
            self._fit_journal(entry)
        except WormfsError:
            entry.xattrs = before
            raise
        await self.changed(entry)

    async def rename(self, entry: Entry, key: Key) -> None:
        """Give an entry that is not a record yet another name that is not taken."""
        async with entry.closing:
            self._must_change(entry)
            if key in self._entries:
                raise AlreadyExists("the name is taken", backend=self._backend.name, key=key)
            self._entries[key] = entry
            try:
                transfer = await threads.run(self._backend.begin, key, limiter=self._limiter)
            except BaseException:
                del self._entries[key]
                raise
            old_transfer, entry.transfer = entry.transfer, transfer
            self._remove(entry)
            entry.key = key
            self._add(entry)
            if old_transfer is not None:
                await threads.run(self._abort_quietly, old_transfer, limiter=self._limiter)
            self._fit_journal(entry)
            await self._journal(entry)

    async def reopen(self, entry: Entry, writer: Writer) -> None:
        """Go on writing a file in its settle window, or an empty one within its grace."""
        async with entry.closing:
            if entry.state is not EntryState.SETTLING:
                raise Sealed("the file has been committed", backend=self._backend.name, key=entry.key)
            entry.reopened = entry.size_bytes == 0
            entry.settle_until_ns = None
            entry.writer = writer
            entry.closed_to_writes = False
            entry.move(EntryState.WRITING, self._clock.now_ns(), "opened again")
            # Durable before the first write: after a crash the old promise (commit it) would be wrong.
            await self._journal(entry)

    async def discard(self, entry: Entry) -> None:
        """The file was unlinked before it became a record: nothing stays."""
        async with entry.closing:
            self._must_change(entry)
            entry.move(EntryState.DISCARDED, self._clock.now_ns())
            await threads.run(self._abandon, entry, limiter=self._limiter)
            self._end(entry, None)

    # The end of writing

    async def close(self, entry: Entry) -> Waiting | None:
        """The last descriptor is closed and the writer did not fail: settle, or seal and commit.

        Returns None when the settle window has begun, durably; else what to await for the commit: it returns
        when the backend holds the file, raises Unavailable after ``commit_timeout_s`` (the entry
        then stays in the spool and is tried for ever), and AlreadyExists when somebody else
        has won the name. Raises when the file could not be sealed. The caller holds ``entry.closing``.
        """
        if entry.write_error is not None:
            error = entry.write_error
            await self.quarantine(entry, f"a write failed: {error}")
            raise error
        settle_s = self._settle_s(entry)
        if settle_s > 0:
            await threads.run(self._settle_durably, entry, settle_s, limiter=self._limiter)
            self._settle_wake.set()
            return None
        deadline = trio.current_time() + self._options.commit_timeout_s
        await self._seal_and_commit(entry)
        return lambda: self._committed(entry, deadline)

    async def quarantine(self, entry: Entry, reason: str) -> None:
        """Keep the bytes, never publish them, free the name. The caller holds ``entry.closing``."""
        if entry.state.ended:
            return
        log.warning("%s: %s goes to quarantine: %s", self._backend.name, show(entry.key), reason)
        await threads.run(self._quarantine, entry, reason, limiter=self._limiter)
        self._end(entry, BackendFault(reason, backend=self._backend.name, key=entry.key))

    def _quarantine(self, entry: Entry, reason: str) -> None:
        entry.closed_to_writes = True
        if entry.transfer is not None:
            self._abort_quietly(entry.transfer)
            entry.transfer = None
        entry.last_error = reason
        entry.move(EntryState.QUARANTINED, self._clock.now_ns(), reason)
        slot, record = entry.slot, entry.journal()
        assert slot is not None
        if entry.size_bytes == 0:
            # Nothing was accepted, so there is nothing to keep.
            self._store.discard(slot)
        else:
            try:
                self._store.quarantine(slot, record)
            except WormfsError as error:
                # Its name is free and nothing is published; the next start finishes the move.
                log.error(
                    "%s: ALERT: entry %s could not be moved to quarantine: %s",
                    self._backend.name, entry.id, error,
                )  # fmt: skip
                slot.close_data()
        entry.slot = None

    def _settle_s(self, entry: Entry) -> float:
        if entry.size_bytes == 0 and not entry.reopened:
            return max(self._options.empty_grace_s, self._options.settle_s)
        return self._options.settle_s

    def _settle_durably(self, entry: Entry, settle_s: float) -> None:
        with entry.content:
            entry.closed_to_writes = True
        now = self._clock.now_ns()
        entry.settle_until_ns = now + int(settle_s * NS_PER_S)
        with self._translating(entry, "sync the spool file"):
            durability.sync_file(entry.data_fd)
        entry.move(EntryState.SETTLING, now)
        assert entry.slot is not None
        entry.slot.write_durably(entry.journal())

    async def _seal_and_commit(self, entry: Entry) -> None:
        """Seal in a thread and, if nobody else waits, publish in the same trip."""
        publish = self.committer.may_publish_now()
        if publish:
            self.committer.enter(entry)
        try:
            closed = await threads.run(self._seal_blocking, entry, publish, limiter=self._limiter)
        except Exception as error:
            # Not sealed: the disk under the spool failed. Nobody was promised anything yet.
            reason = error if isinstance(error, WormfsError) else BackendFault(f"cannot seal: {error!r}")
            if not isinstance(error, WormfsError):
                log.exception("%s: cannot seal %s", self._backend.name, show(entry.key))
            if entry.state is EntryState.WRITING or entry.state is EntryState.SETTLING:
                await self.quarantine(entry, f"it could not be made durable: {reason}")
            raise reason from error
        finally:
            if publish:
                self.committer.leave(entry)
        if closed.published is not None:
            self.committer.succeeded(entry, closed.published)
        elif closed.error is not None:
            self.committer.failed(entry, closed.error)
        else:
            self.committer.enqueue(entry)

    def _seal_blocking(self, entry: Entry, publish: bool) -> Closed:
        self._seal(entry)
        if not publish:
            return Closed()
        try:
            return Closed(published=self.committer.publish(entry))
        except Conflict as conflict:
            return Closed(published=conflict)
        except WormfsError as error:
            return Closed(error=error)
        except Exception as error:
            log.exception("%s: unforeseen failure at %s", self._backend.name, show(entry.key))
            return Closed(error=BackendFault(f"unforeseen failure: {error!r}"))

    def _seal(self, entry: Entry) -> None:
        """Fix content and name, durably. Blocks."""
        with entry.content:
            entry.closed_to_writes = True
        with entry.sending:
            # What was sent ahead may be out of date, or half sent: the committer begins again.
            if entry.went_back and entry.transfer is not None:
                self._abort_quietly(entry.transfer)
                entry.transfer = None
        assert entry.slot is not None
        durability.step("spool.data-written")
        with self._translating(entry, "seal the spool file"):
            sha256 = entry.digest.finish(entry.data_fd, entry.size_bytes)
            now = self._clock.now_ns()
            entry.record = Record(
                entry_id=entry.id,
                sha256=sha256,
                size_bytes=entry.size_bytes,
                attributes=entry.attributes(),
                committed_at_ns=now,
                writer_uid=entry.writer.uid,
                wormfs_version=wormfs.__version__,
            )
            if entry.transfer is not None:
                entry.transfer.prepare(entry.spooled(), entry.record)
            durability.sync_file(entry.data_fd)
        durability.step("spool.data-synced")
        entry.settle_until_ns = None
        entry.move(EntryState.SEALED, now)
        entry.slot.write_durably(entry.journal())

    async def _committed(self, entry: Entry, deadline: float) -> None:
        """Wait for the end of a sealed entry; raise what the closing program should see."""
        with trio.move_on_at(deadline):
            await entry.ended.wait()
            if entry.outcome is not None:
                raise entry.outcome
            return
        raise Unavailable(
            f"not committed within {self._options.commit_timeout_s:g} s; the file is safe in the spool and "
            f"will be tried for ever. Last error: {entry.last_error or 'none yet'}",
            backend=self._backend.name,
            key=entry.key,
        )

    # Ends

    def _release(self, entry: Entry) -> None:
        """In the publishing thread: the backend holds it, the spool files go."""
        slot = entry.slot
        if slot is None:
            return
        entry.move(EntryState.COMMITTED, self._clock.now_ns())
        slot.write(entry.journal())
        entry.slot = None
        self._store.release(slot)

    def _ended(self, entry: Entry, outcome: Published | Conflict) -> None:
        """On the event loop, told by the committer."""
        match outcome:
            case Published.OURS:
                self._end(entry, None)
            case Published.IDENTICAL if entry.writer.exclusive:
                self._release(entry)
                self._end(entry, AlreadyExists("somebody else was first", key=entry.key))
            case Published.IDENTICAL:
                log.info("%s: %s: the same bytes were there already", self._backend.name, show(entry.key))
                self._release(entry)
                self._end(entry, None)
            case Conflict() as conflict:
                log.error("%s: ALERT: %s; ours go to quarantine", self._backend.name, conflict)
                self._quarantine(entry, str(conflict))
                self._end(entry, AlreadyExists(str(conflict), key=entry.key))

    def _end(self, entry: Entry, outcome: WormfsError | None) -> None:
        entry.outcome = outcome
        self._remove(entry)
        entry.ended.set()
        if self._store.wants_refill:
            self._refill_wake.set()

    def _abandon(self, entry: Entry) -> None:
        """Whatever an entry has taken, given back. Blocks."""
        entry.closed_to_writes = True
        transfer, entry.transfer = entry.transfer, None
        if transfer is not None:
            self._abort_quietly(transfer)
        slot, entry.slot = entry.slot, None
        if slot is not None:
            self._store.discard(slot)

    @staticmethod
    def _abort_quietly(transfer: Transfer) -> None:
        with contextlib.suppress(WormfsError):
            transfer.abort()

    # Small helpers

    def _translating(self, entry: Entry, doing: str) -> AbstractContextManager[None]:
        return translating(self._backend.name, entry.key, doing)

    def _must_change(self, entry: Entry) -> None:
        if not entry.state.changeable:
            raise Sealed("the file has been closed and accepted", backend=self._backend.name, key=entry.key)

    def _fit_journal(self, entry: Entry) -> None:
        """Take the room for all that the journal may ever have to say of this entry, now."""
        if entry.slot is not None:
            entry.slot.ensure_capacity(payload_bound(entry.journal()))

    async def _journal(self, entry: Entry) -> None:
        if entry.slot is not None:
            await threads.run(entry.slot.write_durably, entry.journal(), limiter=self._limiter)

    def _add(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._below.setdefault(parent_of(entry.key), {})[entry.key] = entry

    def _remove(self, entry: Entry) -> None:
        self._entries.pop(entry.key, None)
        directory = parent_of(entry.key)
        siblings = self._below.get(directory)
        if siblings is not None:
            siblings.pop(entry.key, None)
            if not siblings:
                del self._below[directory]
