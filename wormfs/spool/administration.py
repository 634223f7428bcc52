"""What an administrator asks of a running spool: look, try again, bring back, throw away.

Lives on the event loop. Whatever reads many bytes can be cancelled; whatever changes something is
durable, and done, when it returns.
"""

from __future__ import annotations

import enum
import heapq
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, replace

import trio

import wormfs
from wormfs import threads
from wormfs.backends.base import Backend
from wormfs.clock import NS_PER_S, Clock
from wormfs.errors import (
    AlreadyExists,
    BackendFault,
    DigestMismatch,
    NotFound,
    Refused,
    Sealed,
)
from wormfs.model import Key, Record, show
from wormfs.spool.entry import Entry
from wormfs.spool.journal import UNKNOWN_KEY, EntryRecord
from wormfs.spool.quarantine import QuarantinedEntry, Totals
from wormfs.spool.restart import live_entry
from wormfs.spool.spool import Spool
from wormfs.spool.store import Slot, SpoolStore
from wormfs.worm.lifecycle import EntryState

log = logging.getLogger(__name__)

_LOOK_S = 0.02
_FRESH_NS = NS_PER_S
"""A directory's time is no proof against changes within the clock tick in which it was looked at."""


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """What only the running daemon knows of an entry."""

    entry_id: str
    state: EntryState
    size_bytes: int
    attempts: int
    last_error: str | None
    next_attempt_s: float | None
    """Seconds until the next attempt; ``None`` while nothing is waited for."""


class Outcome(enum.Enum):
    """What an attempt came to."""

    COMMITTED = "committed"
    QUARANTINED = "quarantined"
    WAITING = "waiting"
    """Not at the backend yet; it is tried for ever."""
    GONE = "gone"
    """It was not there any more: it had its end before."""


@dataclass(frozen=True, slots=True)
class Attempted:
    """How it went for one entry."""

    entry_id: str
    outcome: Outcome
    error: str | None = None


class Promise(enum.Enum):
    """Which bytes of a quarantined entry shall become a record."""

    AS_SEALED = "those that were sealed before"
    AS_IS = "those that are there, by the administrator's decision"


class Administration:
    """The operations on one backend's spool."""

    def __init__(self, backend: Backend, spool: Spool, store: SpoolStore, clock: Clock):
        self._backend = backend
        self._spool = spool
        self._store = store
        self._clock = clock
        self._totals: Totals | None = None
        self._looked_at: tuple[int, int] | None = None
        """The quarantine directory's own time and ours, when ``_totals`` were taken."""

    # Looking

    def live(self, after: str, limit: int) -> list[LiveFacts]:
        """The first ``limit`` live entries with an id above ``after``, in the order of ids."""
        found = heapq.nsmallest(limit, (e for e in self._spool if e.id > after), key=lambda entry: entry.id)
        now = self._clock.monotonic()
        return [
            LiveFacts(
                entry_id=entry.id,
                state=entry.state,
                size_bytes=entry.size_bytes,
                attempts=entry.attempts,
                last_error=entry.last_error,
                next_attempt_s=max(0.0, entry.retry_at - now) if entry.attempts else None,
            )
            for entry in found
        ]

    async def quarantine_totals(self, patience_s: float) -> Totals | None:
        """What quarantine holds; the last known numbers when looking takes longer than that.

        Costs one ``stat`` while nothing changes there. ``None``: not known yet.
        """
        with trio.move_on_after(patience_s):
            # Only looks: left alone in its thread it harms nobody.
            await threads.run_abandonable(self._look_at_quarantine)
        return self._totals

    def _look_at_quarantine(self) -> None:
        quarantine = self._store.quarantined
        now_ns = self._clock.now_ns()
        try:
            changed_ns = os.stat(quarantine.directory).st_mtime_ns
        except FileNotFoundError:
            changed_ns = 0
        known = self._looked_at
        if known is not None and known[0] == changed_ns and known[1] - changed_ns > _FRESH_NS:
            return
        self._totals = quarantine.totals()
        self._looked_at = (changed_ns, now_ns)

    # Trying again

    async def retry(self, ids: Collection[str] | None, wait_s: float) -> list[Attempted]:
        """Forget all delays and try sealed entries now; see how it goes for at most ``wait_s`` seconds.

        Args:
            ids: those to tell of; ``None``: all. The delays of all are forgotten in any case.
        """
        sealed = {entry.id: entry for entry in self._spool if entry.state is EntryState.SEALED}
        chosen = list(sealed.values()) if ids is None else [sealed[i] for i in ids if i in sealed]
        gone = [] if ids is None else [Attempted(i, Outcome.GONE) for i in ids if i not in sealed]
        before = {entry.id: entry.attempts for entry in chosen}
        self._spool.committer.retry_now()
        await self._attempts(before, chosen, wait_s)
        return [_attempted(entry) for entry in chosen] + gone

    async def _attempts(self, before: dict[str, int], entries: list[Entry], wait_s: float) -> None:
        """Wait until each entry has had its end or one more attempt, or the backend is still away."""
        pending = entries
        with trio.move_on_after(wait_s):
            # A first look only when the committer has had its turn.
            await trio.sleep(_LOOK_S)
            while not self._spool.committer.resting:
                pending = [e for e in pending if not e.ended.is_set() and e.attempts <= before[e.id]]
                if not pending:
                    return
                await trio.sleep(_LOOK_S)

    # Bringing back

    async def restore(self, entry_id: str, promise: Promise, who: str, wait_s: float) -> Attempted:
        """Make a quarantined entry a sealed one and try to commit it; see how it goes for ``wait_s``.

        Reads all of its bytes, which can be cancelled; from then on it is done to the end. Sealed
        durably when it returns, whatever the backend says.

        Raises NotFound (no such entry, no bytes), Refused (never sealed, and ``promise`` does not say
        to take it as it is; or nobody knows its name), DigestMismatch (``AS_SEALED``, and the bytes are
        others), AlreadyExists and Busy (the name is taken), and what backend and disk say.
        """
        found = await threads.run(self._store.quarantined.get, entry_id)
        record = _restorable(found, promise)
        # Asked twice: a taken name should not cost the reading of a large file.
        await self._must_be_free(record)
        digest = await threads.run(self._store.quarantined.digest, entry_id, _unless_cancelled)
        sealed = self._as_sealed(record, found.size_bytes or 0, digest, promise, who)
        with self._spool.reserved(record.key, record.attributes):
            await self._must_be_free(record, ours=True)
            slot: Slot = await threads.run(self._store.restore, entry_id, sealed)
        # No other task has run since the name was given back.
        assert slot.record is not None, "what was restored is journalled"
        entry = live_entry(slot.record, slot)
        entry.taken_up = False  # its bytes have just been compared
        self._spool.adopt(entry)
        log.warning(
            "%s: %s comes back from quarantine (%s, entry %s), by %s",
            self._backend.name, show(record.key), promise.value, entry_id, who,
        )  # fmt: skip
        await self._attempts({entry.id: 0}, [entry], wait_s)
        return _attempted(entry)

    async def _must_be_free(self, record: EntryRecord, *, ours: bool = False) -> None:
        """The name must be free here and at the backend. ``ours``: this host's name is reserved by us."""
        key, name = record.key, self._backend.name
        if not ours and self._spool.get(key) is not None:
            raise AlreadyExists("the name is taken by a file on its way", backend=name, key=key)
        # Questions only: a backend that hangs must not keep the daemon from stopping.
        if await threads.run_abandonable(self._is_absent, key):
            return
        theirs = await threads.run_abandonable(self._backend.record, key)
        if theirs is not None and theirs.sha256 == record.sha256:
            raise AlreadyExists(
                "the backend holds these very bytes; discard the entry", backend=name, key=key
            )
        raise AlreadyExists(
            "the name is taken; export the entry and store it under another name", backend=name, key=key
        )

    def _is_absent(self, key: Key) -> bool:
        try:
            self._backend.stat(key)
        except NotFound:
            return True
        return False

    def _as_sealed(
        self, record: EntryRecord, size_bytes: int, digest: str, promise: Promise, who: str
    ) -> EntryRecord:
        now = self._clock.now_ns()
        before = record.record
        if promise is Promise.AS_SEALED:
            assert before is not None, "asked before"
            if (digest, size_bytes) != (before.sha256, before.size_bytes):
                raise DigestMismatch(
                    f"the bytes of entry {record.entry_id} are not those that were sealed; they can only be "
                    "exported, or be retried as they are",
                    backend=self._backend.name,
                    key=record.key,
                )
            return record.moved(EntryState.SEALED, now, f"retried by {who}")
        made = Record(
            entry_id=record.entry_id,
            sha256=digest,
            size_bytes=size_bytes,
            attributes=record.attributes,
            committed_at_ns=now,
            writer_uid=record.writer_uid,
            wormfs_version=wormfs.__version__,
            retention=before.retention if before is not None else self._spool.retention_of(record.key),
        )
        fixed = replace(record, size_bytes=size_bytes, sha256=digest, record=made, settle_until_ns=None)
        return fixed.moved(EntryState.SEALED, now, f"sealed as it is by {who}")

    # Throwing away

    async def discard(self, entry_id: str, who: str, why: str) -> None:
        """Remove a quarantined entry for good; who and why are durable before.

        Raises Sealed for an entry that is on its way, NotFound, InvalidArgument, OutOfSpace.
        """
        if any(entry.id == entry_id for entry in self._spool):
            raise Sealed(f"entry {entry_id} is on its way to the backend", backend=self._backend.name)
        await threads.run(self._store.quarantined.discard, entry_id, who, why)
        log.warning(
            "%s: entry %s in quarantine was discarded by %s: %s", self._backend.name, entry_id, who, why
        )


def _restorable(found: QuarantinedEntry, promise: Promise) -> EntryRecord:
    """The record of an entry that may come back. Raises Refused, NotFound, InvalidArgument."""
    entry_id, record = found.entry_id, found.record
    if found.size_bytes is None:
        raise NotFound(f"entry {entry_id} has no bytes in quarantine")
    if record is None or record.key == UNKNOWN_KEY:
        raise Refused(
            f"nobody knows the name of entry {entry_id}; export it and store it under a name of your choice"
        )
    if promise is Promise.AS_SEALED and record.record is None:
        why = record.last_error or "no reason is known"
        raise Refused(
            f"entry {entry_id} was never sealed ({why}): it may be half a file. Export it and look; if it is "
            "whole, --as-is makes a record of the bytes as they are"
        )
    return record


def _attempted(entry: Entry) -> Attempted:
    match entry.state:
        case EntryState.COMMITTED:
            return Attempted(entry.id, Outcome.COMMITTED)
        case EntryState.QUARANTINED:
            return Attempted(entry.id, Outcome.QUARANTINED, entry.last_error)
        case EntryState.SEALED:
            return Attempted(entry.id, Outcome.WAITING, entry.last_error)
        case other:
            raise BackendFault(f"entry {entry.id} is {other.value}, which it cannot be")


def _unless_cancelled(_: int) -> None:
    threads.check_cancelled()
