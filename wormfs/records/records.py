"""Committed files of one backend: asked about, extended, held, erased, each change recorded.

Methods block (backend and disk) and may be called from any thread, but for those that say that they take
microseconds. What changes one file runs alone for that file: of a hold and an erasure at the same time one
is refused.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wormfs import audit
from wormfs.audit import AuditLog, Event
from wormfs.backends.base import Backend
from wormfs.clock import monotonic
from wormfs.errors import IsADirectory, Refused, Unsupported, WormfsError
from wormfs.model import Key, Kind, ObjectInfo, Record, Retention, RetentionChange
from wormfs.records.erasing import Eraser
from wormfs.records.intents import Intent, Intents
from wormfs.records.limit import RefusalLimit
from wormfs.records.trustedclock import TrustedClock
from wormfs.worm import dates, erasing
from wormfs.worm.erasing import EraseMode, Judged
from wormfs.worm.policy import RetentionPolicy
from wormfs.worm.retention import must_be_case

log = logging.getLogger(__name__)

ROOT_UID = 0


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What an administrator may set."""

    policy: RetentionPolicy = field(default_factory=RetentionPolicy)
    mode: EraseMode = EraseMode.NEVER
    atime_retention: bool = False
    compliance: bool = False


@dataclass(frozen=True, slots=True)
class Asker:
    """Who wants something: the uid that the kernel tells, and for commands what they say of themselves."""

    uid: int
    who: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """A committed file with all that decides on its end."""

    info: ObjectInfo
    record: Record | None
    judged: Judged
    latest_ns: int | None
    """How long ``max`` lets it be here; ``None``: for ever."""
    past_max: bool


class Records:
    """See the module's text."""

    def __init__(
        self,
        backend: Backend,
        options: RecordOptions,
        clock: TrustedClock,
        trail: AuditLog | None = None,
        intents_directory: Path | None = None,
    ):
        """Without ``trail`` and ``intents_directory`` nothing can be erased: it could not be recorded."""
        self.clock = clock
        self.trail = trail
        self.options = options
        self.erased: Callable[[Key], None] | None = None
        """Told of every file that is gone, in the thread that erased it: whoever remembers it forgets it."""
        self._backend = backend
        self._alone = _KeyLocks()
        self._refusals = RefusalLimit()
        self._eraser: Eraser | None = None
        if trail is not None and intents_directory is not None:
            self._eraser = Eraser(backend, trail, Intents(intents_directory, backend.name))

    def announce(self) -> None:
        """Say at the start what an administrator should not overlook."""
        if self.options.mode is EraseMode.ALWAYS:
            log.warning(
                "%s: ALERT: 'erase: always': new files have no retention, and whoever may write here may "
                "delete them. This is a scratch directory, no archive",
                self._backend.name,
            )

    @property
    def compliance(self) -> bool:
        """Nobody erases anything before its date."""
        return self.options.compliance or self._backend.traits.compliance

    # What the spool asks and tells; microseconds

    def retention_of(self, key: Key) -> Retention:
        """What the record of a file says that is sealed now."""
        return self.options.policy.retention_of(key, self.clock.start_ns())

    def committed(self, key: Key, record: Record) -> None:
        """The backend holds a file. May be told twice of the same one, after a crash."""
        self._note(
            Event.COMMITTED,
            key,
            entry=record.entry_id,
            size=record.size_bytes,
            uid=record.writer_uid,
            retain_until=dates.show(record.retention.retain_until_ns),
        )

    def refused(self, operation: str, uid: int, error: Refused) -> None:
        """Somebody wanted to change what is fixed. A user's loop does not fill the disk: beyond some a minute
        they are counted, and the count is written with that user's next one."""
        if error.key is None:
            return
        left_out = self._refusals.admit(uid, monotonic())
        if left_out is not None:
            reason = error.args[0] if error.args else type(error).__name__
            more = {"left_out": left_out} if left_out else {}
            self._note(
                Event.REFUSED, Key(error.key), operation=operation, uid=uid, reason=str(reason), **more
            )

    # Looking

    def look(self, key: Key) -> Look:
        """Raises NotFound, IsADirectory, Unavailable."""
        info, record = self._find(key)
        expiry_ns = self.clock.expiry_ns()
        judged = erasing.judge(record, expiry_ns)
        policy = self.options.policy
        latest_ns = None if record is None else policy.latest(key, record.committed_at_ns)
        past_max = latest_ns is not None and expiry_ns is not None and expiry_ns > latest_ns
        return Look(info, record, judged, latest_ns, past_max)

    # Changing

    def extend(self, key: Key, until_ns: int | None, asker: Asker) -> Record:
        """Move a file's date; later only. Durable and recorded when it returns.

        Raises Retained when it would come earlier or lies after ``max``, NotFound, IsADirectory, Unsupported
        for a file without a record, Unavailable when it cannot be recorded.
        """
        with self._alone.on(key), self._about(key):
            record = self._find(key)[1]
            if record is not None and record.retention.retain_until_ns != until_ns:
                self.options.policy.may_extend(key, record.committed_at_ns, until_ns)
            after = self._backend.change_retention(key, RetentionChange(extend=True, extend_to_ns=until_ns))
            if record is not None and after.retention != record.retention:
                self._note_durably(
                    Event.RETAINED,
                    key,
                    before=dates.show(record.retention.retain_until_ns),
                    retain_until=dates.show(after.retention.retain_until_ns),
                    uid=asker.uid,
                    **_who(asker),
                )
            return after

    def hold(self, key: Key, cases: tuple[str, ...], asker: Asker) -> Record:
        """Put a file under legal holds, besides those that are there. Root only. As durable as ``extend``."""
        with self._alone.on(key), self._about(key):
            _must_be_root(asker, "change legal holds")
            for case in cases:
                must_be_case(case)
            before = self._find(key)[1]
            after = self._backend.change_retention(key, RetentionChange(add_holds=cases))
            if after != before:
                self._note_durably(Event.HELD, key, case=", ".join(cases), uid=asker.uid, **_who(asker))
            return after

    def release(self, key: Key, cases: tuple[str, ...] | None, asker: Asker) -> Record:
        """Take legal holds off a file; ``None`` for all. Root only. Recorded before it is done."""
        with self._alone.on(key), self._about(key):
            _must_be_root(asker, "change legal holds")
            record = self._find(key)[1]
            if record is None:
                raise Unsupported("wormfs did not write this file, so it has no holds")
            there = record.retention.holds
            removed = there if cases is None else tuple(case for case in cases if case in there)
            if not removed:
                return record
            self._note_durably(Event.RELEASED, key, case=", ".join(removed), uid=asker.uid, **_who(asker))
            return self._backend.change_retention(key, RetentionChange(remove_holds=removed))

    def erase(self, key: Key, asker: Asker) -> ObjectInfo:
        """Erase an expired file: every version and trace, proved, with a tombstone. What it was.

        Raises Retained with reason and date; Sealed where nothing is ever erased; NotFound, IsADirectory,
        Unavailable and what else the backend says. After an error the file is there, unchanged, or its
        erasure goes on by itself (``finish``).
        """
        with self._alone.on(key), self._about(key):
            info, record = self._find(key)
            erasing.may_erase(record, self.clock.expiry_ns(), self.options.mode)
            self._erase(info, record, asker, "expired", early=False)
        return info

    def erase_early(self, key: Key, reason: str, asker: Asker) -> ObjectInfo:
        """Erase a file before its date, because a court says so. Root only. As ``erase`` otherwise."""
        with self._alone.on(key), self._about(key):
            _must_be_root(asker, "erase a file before its date")
            info, record = self._find(key)
            erasing.may_erase_early(record, compliance=self.compliance)
            self._erase(info, record, asker, reason, early=True)
        return info

    def finish(self) -> None:
        """Bring erasures to their end that a crash or an outage has cut off. Does not raise."""
        if self._eraser is None:
            return
        try:
            intents = self._eraser.cut_off()
        except WormfsError as error:
            log.warning("%s: an erasure that was cut off waits: %s", self._backend.name, error)
            return
        for intent in intents:
            with self._alone.on(intent.key):
                self._finish(self._eraser, intent)

    def erased_among(self, entries: Collection[str]) -> frozenset[str]:
        """Which of some entry ids have a tombstone. Reads all of the audit trail."""
        if self.trail is None:
            return frozenset()
        lines = audit.read(self.trail.path, f'"event":"{Event.ERASED.value}"'.encode())
        return frozenset(entries).intersection(str(line.get("entry")) for line in lines)

    # Inside

    def _find(self, key: Key) -> tuple[ObjectInfo, Record | None]:
        info = self._backend.stat(key)
        if info.kind is Kind.DIRECTORY:
            raise IsADirectory("a directory", backend=self._backend.name, key=key)
        return info, self._backend.record(key)

    def _erase(
        self, info: ObjectInfo, record: Record | None, asker: Asker, reason: str, *, early: bool
    ) -> None:
        if self._eraser is None:
            raise Refused("nothing can be erased without a state directory: it could not be recorded")
        self._eraser.erase(info, record, uid=asker.uid, who=asker.who, reason=reason, early=early)
        self._forget(info.key)

    def _finish(self, eraser: Eraser, intent: Intent) -> None:
        try:
            # It may have come to its end while this one waited for its turn.
            if eraser.is_cut_off(intent) and eraser.finish(intent):
                self._forget(intent.key)
        except WormfsError as error:
            log.warning("%s: an erasure that was cut off waits: %s", self._backend.name, error)

    def _forget(self, key: Key) -> None:
        if self.erased is not None:
            self.erased(key)

    def _note(self, event: Event, key: Key, **facts: str | int | None) -> None:
        if self.trail is not None:
            self.trail.note(event, key, **facts)

    def _note_durably(self, event: Event, key: Key, **facts: str | int | None) -> None:
        if self.trail is not None:
            self.trail.note_durably(event, key, **facts)

    @contextlib.contextmanager
    def _about(self, key: Key) -> Iterator[None]:
        """The pure rules know no names; whoever reads the log wants them."""
        try:
            yield
        except WormfsError as error:
            error.backend, error.key = self._backend.name, key
            raise


def _must_be_root(asker: Asker, what: str) -> None:
    if asker.uid != ROOT_UID:
        raise Refused(f"only root may {what}")


def _who(asker: Asker) -> dict[str, str]:
    return {"who": asker.who} if asker.who else {}


class _KeyLocks:
    """A lock for each file that somebody changes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: set[Key] = set()

    @contextlib.contextmanager
    def on(self, key: Key) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: key not in self._taken)
            self._taken.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._taken.discard(key)
                self._changed.notify_all()
