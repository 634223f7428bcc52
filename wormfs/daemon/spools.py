"""The spools that the settings speak of, found and reached from a command, with a daemon or without."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wormfs.clock import Clock
from wormfs.config import Settings
from wormfs.daemon import spoolrequests, stacks, state
from wormfs.daemon.control import ControlClient
from wormfs.daemon.messages import Message
from wormfs.daemon.refusal import CannotStart
from wormfs.errors import Refused, Unavailable
from wormfs.spool.administration import LiveFacts
from wormfs.spool.store import SpoolStore

_ASK_S = 5.0
_ANSWER_S = 5.0
"""What a command waits beyond the time that the daemon was given."""


@dataclass(frozen=True, slots=True)
class SpoolPlace:
    """Where the spool of one backend lies. There may be nothing yet."""

    backend: str
    directory: str


def places(settings: Settings, backends: Iterable[str] = ()) -> list[SpoolPlace]:
    """The spools of ``backends``, or of all; none if no daemon was ever started with these settings.

    Contacts no backend. Raises SettingsError for an unknown backend, Unavailable when the state
    directory cannot be read.
    """
    chosen = [settings.backend(name) for name in backends] or list(settings.backends.values())
    try:
        instance_id = state.read_instance_id(settings.state_directory)
    except CannotStart as error:
        raise Unavailable(str(error)) from error
    if instance_id is None:
        return []
    return [
        SpoolPlace(
            one.name,
            stacks.locate_spool(
                stacks.create_backend(one),
                one,
                os.fspath(state.spool_directory(settings.state_directory, one.name)),
                instance_id,
            ),
        )
        for one in chosen
    ]


class SpoolClient:
    """Asks a running daemon about the spool of one backend. Blocking."""

    def __init__(self, state_directory: Path, backend: str):
        self._client = ControlClient(state_directory)
        self._backend = backend

    def live(self) -> Iterator[LiveFacts]:
        """What the daemon knows of entries on their way. Raises Unavailable, Refused."""
        after: str | None = ""
        while after is not None:
            reply = self._ask(spoolrequests.live_request(after), _ASK_S)
            yield from spoolrequests.live_facts(reply)
            after = reply.get("next")

    def ask(self, request: Message, timeout_s: float) -> dict[str, Any]:
        """One request; ``timeout_s`` is what the worker may take. Raises Unavailable when no daemon runs
        or none answers, Refused with the daemon's words when it did not do it."""
        return self._ask(request, timeout_s)

    def _ask(self, request: Message, timeout_s: float) -> dict[str, Any]:
        message = {"backend": self._backend, "request": request, "timeout_s": timeout_s}
        answer = self._client.request(message, timeout_s=timeout_s + _ANSWER_S)
        if not answer.get("ok"):
            raise Refused(str(answer.get("error", "the daemon did not say why")))
        reply = answer.get("reply")
        return reply if isinstance(reply, dict) else {}


def discard_without_daemon(place: SpoolPlace, entry_id: str, who: str, why: str, clock: Clock) -> None:
    """Throw a quarantined entry away while nobody uses the spool. Raises SpoolLocked when somebody does,
    NotFound, OutOfSpace and what the disk says."""
    store = SpoolStore(place.directory, clock, place.backend)
    store.open()
    try:
        store.quarantined.discard(entry_id, who, why)
    finally:
        store.close()
