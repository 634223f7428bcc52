"""Records: what an object's metadata says, the whole record where that is not enough, and each later change.

An object's metadata can never change, so each change of retention is an object of its own, numbered and made
only if its number is free. The highest number counts: of two that change at once, one sees the other's.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping

from wormfs.backends import record_codec
from wormfs.backends.s3 import metadata
from wormfs.backends.s3.failures import PreconditionFailed
from wormfs.backends.s3.names import Names, number_of, numbered
from wormfs.backends.s3.store import Head, Store
from wormfs.errors import BackendFault, NotFound
from wormfs.model import Key, Record, Retention

_KEPT = 1024


class Records:
    """The records of one bucket. Safe from any thread."""

    def __init__(self, store: Store, names: Names) -> None:
        self._store = store
        self._names = names
        self._lock = threading.Lock()
        self._whole: OrderedDict[str, Record] = OrderedDict()

    def of_head(self, key: Key, head: Head) -> Record | None:
        """The record as committed; ``None`` for an object that wormfs did not write. Raises BackendFault."""
        try:
            kept = metadata.decode(head.metadata)
            if kept.more is None:
                return kept.record
            return self._whole_record(key, kept.more)
        except NotFound as error:
            raise BackendFault(
                "its record's second part (below .wormfs/record/) is gone",
                backend=self._store.backend,
                key=key,
            ) from error
        except BackendFault as error:
            error.backend, error.key = self._store.backend, key
            raise

    def _whole_record(self, key: Key, more: str) -> Record:
        """From an object that never changes, so it is read once."""
        with self._lock:
            record = self._whole.get(more)
        if record is None:
            record = record_codec.decode(self._store.read_small(self._names.records(key) + more, key))
            with self._lock:
                self._whole[more] = record
                while len(self._whole) > _KEPT:
                    self._whole.popitem(last=False)
        return record

    def keep_whole(self, key: Key, more: str, record: Record) -> None:
        """Store the whole record beside an object that will name it."""
        self._store.put(
            self._names.records(key) + more, record_codec.encode(record), key, new=False,
            metadata={metadata.KEY: metadata.escape(key)[: metadata.ROOM_BYTES]}, lock=record,
        )  # fmt: skip

    def drop_whole(self, key: Key, more: str) -> None:
        """The object that would have named it does not come."""
        self._store.purge(self._names.records(key) + more, key)

    # Retention

    def retention_of(self, key: Key, record: Record) -> tuple[int, Retention]:
        """The number of the last change (0: none) and what has been in force since."""
        prefix = f"{self._names.retentions(key)}{record.entry_id}/"
        page = self._store.page(prefix, at_most=1, key=key)
        if not page.objects:
            return 0, record.retention
        name = page.objects[0].name
        try:
            return number_of(name), _retention_of(self._store.read_small(name, key))
        except ValueError as error:
            raise BackendFault(
                f"{name} is no change of retention", backend=self._store.backend, key=key
            ) from error

    def append(self, key: Key, record: Record, number: int, retention: Retention) -> bool:
        """Store the change ``number``; false when somebody else has stored one of that number."""
        name = f"{self._names.retentions(key)}{record.entry_id}/{numbered(number)}"
        content = _text_of(key, retention)
        try:
            self._store.put(name, content, key)
        except PreconditionFailed:
            # Perhaps our own, whose answer was lost: the same text is as good as ours.
            return self._store.read_small(name, key) == content
        return True

    def current(self, key: Key, record: Record) -> Record:
        """The record with the retention that is in force."""
        return dataclasses.replace(record, retention=self.retention_of(key, record)[1])


def _text_of(key: Key, retention: Retention) -> bytes:
    document = {
        "v": 1,
        "key": key.decode(),
        "retain_until_ns": retention.retain_until_ns,
        "holds": list(retention.holds),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _retention_of(text: bytes) -> Retention:
    document = json.loads(text)
    if not isinstance(document, Mapping) or document.get("v") != 1:
        raise ValueError("not a change of retention")
    until, holds = document["retain_until_ns"], document["holds"]
    if not (until is None or isinstance(until, int)) or not all(isinstance(hold, str) for hold in holds):
        raise ValueError("not a change of retention")
    return Retention(until, tuple(holds))


def key_in(text: bytes) -> str | None:
    """The path that a hidden object of wormfs is about, for people; ``None`` if it does not say."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    key = document.get("key") if isinstance(document, Mapping) else None
    return key if isinstance(key, str) else None
