"""What a worker answers about committed files, and how requests and answers look on the wire.

``keys`` are lists of base64 texts, at most ``MAX_KEYS``; the answer has one object for each, in their order::

    {"op": "records.look", "keys": [...]}
    {"op": "records.extend", "keys": [...], "until": "2040-12-31", "who": ...}
    {"op": "records.hold", "keys": [...], "case": "AZ 1/26", "who": ...}
    {"op": "records.release", "keys": [...], "case": ..., "who": ...}
    {"op": "records.erase", "keys": [...], "who": ...}
    {"op": "records.erase-early", "keys": [one], "reason": ..., "who": ...}   → {"files": [...]}
    {"op": "records.history", "keys": [one]}              → {"subject": ..., "lines": [...]}
    {"op": "clock.status"}, {"op": "clock.accept", "who": ...}                  → {"trust": ..., ...}

``uid`` is put in by the control socket, from what the kernel says of the other side.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from wormfs import audit, threads
from wormfs.clock import timestamp
from wormfs.daemon.messages import Message
from wormfs.daemon.underway import UnderWay
from wormfs.errors import InvalidArgument, NotFound, Refused, WormfsError
from wormfs.fs.stack import Stack
from wormfs.model import Key, ObjectInfo, Record
from wormfs.records.records import Asker, Look, Records
from wormfs.records.trustedclock import doubt
from wormfs.worm import dates
from wormfs.worm.timekeeping import Judged, Trust

log = logging.getLogger(__name__)

MAX_KEYS: Final = 200
_MAX_LINES: Final = 1000


def request(op: str, keys: Iterable[bytes] = (), **values: str) -> Message:
    """A request as it travels."""
    return {"op": op, "keys": [base64.b64encode(key).decode() for key in keys], **values}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request says, understood."""

    keys: list[Key]
    asker: Asker
    message: Message

    def text(self, name: str) -> str:
        value = self.message.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InvalidArgument(f"{name} must be text")
        return value


class RecordRequests:
    """Answers for the committed files of one backend, until ``aclose``."""

    def __init__(self, stack: Stack):
        self._stack = stack
        self._records = stack.records
        self._under_way = UnderWay()
        # Apart from those of the file system: a walk over everything must not hold up a single read.
        self._threads = threads.limiter(max(1, stack.backend.traits.connections // 2))

    async def aclose(self) -> None:
        """Answer no more; returns when nothing that was asked still works."""
        await self._under_way.aclose()

    async def answer(self, message: Message) -> Message:
        """The answer to a request whose ``op`` begins with ``records.`` or ``clock.``.

        Raises InvalidArgument for one that makes no sense, Unavailable when the daemon stops, and what the
        clock says. What goes wrong with one file is told with that file.
        """
        return await self._under_way.run(partial(self._answer, _understood(message)))

    async def _answer(self, asked: _Asked) -> Message:
        records, asker = self._records, asked.asker
        match asked.message.get("op"):
            case "records.look":
                return await self._each(asked, self._look)
            case "records.extend":
                until_ns = dates.parse(asked.text("until"), records.options.policy.zone)
                return await self._each(asked, lambda key: _changed(records.extend(key, until_ns, asker)))
            case "records.hold":
                case = asked.text("case")
                return await self._each(asked, lambda key: _changed(records.hold(key, (case,), asker)))
            case "records.release":
                case = asked.text("case")
                return await self._each(asked, partial(_release, records, case, asker))
            case "records.erase":
                return await self._each(asked, lambda key: self._erased(records.erase(key, asker)))
            case "records.erase-early":
                reason = asked.text("reason")
                return await self._each(
                    asked, lambda key: self._erased(records.erase_early(key, reason, asker))
                )
            case "records.history":
                return await threads.run(self._history, asked.keys[0], limiter=self._threads)
            case "clock.status":
                return await threads.run(self._clock, limiter=self._threads)
            case "clock.accept":
                return await threads.run(self._accept, asked, limiter=self._threads)
            case other:
                raise InvalidArgument(f"the worker knows no request {other!r}")

    async def _each(self, asked: _Asked, work: Callable[[Key], Message]) -> Message:
        files: list[Message] = [{} for _ in asked.keys]

        async def one(at: int, key: Key) -> None:
            files[at] = await threads.run(
                self._try, str(asked.message.get("op")), key, asked.asker, work, limiter=self._threads
            )

        async with trio.open_nursery() as nursery:
            for at, key in enumerate(asked.keys):
                nursery.start_soon(one, at, key)
        return {"files": files, "erase": self._records.options.mode.value}

    def _try(self, op: str, key: Key, asker: Asker, work: Callable[[Key], Message]) -> Message:
        try:
            return {"key": base64.b64encode(key).decode(), "outcome": "done", **work(key)}
        except WormfsError as error:
            outcome, said = "failed", str(error.args[0]) if error.args else type(error).__name__
            if isinstance(error, Refused):
                self._records.refused(op, asker.uid, error)
                outcome = "refused"
            elif isinstance(error, NotFound):
                outcome, said = self._missing(key)
        except Exception as error:
            log.exception("%s: %s failed", self._stack.backend.name, op)
            outcome, said = "failed", f"unforeseen: {type(error).__name__}; the daemon's log says more"
        return {"key": base64.b64encode(key).decode(), "outcome": outcome, "error": said}

    def _missing(self, key: Key) -> tuple[str, str]:
        """Outcome and words for a file that the backend does not have."""
        entry = threads.from_thread(self._stack.spool.get, key)
        if entry is None or entry.state.ended:
            return "missing", "it does not exist"
        state = entry.state.value
        if entry.settle_until_ns is not None:
            state += f" until {timestamp(entry.settle_until_ns)}"
        return "failed", f"it is not committed yet ({state}): try again when it is"

    def _look(self, key: Key) -> Message:
        entry = threads.from_thread(self._stack.spool.get, key)
        if entry is not None and not entry.state.ended:
            return {"state": entry.state.value, "size_bytes": entry.size_bytes}
        seen = look_to_message(self._records.look(key))
        if seen["state"] == "committed" and threads.from_thread(
            self._stack.filesystem.damage.__contains__, key
        ):
            seen["state"] = "damaged"
        return {"subject": self._subject(key), **seen}

    def _subject(self, key: Key) -> str | None:
        return None if self._records.trail is None else self._records.trail.subject(key)

    def _erased(self, info: ObjectInfo) -> Message:
        threads.from_thread(self._stack.filesystem.erased, info)
        return {"size_bytes": info.size_bytes}

    def _history(self, key: Key) -> Message:
        trail = self._records.trail
        if trail is None:
            return {"subject": None, "lines": []}
        subject = trail.subject(key)
        lines = [dict(line) for line in audit.read(trail.path, subject.encode())]
        return {"subject": subject, "lines": lines[-_MAX_LINES:]}

    def _clock(self) -> Message:
        self._records.clock.ask_backend(now=True)
        return clock_to_message(self._records.clock.judged())

    def _accept(self, asked: _Asked) -> Message:
        if asked.asker.uid != 0:
            raise Refused("only root may accept the clock", backend=self._stack.backend.name)
        return clock_to_message(self._records.clock.accept(asked.text("who")))


def _release(records: Records, case: str, asker: Asker, key: Key) -> Message:
    record = records.look(key).record
    holds = record.retention.holds if record is not None else ()
    if case not in holds:
        raise InvalidArgument(f"it is not held for {case} (but for: {', '.join(holds) or 'nothing'})")
    return _changed(records.release(key, (case,), asker))


def _changed(record: Record) -> Message:
    retention = record.retention
    return {"retain_until": dates.show(retention.retain_until_ns), "holds": list(retention.holds)}


def look_to_message(look: Look) -> Message:
    """A committed file as it travels; times in whole seconds, UTC."""
    record, info = look.record, look.info
    known: Message = {
        "state": "committed" if record is not None else "unrecorded",
        "size_bytes": info.size_bytes,
        "verdict": look.judged.verdict.value,
        "reason": look.judged.reason,
        "latest": dates.show(look.latest_ns),
        "past_max": look.past_max,
        "mode": f"{info.mode:04o}",
        "uid": info.uid,
        "gid": info.gid,
        "mtime": dates.show(info.mtime_ns),
        "version": info.version,
        "storage_class": info.storage_class,
    }
    if record is not None:
        known |= {
            "entry": record.entry_id,
            "sha256": record.sha256,
            "committed_at": dates.show(record.committed_at_ns),
            "retain_until": dates.show(record.retention.retain_until_ns),
            "holds": list(record.retention.holds),
            "writer_uid": record.writer_uid,
            "wormfs": record.wormfs_version,
        }
    return known


def clock_to_message(judged: Judged) -> Message:
    """What is thought of the clock as it travels."""
    backend_ns = judged.backend_ns
    return {
        "trust": judged.trust.value,
        "wall": dates.show(judged.wall_ns),
        "believed": dates.show(judged.believed.high_ns),
        "expected": dates.show(judged.expected_ns),
        "backend": None if backend_ns is None else dates.show(backend_ns),
        "doubt": None if judged.trust is Trust.SURE else doubt(judged),
    }


def _understood(message: Message) -> _Asked:
    """Raises InvalidArgument."""
    keys, uid, who = message.get("keys", []), message.get("uid"), message.get("who", "")
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise InvalidArgument(f"keys must be a list of at most {MAX_KEYS}")
    if not isinstance(uid, int) or not isinstance(who, str):
        raise InvalidArgument("a request about records needs uid, and who as text")
    if message.get("op") in ("records.history", "records.erase-early") and len(keys) != 1:
        raise InvalidArgument("one key, please")
    try:
        decoded = [Key(base64.b64decode(key, validate=True)) for key in keys]
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidArgument("keys must be base64") from error
    return _Asked(decoded, Asker(uid, who), message)
