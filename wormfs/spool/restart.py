"""Taking up what an earlier daemon left: live entries from journal records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from wormfs.model import show
from wormfs.spool.entry import Entry, Writer
from wormfs.spool.journal import EntryRecord
from wormfs.spool.spool import Spool
from wormfs.spool.store import Slot, SpoolStore
from wormfs.worm.lifecycle import EntryState

log = logging.getLogger(__name__)


def recover(
    store: SpoolStore,
    spool: Spool,
    backend_name: str,
    erased_among: Callable[[Collection[str]], Collection[str]] = lambda entry_ids: (),
) -> None:
    """Open ``store`` and hand its unfinished entries to ``spool``. Blocks; once, before ``spool.run``.

    ``erased_among`` says which of some entries were committed and have been erased since: a power loss may
    have brought their spool files back, which are not waited for when they go.
    Raises SpoolLocked, JournalError, and what the disk says.
    """
    store.open()
    swept = store.sweep(store.recover())
    for record in swept.quarantined:
        log.warning(
            "%s: %s was not finished at the last stop; its %d bytes are in quarantine as %s",
            backend_name, show(record.key) or "a file of unknown name", record.size_bytes, record.entry_id,
        )  # fmt: skip
    # In the order in which they were closed: that is when the last transition was.
    sealed = [found.record.entry_id for found in swept.resume if found.record and found.record.record]
    erased = frozenset(erased_among(sealed)) if sealed else frozenset()
    for found in sorted(swept.resume, key=lambda found: found.record.history[-1][1] if found.record else 0):
        assert found.record is not None and found.slot is not None, "what is resumed has a record"
        if found.record.entry_id in erased:
            log.warning("%s: %s was erased and stays so", backend_name, show(found.record.key))
            store.release(found.slot)
            continue
        if spool.get(found.record.key) is not None:
            # It cannot be; but if it ever is, the one that was closed first goes on and none is lost.
            log.error(
                "%s: ALERT: two entries of the spool claim %s; %s waits for the next start",
                backend_name, show(found.record.key), found.record.entry_id,
            )  # fmt: skip
            continue
        spool.adopt(live_entry(found.record, found.slot))
    if swept.resume:
        log.info("%s: %d files of an earlier run go on to the backend", backend_name, len(swept.resume))


def live_entry(record: EntryRecord, slot: Slot) -> Entry:
    """An entry as it was when its journal record was written; nobody has it open."""
    attributes = record.attributes
    return Entry(
        id=record.entry_id,
        key=record.key,
        state=record.state,
        mode=attributes.mode,
        uid=attributes.uid,
        gid=attributes.gid,
        atime_ns=attributes.atime_ns,
        mtime_ns=attributes.mtime_ns,
        ctime_ns=record.history[-1][1] if record.history else record.created_at_ns,
        created_at_ns=record.created_at_ns,
        writer=Writer(uid=record.writer_uid, pid=0, opened_boot_s=0.0),
        slot=slot,
        size_bytes=record.size_bytes,
        xattrs=dict(attributes.xattrs),
        record=record.record,
        history=list(record.history),
        last_error=record.last_error,
        # Nobody reopens a file that was empty before a restart twice.
        reopened=any(state is EntryState.SETTLING for state, _, _ in record.history[:-1]),
        settle_until_ns=record.settle_until_ns,
        closed_to_writes=True,
        taken_up=True,
    )
