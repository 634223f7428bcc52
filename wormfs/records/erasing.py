"""The end of a file, step by step, each durable before the next begins.

1. The intent is written (``intents``), so that a crash from here on can be made up for.
2. The audit trail says that it begins. If it cannot, nothing is erased.
3. The backend erases every version and trace, and proves it; then its name is looked at once more.
4. The tombstone is written to the audit trail.
5. The intent goes, and whoever asked is told.

A crash before 3 leaves the file, after 3 no file; in both cases ``finish`` brings it to its end at the next
start.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from wormfs import audit, durability
from wormfs.audit import AuditLog, Event
from wormfs.backends.base import Backend
from wormfs.errors import BackendFault, NotFound, Unavailable, WormfsError
from wormfs.model import Kind, ObjectInfo, Record, show
from wormfs.records.intents import Intent, Intents, new_id
from wormfs.worm import dates

log = logging.getLogger(__name__)


class Eraser:
    """Erases files of one backend. The rules were asked before. Blocks; one file at a time per key."""

    def __init__(self, backend: Backend, trail: AuditLog, intents: Intents):
        self._backend = backend
        self._trail = trail
        self._intents = intents

    def erase(
        self, info: ObjectInfo, record: Record | None, *, uid: int, who: str, reason: str, early: bool
    ) -> None:
        """The file is gone, proved and recorded when it returns.

        Raises what the backend raises, and Unavailable when it cannot be recorded. Where the file is not
        known to be as it was, the erasure stays noted and ``finish`` goes on with it.
        """
        intent = _intent(info, record, uid, who, reason, early)
        self._intents.write(intent)
        durability.step("erase.intended")
        try:
            self._trail.note_durably(Event.ERASING, intent.key, **_facts(intent))
        except Unavailable:
            self._intents.remove(intent)
            raise
        durability.step("erase.recorded")
        try:
            self._backend.erase(intent.key, early=intent.early)
            self._prove(intent)
        except WormfsError as error:
            self._failed(intent, error)
            raise
        self._bury(intent)

    def cut_off(self) -> Iterable[Intent]:
        """Erasures that did not come to their end. Raises Unavailable."""
        return list(self._intents)

    def is_cut_off(self, intent: Intent) -> bool:
        """Whether it is still not at its end."""
        return self._intents.has(intent)

    def finish(self, intent: Intent) -> bool:
        """Go on where it was cut off. Whether the file is gone now; raises when it must be tried again."""
        try:
            info = self._backend.stat(intent.key)
        except NotFound:
            # Its name is gone; older versions or other traces may not be.
            self._erase_rest(intent)
            self._bury_once(intent)
            return True
        record = self._backend.record(intent.key) if info.kind is Kind.FILE else None
        if not _is_the_same(intent, info, record):
            # The name was given to another file: so the erasure had come to its end.
            self._bury_once(intent)
            return False
        if record is not None and record.retention.holds:
            self._give_up(intent, "a legal hold was put on it meanwhile")
            return False
        log.info("%s: the erasure of %s goes on", self._backend.name, show(intent.key))
        self._erase_rest(intent)
        self._prove(intent)
        self._bury_once(intent)
        return True

    # Inside

    def _erase_rest(self, intent: Intent) -> None:
        try:
            self._backend.erase(intent.key, early=intent.early)
        except NotFound:
            log.debug("%s: nothing is left of %s", self._backend.name, show(intent.key))

    def _prove(self, intent: Intent) -> None:
        """Raises BackendFault while the backend still shows the file."""
        try:
            info = self._backend.stat(intent.key)
            if not _is_the_same(intent, info, self._backend.record(intent.key)):
                return
        except NotFound:
            durability.step("erase.proved")
            return
        raise BackendFault(
            "the backend said that it was erased, and still shows it",
            backend=self._backend.name,
            key=intent.key,
        )

    def _bury_once(self, intent: Intent) -> None:
        """The same after a crash: an earlier attempt may have come as far as the tombstone."""
        written = audit.read(self._trail.path, intent.id.encode())
        if any(line.get("event") == Event.ERASED.value for line in written):
            self._intents.remove(intent)
        else:
            self._bury(intent)

    def _bury(self, intent: Intent) -> None:
        """Write the tombstone."""
        self._trail.note_durably(Event.ERASED, intent.key, **_facts(intent, self._trail))
        durability.step("erase.tombstoned")
        self._intents.remove(intent)
        log.info(
            "%s: %s was erased (uid %d): %s", self._backend.name, show(intent.key), intent.uid, intent.reason
        )

    def _failed(self, intent: Intent, error: WormfsError) -> None:
        """Whether the file is still whole decides if the erasure is given up or goes on later."""
        if isinstance(error, Unavailable):
            return
        try:
            info = self._backend.stat(intent.key)
            whole = _is_the_same(intent, info, self._backend.record(intent.key))
        except WormfsError:
            whole = False
        if whole:
            self._give_up(intent, str(error.args[0] if error.args else error))

    def _give_up(self, intent: Intent, why: str) -> None:
        self._trail.note(Event.NOT_ERASED, intent.key, erasure=intent.id, reason=why)
        log.warning("%s: %s was not erased: %s", self._backend.name, show(intent.key), why)
        self._intents.remove(intent)


def _intent(info: ObjectInfo, record: Record | None, uid: int, who: str, reason: str, early: bool) -> Intent:
    return Intent(
        id=new_id(),
        key=info.key,
        entry=record.entry_id if record is not None else None,
        sha256=record.sha256 if record is not None else None,
        size_bytes=info.size_bytes,
        mtime_ns=info.mtime_ns,
        committed_at_ns=record.committed_at_ns if record is not None else None,
        retain_until_ns=record.retention.retain_until_ns if record is not None else None,
        uid=uid,
        who=who,
        reason=reason,
        early=early,
    )


def _is_the_same(intent: Intent, info: ObjectInfo, record: Record | None) -> bool:
    """Whether the name still holds the file that was to be erased, or what is left of it."""
    if info.kind is not Kind.FILE:
        return False
    if record is not None:
        return record.entry_id == intent.entry
    # Its record may have gone first.
    return (info.size_bytes, info.mtime_ns) == (intent.size_bytes, intent.mtime_ns)


def _facts(intent: Intent, trail: AuditLog | None = None) -> dict[str, audit.Fact]:
    """What a line about an erasure says; with ``trail`` it is the tombstone. No names."""
    facts: dict[str, audit.Fact] = {"erasure": intent.id, "entry": intent.entry}
    if trail is not None and intent.sha256 is not None:
        facts["content"] = trail.content(intent.sha256)
    facts |= {"size": intent.size_bytes, "retain_until": dates.show(intent.retain_until_ns)}
    if intent.committed_at_ns is not None:
        facts["committed_at"] = dates.show(intent.committed_at_ns)
    facts |= {"uid": intent.uid, "reason": intent.reason, "early": intent.early}
    if intent.who:
        facts["who"] = intent.who
    return facts
