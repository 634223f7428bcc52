"""What commands that read whole backends need of settings and of a running daemon."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from wormfs.audit import AuditLog
from wormfs.backends.base import Backend
from wormfs.clock import Clock
from wormfs.config import Settings
from wormfs.daemon import stacks
from wormfs.daemon.control import ControlClient
from wormfs.errors import InvalidArgument, Unavailable
from wormfs.model import ROOT, Key

DAMAGE_CHANGED: Final = "verify.damage"
"""The request to a worker: look again which files are damaged."""

_ANSWER_S: Final = 10.0


@contextlib.contextmanager
def started(settings: Settings, name: str) -> Iterator[Backend]:
    """The driver of a backend, connected, for this process alone. Raises SettingsError, Unavailable."""
    backend = stacks.create_backend(settings.backend(name))
    try:
        backend.start()
        yield backend
    finally:
        backend.close()


@contextlib.contextmanager
def audited(settings: Settings, name: str, clock: Clock) -> Iterator[AuditLog]:
    """The audit trail of a backend. Raises Unavailable."""
    audit = AuditLog(settings.state_directory, name, clock)
    try:
        yield audit
    finally:
        audit.close()


def key_of(settings: Settings, name: str, path: str) -> Key:
    """The key that a person means by ``path``: below the backend, or as it is in the mount.

    Raises InvalidArgument for a path that leads elsewhere.
    """
    mounted = os.fspath(settings.mountpoint / name)
    absolute = os.path.isabs(path)
    below = os.path.relpath(path, mounted) if absolute else os.path.normpath(path or ".")
    if below == ".." or below.startswith("../"):
        raise InvalidArgument(f"{path} is not below {mounted}: name it as it is there, or from there on")
    return ROOT if below == "." else Key(os.fsencode(below))


def tell_damage(settings: Settings, name: str) -> str | None:
    """Have the daemon read the list of damaged files anew; why it could not, if it runs. Blocks for seconds
    at most.

    A daemon that does not run reads the list when it starts.
    """
    client = ControlClient(settings.state_directory)
    message = {"backend": name, "request": {"op": DAMAGE_CHANGED}, "timeout_s": _ANSWER_S}
    try:
        answer = client.request({"request": "status"}, timeout_s=_ANSWER_S)
    except Unavailable:
        return None
    if not answer.get("ok"):
        return str(answer.get("error"))
    try:
        answer = client.request(message, timeout_s=2 * _ANSWER_S)
    except Unavailable as error:
        return str(error)
    return None if answer.get("ok") else str(answer.get("error"))
