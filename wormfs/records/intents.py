"""Erasures that were decided and are not at their end: one small file for each, so that a crash loses none.

``<state directory>/erasing/<backend>/<id>.json``. It names the path in clear, which the audit trail never
does; so it goes as soon as the tombstone is on the disk.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wormfs import durability
from wormfs.errors import Unavailable
from wormfs.model import Key

log = logging.getLogger(__name__)

_VERSION: Final = 1
_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Intent:
    """One erasure under way: everything that its tombstone will say."""

    id: str
    key: Key
    entry: str | None
    """``entry_id`` of the record; ``None`` for a file that wormfs did not write."""
    sha256: str | None
    size_bytes: int
    mtime_ns: int
    committed_at_ns: int | None
    retain_until_ns: int | None
    uid: int
    who: str
    reason: str
    early: bool


def new_id() -> str:
    """A name for an erasure."""
    return secrets.token_hex(12)


class Intents:
    """The erasures under way of one backend. Blocks for the disk. Raises Unavailable."""

    def __init__(self, directory: Path, backend: str):
        self._directory = directory
        self._backend = backend

    def write(self, intent: Intent) -> None:
        """Durable when it returns."""
        values = dataclasses.asdict(intent)
        values["key"] = base64.b64encode(intent.key).decode()
        text = json.dumps({"v": _VERSION, **values}).encode() + b"\n"
        try:
            durability.make_path_durably(os.fspath(self._directory), 0o700)
            durability.write_file_durably(os.fspath(self._path(intent)), text, mode=0o600)
        except OSError as error:
            raise Unavailable(
                f"the erasure cannot be noted in {self._directory} ({error.strerror}), so nothing was erased",
                backend=self._backend,
                key=intent.key,
            ) from error

    def has(self, intent: Intent) -> bool:
        """Whether it is under way still."""
        return self._path(intent).exists()

    def remove(self, intent: Intent) -> None:
        """It is at its end. Not synced: one that comes back is found to be at its end again."""
        try:
            durability.unlink(os.fspath(self._path(intent)))
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unavailable(f"{self._path(intent)}: {error.strerror}", backend=self._backend) from error

    def __iter__(self) -> Iterator[Intent]:
        """All that are under way. A file that cannot be understood is left and told of."""
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unavailable(f"{self._directory}: {error.strerror}", backend=self._backend) from error
        for name in names:
            if name.endswith(_SUFFIX):
                intent = self._read(self._directory / name)
                if intent is not None:
                    yield intent

    def _path(self, intent: Intent) -> Path:
        return self._directory / f"{intent.id}{_SUFFIX}"

    def _read(self, path: Path) -> Intent | None:
        try:
            values: dict[str, Any] = json.loads(path.read_bytes())
            if values.pop("v") != _VERSION:
                raise ValueError("another version")
            values["key"] = Key(base64.b64decode(values["key"], validate=True))
            return Intent(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("%s: %s cannot be understood and stays: %s", self._backend, path, error)
            return None
