"""What a worker answers about its spool, and how requests and answers look on the wire.

::

    {"op": "spool.live", "after": ID}                     → {"entries": [...], "next": ID or null}
    {"op": "spool.retry", "ids": [...] or null, "wait_s": 10}        → {"attempted": [...]}
    {"op": "spool.restore", "id": ID, "as_is": false, "who": ..., "wait_s": 10}  → {"attempted": [...]}
    {"op": "spool.discard", "id": ID, "who": ..., "why": ...}        → {}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any, Final

from wormfs.daemon.messages import Message
from wormfs.daemon.underway import UnderWay
from wormfs.errors import InvalidArgument
from wormfs.spool.administration import Administration, Attempted, LiveFacts, Outcome, Promise
from wormfs.worm.lifecycle import EntryState

_PAGE: Final = 1000
"""Entries in one answer: a line of the channel has a limit, and so has the event loop's patience."""
_MAX_TOLD: Final = 1000
_MAX_TEXT: Final = 1000
_LONGEST_WAIT_S: Final = 600.0
_LOOK_S: Final = 0.2
"""What ``wormfs status`` may wait for numbers of the quarantine before it gets the last known ones."""


def live_request(after: str) -> Message:
    """Ask for live entries, those after an id."""
    return {"op": "spool.live", "after": after}


def live_facts(reply: Message) -> Iterator[LiveFacts]:
    """The entries in an answer to it."""
    for entry in reply.get("entries", []):
        yield LiveFacts(**{**entry, "state": EntryState(entry["state"])})


def retry_request(ids: Collection[str] | None, wait_s: float) -> Message:
    """Ask to try sealed entries now; ``None`` for all."""
    return {"op": "spool.retry", "ids": None if ids is None else list(ids), "wait_s": wait_s}


def restore_request(entry_id: str, promise: Promise, who: str, wait_s: float) -> Message:
    """Ask to bring an entry back from quarantine."""
    as_is = promise is Promise.AS_IS
    return {"op": "spool.restore", "id": entry_id, "as_is": as_is, "who": who, "wait_s": wait_s}


def discard_request(entry_id: str, who: str, why: str) -> Message:
    """Ask to throw a quarantined entry away."""
    return {"op": "spool.discard", "id": entry_id, "who": who, "why": why}


def outcomes(reply: Message) -> tuple[list[Attempted], Counter[Outcome]]:
    """What an answer says of single entries (not of more than a thousand), and the numbers of all."""
    told = [
        Attempted(one["entry_id"], Outcome(one["outcome"]), one["error"])
        for one in reply.get("attempted", [])
    ]
    return told, Counter({Outcome(name): count for name, count in reply.get("counts", {}).items()})


class SpoolRequests:
    """Answers for one spool, from the moment it is recovered until ``aclose``."""

    def __init__(self, administration: Administration):
        self._administration = administration
        self._under_way = UnderWay()

    async def aclose(self) -> None:
        """Answer no more; returns when nothing that was asked still works on the spool.

        What only reads is cut off, what changes something is done to its end.
        """
        await self._under_way.aclose()

    async def quarantine(self) -> Message | None:
        """Number and bytes of what is in quarantine, for ``wormfs status``; ``None``: not known yet."""
        totals = await self._administration.quarantine_totals(_LOOK_S)
        return None if totals is None else {"entries": totals.entries, "bytes": totals.size_bytes}

    async def answer(self, request: Message) -> Message:
        """The answer to a request whose ``op`` begins with ``spool.``.

        Raises Unavailable when the spool is being closed, InvalidArgument for a request that makes
        no sense, and what :class:`Administration` raises.
        """
        return await self._under_way.run(partial(self._answer, request))

    async def _answer(self, request: Message) -> Message:
        administration = self._administration
        match request.get("op"):
            case "spool.live":
                facts = administration.live(_text(request, "after"), _PAGE)
                return {
                    "entries": [_live_to_message(one) for one in facts],
                    "next": facts[-1].entry_id if len(facts) == _PAGE else None,
                }
            case "spool.retry":
                return _told(await administration.retry(_ids(request), _wait_s(request)))
            case "spool.restore":
                promise = Promise.AS_IS if request.get("as_is") is True else Promise.AS_SEALED
                entry_id, who = _text(request, "id"), _text(request, "who")
                return _told([await administration.restore(entry_id, promise, who, _wait_s(request))])
            case "spool.discard":
                entry_id, who, why = (_text(request, name) for name in ("id", "who", "why"))
                await administration.discard(entry_id, who, why)
                return {}
            case other:
                raise InvalidArgument(f"the worker knows no request {other!r}")


def _live_to_message(facts: LiveFacts) -> Message:
    return {
        "entry_id": facts.entry_id,
        "state": facts.state.value,
        "size_bytes": facts.size_bytes,
        "attempts": facts.attempts,
        "last_error": facts.last_error[:_MAX_TEXT] if facts.last_error else None,
        "next_attempt_s": facts.next_attempt_s,
    }


def _told(attempted: list[Attempted]) -> Message:
    counts: Mapping[Outcome, int] = Counter(one.outcome for one in attempted)
    # Those first that somebody has to look at.
    worst = sorted(attempted, key=lambda one: one.outcome is Outcome.COMMITTED)
    return {
        "counts": {outcome.value: count for outcome, count in counts.items()},
        "attempted": [
            {
                "entry_id": one.entry_id,
                "outcome": one.outcome.value,
                "error": one.error[:_MAX_TEXT] if one.error else None,
            }
            for one in worst[:_MAX_TOLD]
        ],
    }


def _text(request: Message, name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} must be text")
    return value


def _ids(request: Message) -> list[str] | None:
    value: Any = request.get("ids")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidArgument("ids must be a list of texts, or null for all")
    return value


def _wait_s(request: Message) -> float:
    value = request.get("wait_s", 0)
    if not isinstance(value, int | float) or not 0 <= value <= _LONGEST_WAIT_S:
        raise InvalidArgument(f"wait_s must be a number of seconds up to {_LONGEST_WAIT_S:g}")
    return float(value)
