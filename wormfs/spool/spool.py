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
from dataclasses import dataclass, field
from typing import Protocol

import trio

from wormfs import threads
from wormfs.backends.base import Backend, Remembering, Transfer
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
from wormfs.model import FileAttributes, Key, Retention, show
from wormfs.oserrors import translated, translating
from wormfs.records.records import Records
from wormfs.spool.committer import Attempt, Committer, Conflict, Published, RetryPolicy
from wormfs.spool.entry import Entry, Writer
from wormfs.spool.journal import payload_bound
from wormfs.spool.reservations import Reservations
from wormfs.spool.reserve import SpaceReserve
from wormfs.spool.sealing import Sealer, abort_quietly
from wormfs.spool.store import SpoolStore
from wormfs.worm.lifecycle import EntryState

log = logging.getLogger(__name__)

Waiting = Callable[[], Awaitable[None]]
"""What a closing program waits for once its file is sealed."""

_REFILL_PAUSE_S = 5.0
_SETTLE_LOOK_S = 30.0
_SETTLE_STEP_S = 0.02
_SETTLE_AGAIN_S = 0.2
_ORDINARY_KEY_BYTES = 256
"""Without attributes, the journal of a name up to this long fits every record file; a test holds it."""
_WORTH_HASHING_BYTES = 64 << 10
_THREADS = 32
"""Closes that can be sealed at once; the disk under the spool is the same for all."""


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """What an administrator may set. Seconds."""

    settle_s: float = 0.0
    empty_grace_s: float = 60.0
    commit_timeout_s: float = 60.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True)
class Closed:
    """What a close came to, on its way from the sealing thread to the event loop."""

    attempt: Attempt | None = None
    """``None``: it was not tried in this thread, or is not yet."""
    settling: bool = False
    """It is not sealed: the settle window has begun."""


class Question(Protocol):
    """Whether a close is the last. Answering may hang; ``is_last`` takes ``claim`` before it says yes."""

    @property
    def patience_s(self) -> float:
        """How long an answer may take."""
        ...

    @property
    def claim(self) -> threads.Claim:
        """Taken by ``is_last``, or by whoever waited for it too long."""
        ...

    def is_last(self) -> bool:
        """Blocks; from a thread, once."""
        ...


class Spool:
    """See the module's text."""

    def __init__(
        self,
        backend: Backend,
        store: SpoolStore,
        reserve: SpaceReserve,
        clock: Clock,
        options: SpoolOptions = SpoolOptions(),
        records: Records | None = None,
    ):
        """``records`` says until when a file stays and is told of commits; without it files stay for ever."""
        self._backend = backend
        self._remembering = backend if isinstance(backend, Remembering) else None
        self._store = store
        self._reserve = reserve
        self._clock = clock
        self._options = options
        self._names = Reservations()
        self.retention_of = records.retention_of if records is not None else _forever
        self._sealer = Sealer(backend.name, store, clock, self.retention_of)
        self._limiter = threads.limiter(_THREADS)
        # Apart from the others: a server that does not answer must not hold up what is being sealed.
        self._questions = threads.limiter(max(1, backend.traits.connections))
        self._hashers = threads.limiter(max(1, os.cpu_count() or 1))
        self._settle_wake = trio.Event()
        self._settle_next_ns: int | None = None
        """When the next entry is due, as far as the watcher knows; None while it only waits to be woken."""
        self._refill_wake = trio.Event()
        self._nursery: trio.Nursery
        self.committer = Committer(
            backend,
            clock,
            ended=self._ended,
            release=self._sealer.release,
            policy=options.retry,
            committed=records.committed if records is not None else None,
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
            due = [entry for entry in settling if (entry.settle_until_ns or 0) <= now]
            for entry in due:
                if not entry.closing.locked():  # else it is being settled, or changed: looked at again
                    self._nursery.start_soon(self._settled, entry)
            waiting = [e.settle_until_ns or 0 for e in settling if (e.settle_until_ns or 0) > now]
            self._settle_next_ns = min(waiting, default=None)
            # Several at a time: thousands that become due one by one would mean thousands of looks at all.
            wait_s = max((min(waiting) - now) / NS_PER_S, _SETTLE_STEP_S) if waiting else float("inf")
            if due:
                wait_s = min(wait_s, _SETTLE_AGAIN_S)
            # Wall clock, because the promise must survive a restart; looked at again in case it jumps.
            with trio.move_on_after(min(wait_s, _SETTLE_LOOK_S)):
                await self._settle_wake.wait()

    async def _settled(self, entry: Entry) -> None:
        async with entry.closing:
            due = entry.settle_until_ns is not None and entry.settle_until_ns <= self._clock.now_ns()
            if entry.state is not EntryState.SETTLING or not due:
                return
            try:
                await threads.run(self._sealer.seal, entry, limiter=self._limiter)
            except Exception as error:  # noqa: BLE001 (logged there)
                await self._not_sealed(entry, error)
                return
            self.committer.enqueue(entry)

    async def drain(self) -> None:
        """Returns when nothing sealed waits any more."""
        self.committer.retry_now()
        await self.committer.drained()

    def end(self) -> None:
        """After ``run`` was cancelled: end the threads. Blocks for what they still do."""
        self._sealer.close()

    # Starting again

    @contextlib.contextmanager
    def reserved(self, key: Key, attributes: FileAttributes) -> Iterator[None]:
        """Keep ``key`` from everybody else on this host while an entry is made ready for ``adopt``.

        Whoever asks for the name meanwhile sees a file that is being written. Not longer than moments.
        Raises Busy, AlreadyExists.
        """
        now = self._clock.now_ns()
        self._must_be_free(key)
        holder = Entry(
            id=self._store.new_id(),
            key=key, state=EntryState.WRITING, mode=attributes.mode, uid=attributes.uid, gid=attributes.gid,
            atime_ns=attributes.atime_ns, mtime_ns=attributes.mtime_ns, ctime_ns=now, created_at_ns=now,
            writer=Writer(uid=attributes.uid, pid=0, opened_boot_s=0.0),
        )  # fmt: skip
        holder.history.append((EntryState.WRITING, now, ""))
        holder.closing.acquire_nowait()
        self._names.add(holder)
        try:
            yield
        finally:
            holder.move(EntryState.DISCARDED, self._clock.now_ns())
            self._end(holder, None)
            holder.closing.release()

    def adopt(self, entry: Entry) -> None:
        """A settling or sealed entry that an earlier daemon left, before ``run``; or that has come back
        from quarantine, as soon as ``reserved`` has ended and before anything else runs."""
        self._names.add(entry)
        if entry.state is EntryState.SEALED:
            self.committer.enqueue(entry)

    # Looking

    def get(self, key: Key) -> Entry | None:
        """The live entry that stands for ``key`` on this host."""
        return self._names.get(key)

    def below(self, directory: Key) -> list[Entry]:
        """The live entries directly in ``directory``."""
        return self._names.below(directory)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._names)

    # Writing

    async def create(self, key: Key, *, mode: int, uid: int, gid: int, writer: Writer) -> Entry:
        """Reserve ``key`` on this host, ask the backend, and open a spool file for it.

        Raises AlreadyExists or Busy when the name is taken, OutOfSpace, and what the backend's
        ``begin`` raises. Nothing is left behind on an error.
        """
        now = self._clock.now_ns()
        self._must_be_free(key)
        self._reserve.check(0)
        entry = Entry(
            id=self._store.new_id(),
            key=key, state=EntryState.WRITING, mode=mode, uid=uid, gid=gid,
            atime_ns=now, mtime_ns=now, ctime_ns=now, created_at_ns=now, writer=writer,
        )  # fmt: skip
        entry.history.append((EntryState.WRITING, now, ""))
        self._names.add(entry)
        try:
            entry.transfer = await self._begin(key)
            if not self._store.has_prepared:
                await threads.run(self._store.refill, limiter=self._limiter)
            entry.slot = self._store.allocate()
            self._fit_journal(entry)
            entry.slot.write(entry.journal())
        except BaseException:
            self._names.remove(entry.key)
            self._sealer.abandon(entry)
            raise
        return entry

    async def _begin(self, key: Key) -> Transfer:
        if self._backend.traits.inline:
            return self._backend.begin(key)
        ready = self._remembering.begin_ready(key) if self._remembering is not None else None
        if ready is not None:
            return ready
        return await threads.run(self._backend.begin, key, limiter=self._questions)

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
                self._write_all(entry, offset, data)
                entry.digest.wrote(offset, len(data))
                if offset < entry.sent_bytes:
                    # Asked after the write: who was told to send before it may have read the old bytes.
                    entry.went_back = True
                # Under the lock, or a close in this moment would seal the size without these bytes.
                entry.size_bytes = max(entry.size_bytes, offset + len(data))
                entry.mtime_ns = entry.ctime_ns = self._clock.now_ns()
                entry.mode &= ~0o6000  # promised to the kernel in the FUSE handshake
        except Sealed:
            raise
        except WormfsError as error:
            entry.write_error = error
            raise
        if entry.digest.worthwhile:
            self._hash_ahead(entry)
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

    def _hash_ahead(self, entry: Entry) -> None:
        if not entry.hashing_ahead:
            entry.hashing_ahead = True
            self._nursery.start_soon(self._absorb_ahead, entry)

    async def _absorb_ahead(self, entry: Entry) -> None:
        try:
            await threads.run(self._absorb, entry, limiter=self._hashers)
        except Exception as error:  # noqa: BLE001 (see below)
            # The digest is computed again when the file is sealed; that is when it matters.
            log.warning("%s: hashing ahead of %s failed: %r", self._backend.name, show(entry.key), error)
        finally:
            entry.hashing_ahead = False

    def _absorb(self, entry: Entry) -> None:
        # Only now: a descriptor for each that waits for its turn would soon be too many.
        fd = entry.duplicate_data()
        if fd is None:
            return
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
                if size > entry.size_bytes:
                    self._reserve.check(size - entry.size_bytes)
                os.ftruncate(entry.data_fd, size)
                entry.digest.truncated(size)
                if size < entry.sent_bytes:
                    entry.went_back = True
                entry.size_bytes = size
        except WormfsError as error:
            entry.write_error = error
            raise
        entry.mtime_ns = entry.ctime_ns = self._clock.now_ns()

    async def sync(self, entry: Entry) -> None:
        """Make what has been written so far durable here. Does not seal."""
        if entry.write_error is not None:
            raise entry.write_error
        if entry.digest.frontier_bytes > entry.digest.hashed_bytes + _WORTH_HASHING_BYTES:
            # A close is likely to follow; meanwhile it is the disk that is busy.
            self._hash_ahead(entry)
        async with entry.closing:
            await self.sync_closed(entry)

    async def sync_closed(self, entry: Entry) -> None:
        """The same, for a caller that holds ``entry.closing``."""
        # What is sealed is durable, and a committing thread may have it.
        if entry.state.changeable and entry.slot is not None:
            try:
                await threads.run(self._sealer.sync, entry, limiter=self._limiter)
            except WormfsError as error:
                # The kernel may have forgotten what it could not write; a later sync would prove nothing.
                entry.write_error = entry.write_error or error
                raise

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
            if key in self._names:
                raise AlreadyExists("the name is taken", backend=self._backend.name, key=key)
            self._names.add(entry, key)
            before = entry.key
            try:
                await threads.run(self._begin_again, entry, key, limiter=self._questions)
                entry.key = key
                self._fit_journal(entry)
                # Before the old name is free: a crash must not leave two files that claim it.
                await self._journal(entry)
            except BaseException:
                entry.key = before
                self._names.remove(key)
                with trio.CancelScope(shield=True):
                    # It may lead to the new name; another one is made from the spool when it is needed.
                    await threads.run(self._sealer.drop_transfer, entry, limiter=self._limiter)
                raise
            self._names.remove(before)

    def _begin_again(self, entry: Entry, key: Key) -> None:
        transfer = self._backend.begin(key)
        with entry.sending:
            old, entry.transfer = entry.transfer, transfer
        if old is not None:
            abort_quietly(old)

    async def reopen(self, entry: Entry, writer: Writer) -> None:
        """Go on writing a file in its settle window, or an empty one within its grace."""
        async with entry.closing:
            if entry.state is not EntryState.SETTLING:
                raise Sealed("the file has been committed", backend=self._backend.name, key=entry.key)
            before = entry.reopened, entry.settle_until_ns, entry.writer
            entry.reopened = entry.size_bytes == 0
            entry.settle_until_ns = None
            entry.writer = writer
            entry.move(EntryState.WRITING, self._clock.now_ns(), "opened again")
            try:
                # Durable before the first write: after a crash the old promise (commit it) would be wrong.
                await self._journal(entry)
            except BaseException:
                # Nobody has it open, so nobody would ever close it: it goes on to settle.
                entry.reopened, entry.settle_until_ns, entry.writer = before
                entry.move(EntryState.SETTLING, self._clock.now_ns(), "not opened again")
                self._settle_wake.set()
                raise
            entry.closed_to_writes = False

    async def discard(self, entry: Entry) -> None:
        """The file was unlinked before it became a record: nothing stays."""
        async with entry.closing:
            self._must_change(entry)
            entry.move(EntryState.DISCARDED, self._clock.now_ns())
            await threads.run(self._sealer.abandon, entry, limiter=self._limiter)
            self._end(entry, None)

    # The end of writing

    async def close(self, entry: Entry, question: Question | None = None) -> Waiting | None:
        """No descriptor is left and the writer did not fail: settle, or seal and commit.

        ``question`` is asked first, in the same trip to a thread; if it says no, nothing happens, and
        neither if it has no answer in time (threads.Stuck).
        Returns None when nothing is to be waited for: it was not the last close, or the settle window has
        begun, durably. Else what to await: it returns when the backend holds the file, raises
        Unavailable after ``commit_timeout_s`` (the entry then stays in the spool and is tried for
        ever), and AlreadyExists when somebody else has won the name. Raises when the file could not
        be sealed, or a write had failed. The caller holds ``entry.closing``.
        """
        deadline = trio.current_time() + self._options.commit_timeout_s
        inline = self._backend.traits.inline
        publish = (inline or question is not None) and self.committer.may_publish_now()
        if publish:
            self.committer.enter(entry)
        try:
            closed = await self._close_in_thread(entry, question, publish)
        except BaseException as error:
            if publish:
                self.committer.leave(entry)
            if isinstance(error, threads.Stuck) or not isinstance(error, Exception):
                raise
            raise await self._not_sealed(entry, error) from error
        if publish and (closed is None or closed.settling):
            self.committer.leave(entry)
        if closed is None:
            return None
        if closed.settling:
            if self._settle_next_ns is None or (entry.settle_until_ns or 0) < self._settle_next_ns:
                self._settle_wake.set()
            return None
        if closed.attempt is not None:
            self.committer.attempted(entry, closed.attempt)
        elif inline or not publish:
            self.committer.enqueue(entry)
        return lambda: self._committed(entry, deadline)

    async def _close_in_thread(self, entry: Entry, question: Question | None, publish: bool) -> Closed | None:
        if question is None:
            return await threads.run(self._close, entry, None, publish, limiter=self._limiter)
        # Where a server may hang, the thread holds the entry only until it is sealed: the close must be able
        # to give up.
        here = publish and self._backend.traits.inline
        return await threads.run_claiming(
            self._close, entry, question, here,
            claim=question.claim, patience_s=question.patience_s, limiter=self._limiter,
            then=self._publisher(entry) if publish and not here else None,
        )  # fmt: skip

    def _publisher(self, entry: Entry) -> Callable[[Closed | None], None]:
        """What the thread that has sealed an entry does next, while the close waits for the end of it."""
        loop = trio.lowlevel.current_trio_token()

        def publish(closed: Closed | None) -> None:
            # The entry cannot be asked: if this thread is late, others may have settled and sealed it.
            if closed is None or closed.settling:
                return
            with contextlib.suppress(trio.RunFinishedError):
                if self.committer.take_place(entry):
                    attempt = self.committer.attempt(entry)
                    loop.run_sync_soon(self.committer.attempted, entry, attempt)
                else:
                    loop.run_sync_soon(self.committer.enqueue, entry)

        return publish

    def _close(self, entry: Entry, question: Question | None, publish: bool) -> Closed | None:
        if question is not None and not question.is_last():
            return None
        if entry.write_error is not None:
            raise entry.write_error
        settle_s = self._settle_s(entry)
        if settle_s > 0:
            self._sealer.settle(entry, settle_s)
            return Closed(settling=True)
        if not publish:
            self._sealer.seal(entry)
            return Closed()
        self._sealer.seal_to_publish(entry)
        if not self.committer.take_place(entry):
            self._sealer.promise(entry)
            return Closed()
        attempt = self.committer.attempt(entry)
        if not isinstance(attempt, Published | Conflict):
            self._sealer.promise(entry)
        return Closed(attempt)

    async def _not_sealed(self, entry: Entry, error: Exception) -> WormfsError:
        """A write failed earlier, or the disk under the spool does now. Nobody was promised anything."""
        if isinstance(error, WormfsError):
            reason: WormfsError = error
        else:
            log.error("%s: cannot seal %s", self._backend.name, show(entry.key), exc_info=error)
            reason = BackendFault(f"it could not be sealed: {error!r}", key=entry.key)
        await self.quarantine(entry, f"it could not be written and made durable: {reason}")
        return reason

    async def quarantine(self, entry: Entry, reason: str) -> None:
        """Keep the bytes, never publish them, free the name. The caller holds ``entry.closing``."""
        if entry.state.ended:
            return
        log.warning("%s: %s goes to quarantine: %s", self._backend.name, show(entry.key), reason)
        await threads.run(self._sealer.quarantine, entry, reason, limiter=self._limiter)
        self._end(entry, BackendFault(reason, backend=self._backend.name, key=entry.key))

    def _settle_s(self, entry: Entry) -> float:
        if entry.size_bytes == 0 and not entry.reopened:
            return max(self._options.empty_grace_s, self._options.settle_s)
        return self._options.settle_s

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

    def _ended(self, entry: Entry, outcome: Published | Conflict) -> None:
        """On the event loop, told by the committer."""
        match outcome:
            case Published.OURS:
                self._end(entry, None)
            case Published.IDENTICAL if entry.writer.exclusive:
                self._sealer.release(entry)
                self._end(entry, AlreadyExists("somebody else was first", key=entry.key))
            case Published.IDENTICAL:
                log.info("%s: %s: the same bytes were there already", self._backend.name, show(entry.key))
                self._sealer.release(entry)
                self._end(entry, None)
            case Conflict() as conflict:
                log.error("%s: ALERT: %s; ours go to quarantine", self._backend.name, conflict)
                self._sealer.quarantine(entry, str(conflict))
                self._end(entry, AlreadyExists(str(conflict), key=entry.key))

    def _end(self, entry: Entry, outcome: WormfsError | None) -> None:
        entry.outcome = outcome
        self._names.remove(entry.key)
        entry.ended.set()
        if self._store.wants_refill:
            self._refill_wake.set()

    # Small helpers

    def _translating(self, entry: Entry, doing: str) -> AbstractContextManager[None]:
        return translating(self._backend.name, entry.key, doing)

    def _must_be_free(self, key: Key) -> None:
        taken = self._names.get(key)
        if taken is not None:
            raise (Busy if taken.state is EntryState.WRITING else AlreadyExists)(
                "somebody is writing this file", backend=self._backend.name, key=key
            )

    def _must_change(self, entry: Entry) -> None:
        if not entry.state.changeable:
            raise Sealed("the file has been closed and accepted", backend=self._backend.name, key=entry.key)

    def _fit_journal(self, entry: Entry) -> None:
        """Take the room for all that the journal may ever have to say of this entry, now."""
        ordinary = len(entry.key) <= _ORDINARY_KEY_BYTES and not entry.xattrs
        if entry.slot is not None and not ordinary:
            entry.slot.ensure_capacity(payload_bound(entry.journal()))

    async def _journal(self, entry: Entry) -> None:
        if entry.slot is not None:
            await threads.run(entry.slot.write_durably, entry.journal(), limiter=self._limiter)


def _forever(_: Key) -> Retention:
    return Retention()
