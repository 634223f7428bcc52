"""``wormfs spool retry``: asks the daemon, and tells what came of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from wormfs.cli.output import console, plain
from wormfs.cli.who import whoami
from wormfs.daemon.messages import Message
from wormfs.daemon.spoolrequests import outcomes, restore_request, retry_request
from wormfs.daemon.spools import SpoolClient
from wormfs.errors import Refused, Unavailable
from wormfs.spool.administration import Attempted, Outcome, Promise
from wormfs.worm.lifecycle import EntryState

if TYPE_CHECKING:
    from wormfs.cli.entries import Seen
    from wormfs.config import Settings

DONE, FAILED, WAITING = 0, 1, 3
"""Exit codes; 2 is click's."""

_REFUSED = "refused"
_WAIT_S = 10.0
"""How long an attempt is watched before the command says that it goes on."""
_RETRY_S = 30.0
_RESTORE_S = 3600.0
"""The daemon reads all bytes first."""
_WORDS = {
    Outcome.COMMITTED.value: "committed",
    Outcome.QUARANTINED.value: "in quarantine",
    Outcome.WAITING.value: "not committed yet, tried for ever",
    Outcome.GONE.value: "not in the spool any more: committed meanwhile",
    _REFUSED: "refused",
}
_EXIT = {Outcome.QUARANTINED.value: FAILED, _REFUSED: FAILED, Outcome.WAITING.value: WAITING}


class Attempts:
    """What came of trying; collected first, told at the end."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._counts: Counter[str] = Counter()
        self._told: list[dict[str, Any]] = []

    def retry_all(self, entries: Sequence[Seen]) -> None:
        """Every sealed entry of the backends of ``entries``. Raises Unavailable when no daemon runs."""
        for backend in dict.fromkeys(seen.place.backend for seen in entries):
            self._retry([seen for seen in entries if seen.place.backend == backend], None)

    def retry(self, entries: Sequence[Seen]) -> None:
        """These sealed entries. Raises Unavailable when no daemon runs."""
        for backend in dict.fromkeys(seen.place.backend for seen in entries):
            mine = [seen for seen in entries if seen.place.backend == backend]
            self._retry(mine, [seen.entry.entry_id for seen in mine])

    def _retry(self, entries: Sequence[Seen], ids: list[str] | None) -> None:
        """Entries of one backend."""
        try:
            reply = self._ask(entries[0].place.backend, retry_request(ids, _WAIT_S), _RETRY_S)
        except Refused as error:
            for seen in entries:
                self._note(seen.entry.entry_id, seen, _REFUSED, str(error))
            return
        told, counts = outcomes(reply)
        self._counts.update({outcome.value: count for outcome, count in counts.items()})
        known = {seen.entry.entry_id: seen for seen in entries}
        self._tell_of(told, known)

    def restore(self, seen: Seen, promise: Promise) -> None:
        """One entry that is not sealed: from quarantine. Raises Unavailable when no daemon runs."""
        state = seen.entry.state
        if state is not EntryState.QUARANTINED:
            self._note(seen.entry.entry_id, seen, _REFUSED, f"it is {state.value}: nothing has failed")
            return
        request = restore_request(seen.entry.entry_id, promise, whoami(), _WAIT_S)
        try:
            with _waiting(f"{seen.label}: its bytes are read"):
                reply = self._ask(seen.place.backend, request, _RESTORE_S)
        except Refused as error:
            self._note(seen.entry.entry_id, seen, _REFUSED, str(error))
            return
        told, counts = outcomes(reply)
        self._counts.update({outcome.value: count for outcome, count in counts.items()})
        self._tell_of(told, {seen.entry.entry_id: seen})

    def tell(self, *, as_json: bool) -> None:
        """All results, those last that need somebody's attention."""
        if as_json:
            click.echo(json.dumps({"counts": dict(self._counts), "entries": self._told}, indent=2))
            return
        for one in self._told:
            why = f": {one['error']}" if one["error"] else ""
            click.echo(f"{one['label']}: {_WORDS[one['outcome']]}{why}")
        untold = self._counts.total() - len(self._told)
        if untold or len(self._told) > 1:
            click.echo(", ".join(f"{count} {name}" for name, count in sorted(self._counts.items())))
        if not self._counts:
            click.echo("nothing is sealed: nothing to try")

    def exit_code(self) -> int:
        """The worst of all."""
        codes = {_EXIT.get(outcome, DONE) for outcome in self._counts}
        return FAILED if FAILED in codes else max(codes, default=DONE)

    def _tell_of(self, attempted: Sequence[Attempted], known: dict[str, Seen]) -> None:
        for one in attempted:
            self._told.append(_told(one.entry_id, known.get(one.entry_id), one.outcome.value, one.error))

    def _note(self, entry_id: str, seen: Seen | None, outcome: str, error: str) -> None:
        self._counts[outcome] += 1
        self._told.append(_told(entry_id, seen, outcome, error))

    def _ask(self, backend: str, request: Message, timeout_s: float) -> Message:
        try:
            return SpoolClient(self._settings.state_directory, backend).ask(request, timeout_s)
        except Unavailable as error:
            raise Unavailable(
                f"{error}; only a running daemon can commit (wormfs mount); it tries what is sealed by itself"
            ) from error


def _told(entry_id: str, seen: Seen | None, outcome: str, error: str | None) -> dict[str, Any]:
    why = None
    if error:
        why = seen.without_name(error) if seen is not None else plain(error)
    label = seen.label if seen is not None else entry_id
    return {"id": entry_id, "label": label, "outcome": outcome, "error": why}


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """A sign of life on a terminal; nothing elsewhere."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield
        return
    with screen.status(what):
        yield
