"""Committed files as commands see them: paths below the mountpoint, walked, asked about in batches."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wormfs.errors import InvalidArgument, NotFound, Unavailable
from wormfs.model import Key, show

if TYPE_CHECKING:
    from wormfs.config import Settings

ASK_S = 3600.0
"""What a batch may take: a slow server, and hundreds of files."""


@dataclass(frozen=True, slots=True)
class Target:
    """A path that somebody named, as a backend and a key in it."""

    backend: str
    key: Key

    @property
    def label(self) -> str:
        """Safe to print."""
        return f"{self.backend}/{show(self.key)}" if self.key else self.backend


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon says of one file."""

    target: Target
    facts: dict[str, Any]

    @property
    def outcome(self) -> str:
        return str(self.facts.get("outcome"))

    @property
    def error(self) -> str:
        return str(self.facts.get("error") or "")

    def to_json(self) -> dict[str, Any]:
        """The path as text, and as base64 where it is no text; then what the daemon says."""
        facts = {name: value for name, value in self.facts.items() if name != "key"}
        path = {"backend": self.target.backend, "path": show(self.target.key)}
        return {**path, "key": base64.b64encode(self.target.key).decode(), **facts}


def find(settings: Settings, path: str) -> Target:
    """The backend and key of a path below the mountpoint. It need not exist. Raises InvalidArgument."""
    mountpoint = os.path.realpath(os.fsencode(settings.mountpoint))
    where = os.path.realpath(os.fsencode(path))
    inside = os.path.relpath(where, mountpoint)
    name, _, key = inside.partition(b"/")
    if name in (b".", b"..") or os.fsdecode(name) not in settings.backends:
        raise InvalidArgument(
            f"{show(os.fsencode(path))} is not below a backend's directory under {settings.mountpoint}"
        )
    return Target(os.fsdecode(name), Key(key))


def path_of(settings: Settings, target: Target) -> bytes:
    """Where the mount shows it."""
    return os.path.join(os.fsencode(settings.mountpoint), os.fsencode(target.backend), target.key)


def below(settings: Settings, target: Target) -> Iterator[Target]:
    """Every file below a directory, or the file itself, streamed. Raises NotFound, Unavailable."""
    start = path_of(settings, target)
    try:
        if not os.path.isdir(start):
            os.lstat(start)
            yield target
            return
        waiting = [start]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        root = os.path.join(os.fsencode(settings.mountpoint), os.fsencode(target.backend))
                        yield Target(target.backend, Key(os.path.relpath(entry.path, root)))
    except FileNotFoundError as error:
        raise NotFound(f"{target.label} does not exist") from error
    except OSError as error:
        raise Unavailable(f"{target.label} cannot be read: {error.strerror}") from error


def ask(
    settings: Settings, op: str, targets: Iterable[Target], *, batch: int = 100, **values: str
) -> Iterator[Answer]:
    """Ask the daemon about files, some at a time; targets of one backend belong together.

    Raises Unavailable when no daemon runs, Refused with its words.
    """
    for backend, some in _grouped(targets, batch):
        reply = request(settings, backend, op, some, **values)
        for target, facts in zip(some, reply["files"], strict=True):
            yield Answer(target, facts)


def request(
    settings: Settings, backend: str, op: str, targets: Sequence[Target] = (), **values: str
) -> dict[str, Any]:
    """One request about files of one backend. Raises Unavailable, Refused."""
    from wormfs.cli.who import whoami
    from wormfs.daemon import recordrequests
    from wormfs.daemon.spools import SpoolClient

    message = recordrequests.request(op, [target.key for target in targets], who=whoami(), **values)
    return SpoolClient(settings.state_directory, backend).ask(message, ASK_S)


def chosen_backends(settings: Settings, names: Sequence[str]) -> list[str]:
    """The backends that were named, or all. Raises SettingsError."""
    return [settings.backend(name).name for name in names] or list(settings.backends)


def _grouped(targets: Iterable[Target], size: int) -> Iterator[tuple[str, list[Target]]]:
    """Batches that do not cross backends."""
    some: list[Target] = []
    for target in targets:
        if some and (len(some) >= size or some[0].backend != target.backend):
            yield some[0].backend, some
            some = []
        some.append(target)
    if some:
        yield some[0].backend, some
