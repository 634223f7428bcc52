"""What happens to an entry in a thread: sealed, settled, quarantined, released, given up.

Everything here blocks on the disk. The caller holds ``entry.closing``, so a thread has the entry to itself.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import wormfs
from wormfs import durability, threads
from wormfs.backends.base import Transfer
from wormfs.clock import NS_PER_S, Clock
from wormfs.errors import WormfsError
from wormfs.model import Key, Record, Retention, show
from wormfs.oserrors import translating
from wormfs.spool.entry import Entry
from wormfs.spool.store import Slot, SpoolStore
from wormfs.worm.lifecycle import EntryState

log = logging.getLogger(__name__)

_BESIDE = 16
"""Journal records that can be on their way to the disk at once."""
_WORTH_WRITING_AHEAD_BYTES = 1 << 20


class Sealer:
    """The durable transitions of entries of one backend."""

    def __init__(
        self,
        backend: str,
        store: SpoolStore,
        clock: Clock,
        retention_of: Callable[[Key], Retention] = lambda key: Retention(),
    ):
        """``backend``: its name, for messages. ``retention_of``: how long a file stays that is sealed now."""
        self._backend = backend
        self._store = store
        self._clock = clock
        self._retention_of = retention_of
        self._beside = threads.Beside(_BESIDE)

    def close(self) -> None:
        """End its threads. Once, when nothing is sealed any more."""
        self._beside.close()

    def seal(self, entry: Entry) -> None:
        """Fix content and name; durable here when it returns.

        Raises OutOfSpace, Unavailable, BackendFault when the disk under the spool fails; the
        entry is then not sealed as far as a restart can see, and must not be published.
        """
        self._fix(entry)
        with translating(self._backend, entry.key, "seal the spool file"):
            # Bytes and journal become durable side by side: one wait instead of two. A power loss may leave
            # a journal that says sealed beside bytes that are not all there; therefore whoever takes an
            # entry up after a restart compares its digest first (Committer.publish).
            journal = self._beside.start(self._journal_durably, entry)
            try:
                self._sync_data(entry)
            finally:
                journal.result()

    def seal_to_publish(self, entry: Entry) -> None:
        """The same for an entry that is published at once, by the same thread, while the writer waits.

        Its bytes are durable when it returns; that it is sealed, only as long as the machine lives. Nobody is
        told of the file before the backend has made the name durable, and that then tells more than
        the journal could. ``promise`` must follow if the publish fails. Raises as ``seal`` does.
        """
        self._fix(entry)
        with translating(self._backend, entry.key, "seal the spool file"):
            self._sync_data(entry)
            _slot(entry).write(entry.journal())

    def promise(self, entry: Entry) -> None:
        """After ``seal_to_publish``: that it is sealed survives a power loss, too, when this returns."""
        with translating(self._backend, entry.key, "seal the spool file"):
            self._journal_durably(entry)

    def _fix(self, entry: Entry) -> None:
        self._close_to_writes(entry)
        durability.step("spool.data-written")
        with translating(self._backend, entry.key, "seal the spool file"):
            now = self._clock.now_ns()
            entry.record = Record(
                entry_id=entry.id,
                sha256=self._finish_digest(entry),
                size_bytes=entry.size_bytes,
                attributes=entry.attributes(),
                committed_at_ns=now,
                writer_uid=entry.writer.uid,
                wormfs_version=wormfs.__version__,
                retention=self._retention_of(entry.key),
            )
            if entry.transfer is not None:
                entry.transfer.prepare(entry.spooled(), entry.record)
        entry.settle_until_ns = None
        entry.move(EntryState.SEALED, now)

    def _finish_digest(self, entry: Entry) -> str:
        if entry.size_bytes - entry.digest.hashed_bytes > _WORTH_WRITING_AHEAD_BYTES:
            # The disk writes while the processor hashes.
            durability.begin_writeback(entry.data_fd)
        return entry.digest.finish(entry.data_fd, entry.size_bytes)

    @staticmethod
    def _sync_data(entry: Entry) -> None:
        durability.sync_file(entry.data_fd)
        durability.step("spool.data-synced")

    def settle(self, entry: Entry, settle_s: float) -> None:
        """Closed and durable, but open to changes for ``settle_s`` seconds more."""
        self._close_to_writes(entry)
        now = self._clock.now_ns()
        entry.settle_until_ns = now + int(settle_s * NS_PER_S)
        with translating(self._backend, entry.key, "sync the spool file"):
            durability.sync_file(entry.data_fd)
        entry.move(EntryState.SETTLING, now)
        self._journal_durably(entry)

    def sync(self, entry: Entry) -> None:
        """What has been written so far is durable here, and so is what is known of it."""
        with translating(self._backend, entry.key, "sync the spool file"):
            durability.sync_file(entry.data_fd)
        self._journal_durably(entry)

    def quarantine(self, entry: Entry, reason: str) -> None:
        """Keep the bytes, publish nothing, free the name. Does not raise."""
        self._give_up_sending(entry)
        entry.last_error = reason
        entry.move(EntryState.QUARANTINED, self._clock.now_ns(), reason)
        record = entry.journal()
        slot = entry.part_from_slot()
        assert slot is not None, "an entry that has not ended has a slot"
        try:
            if entry.size_bytes == 0:
                # Nothing was accepted, so there is nothing to keep.
                self._store.discard(slot)
            else:
                self._store.quarantine(slot, record)
        except WormfsError as error:
            # Its name is free and nothing is published; the next start finishes the move.
            name = self._backend
            log.error("%s: ALERT: entry %s could not be moved to quarantine: %s", name, entry.id, error)
            if slot.record is not None and not slot.record.state.ended:
                # The decision at least: what the journal calls sealed would be published at the next start.
                with contextlib.suppress(WormfsError):
                    slot.write_durably(record)
            slot.close_data()

    def release(self, entry: Entry) -> None:
        """The backend holds it: the spool files go. Does not raise: the file is safe already."""
        slot = entry.part_from_slot()
        if slot is None:
            return
        entry.move(EntryState.COMMITTED, self._clock.now_ns())
        try:
            self._store.release(slot)
        except WormfsError as error:
            name = self._backend
            log.warning("%s: spool files of %s stay until the next start: %s", name, show(entry.key), error)

    def abandon(self, entry: Entry) -> None:
        """Give back whatever an entry has taken; it has not become anything."""
        self._give_up_sending(entry)
        slot = entry.part_from_slot()
        if slot is not None:
            self._store.discard(slot)

    def _close_to_writes(self, entry: Entry) -> None:
        with entry.content:
            entry.closed_to_writes = True
        with entry.sending:
            # What was sent ahead may be out of date, or half sent: the committer begins again.
            if entry.went_back:
                self._drop_transfer(entry)

    def drop_transfer(self, entry: Entry) -> None:
        """What was sent ahead goes; the transfer is built again from the spool when it is needed."""
        with entry.sending:
            self._drop_transfer(entry)

    def _give_up_sending(self, entry: Entry) -> None:
        with entry.content:
            entry.closed_to_writes = True
        self.drop_transfer(entry)

    def _journal_durably(self, entry: Entry) -> None:
        _slot(entry).write_durably(entry.journal())

    @staticmethod
    def _drop_transfer(entry: Entry) -> None:
        transfer, entry.transfer = entry.transfer, None
        if transfer is not None:
            abort_quietly(transfer)


def _slot(entry: Entry) -> Slot:
    assert entry.slot is not None, "an entry that has not ended has a slot"
    return entry.slot


def abort_quietly(transfer: Transfer) -> None:
    """What is left at a backend that does not answer is cleaned up at its next start."""
    with contextlib.suppress(WormfsError):
        transfer.abort()
