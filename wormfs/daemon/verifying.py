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

    In the mount are absolute paths, and those from the current directory: ``.``, ``..``, and what begins
    with ``./`` or ``../``, as everywhere in a shell. Raises InvalidArgument for a path that leads elsewhere.
    """
    mounted = os.fspath(settings.mountpoint / name)
    below = _below(_absolute(path), mounted) if _is_of_file_system(path) else os.path.normpath(path or ".")
    if _leads_out(below):
        raise InvalidArgument(f"{path} is not below {mounted}: name it as it is there, or from there on")
    return ROOT if below == "." else Key(os.fsencode(below))


def place_of(settings: Settings, words: str, path: str = "") -> tuple[str, Key]:
    """The backend and key that a person means by the name of a backend and a path in it, or by one path as
    it is in the mount. Raises SettingsError, InvalidArgument."""
    if not _is_of_file_system(words):
        return settings.backend(words).name, key_of(settings, words, path)
    if path:
        raise InvalidArgument(f"{words} is a path already: give a backend and a path, or one path")
    inside = _below(_absolute(words), os.fspath(settings.mountpoint))
    name = inside.partition("/")[0]
    if name not in settings.backends:
        raise InvalidArgument(f"{words} is not below a backend's directory under {settings.mountpoint}")
    return name, key_of(settings, name, words)


def _is_of_file_system(path: str) -> bool:
    return path in (".", "..") or path.startswith(("/", "./", "../"))


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError as error:
        message = f"the current directory cannot be told ({error.strerror}): give {path} from / on"
        raise InvalidArgument(message) from error


def _below(path: str, directory: str) -> str:
    """From ``directory`` to ``path``. Links on the way count only where the words alone lead elsewhere."""
    below = os.path.relpath(path, directory)
    if _leads_out(below):
        below = os.path.relpath(os.path.realpath(path), os.path.realpath(directory))
    return below


def _leads_out(below: str) -> bool:
    return below == ".." or below.startswith("../")


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
