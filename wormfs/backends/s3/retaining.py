"""Retention of committed files: the row of changes in the bucket, and the store's own lock."""

from __future__ import annotations

from wormfs.backends.s3.options import ObjectLock
from wormfs.backends.s3.records import Records
from wormfs.backends.s3.store import Head, Store, native_hold
from wormfs.errors import AccessDenied, Retained, WormfsError
from wormfs.model import Key, Record, Retention, RetentionChange
from wormfs.worm import retention

NS = 1_000_000_000


class Retaining:
    """Applies changes. Safe from any thread and beside other hosts."""

    def __init__(self, store: Store, records: Records) -> None:
        self._store = store
        self._records = records

    def change(self, key: Key, head: Head, record: Record, change: RetentionChange) -> Retention:
        """What is in force after ``change``: stored in the row first, then set at the store, until both say
        the same. Raises Retained."""
        while True:
            number, now = self._records.retention_of(key, record)
            try:
                wanted = retention.changed(now, change)
            except WormfsError as error:
                error.backend, error.key = self._store.backend, key
                raise
            if wanted == now or self._records.append(key, record, number + 1, wanted):
                break
        return self._apply(key, head, record, wanted)

    def _apply(self, key: Key, head: Head, record: Record, wanted: Retention) -> Retention:
        """Others may change it meanwhile: what was stored last is what the store must keep."""
        while True:
            self._set_natively(key, head, record, wanted)
            _, latest = self._records.retention_of(key, record)
            if latest == wanted:
                return wanted
            wanted = latest

    def secure(self, key: Key, head: Head, record: Record) -> None:
        """After an upload: some stores take lock headers and do not act on them."""
        if self._store.options.object_lock is ObjectLock.NONE:
            return
        until = self._store.native_date(record, record.retention)
        locked = until is None or (head.locked_until_ns or 0) >= int(until.timestamp()) * NS
        if locked and (head.held or not native_hold(record.retention)):
            return
        _, now = self._records.retention_of(key, record)
        self._set_natively(key, head, record, now)

    def _set_natively(self, key: Key, head: Head, record: Record, wanted: Retention) -> None:
        if self._store.options.object_lock is ObjectLock.NONE:
            return
        version = {"Key": head.name, "VersionId": head.version_id}
        until = self._store.native_date(record, wanted)
        if until is not None:
            lock = {"Mode": self._store.options.object_lock.name, "RetainUntilDate": until}
            try:
                self._store.call("put_object_retention", key, "set its date", Retention=lock, **version)
            except AccessDenied:
                # A later date is there already; it may not come earlier.
                now = self._store.head(head.name, key, head.version_id)
                if (now.locked_until_ns or 0) < int(until.timestamp()) * NS:
                    raise
        status = {"Status": "ON" if native_hold(wanted) else "OFF"}
        self._store.call("put_object_legal_hold", key, "set its hold", LegalHold=status, **version)

    def refuse_erasing(self, key: Key, head: Head, *, early: bool) -> Retained:
        """Why the store did not let a version go."""
        mode = self._store.options.object_lock
        until = head.locked_until_ns
        why = "a legal hold" if head.held else f"the store keeps it until {until and until // NS}"
        hint = (
            " (compliance mode: nobody can erase it earlier)"
            if early and mode is ObjectLock.COMPLIANCE
            else ""
        )
        return Retained(f"{why}{hint}", backend=self._store.backend, key=key)
