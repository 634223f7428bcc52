"""Names: from keys to what Moodle's tables hold, and back.

Moodle's rules are those of ``clean_param`` with PARAM_FILE and PARAM_PATH (lib/classes/param.php),
and the hash of ``file_storage::get_pathname_hash``. Whatever Moodle would rewrite is refused here.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Final

from wormfs.backends.base import RESERVED_PREFIX
from wormfs.errors import InvalidName, NameTooLong
from wormfs.model import Key, show

MAX_PATH_CHARACTERS: Final = 255
"""Of the columns ``filepath`` (both outer slashes counted) and ``filename``."""
MAX_NAME_BYTES: Final = 255
MAX_UTF8_BYTES: Final = 4

DIRECTORY: Final = "."
"""The ``filename`` of a directory's row."""

_FORBIDDEN: Final = frozenset("&<>\"`|':\\/")


@dataclass(frozen=True, slots=True)
class Area:
    """A file area in a context."""

    component: str
    filearea: str
    itemid: int

    def pathname_hash(self, context_id: int, filepath: str, filename: str) -> str:
        """Moodle's ``pathnamehash``: the unique key of ``mdl_files``."""
        path = f"/{context_id}/{self.component}/{self.filearea}/{self.itemid}{filepath}{filename}"
        return hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Spot:
    """A path below a context's area: ``a/b``, or the empty text for the area's root directory.

    It may stand for a file, a directory, or nothing; ``area`` and ``context_id`` say where.
    """

    area: Area
    context_id: int
    path: str

    @property
    def parent(self) -> Spot:
        return Spot(self.area, self.context_id, self.path.rpartition("/")[0])

    @property
    def filepath(self) -> str:
        """The column of a file of this path."""
        folder = self.path.rpartition("/")[0]
        return f"/{folder}/" if folder else "/"

    @property
    def filename(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def directory_path(self) -> str:
        """The column of a directory of this path, and of the files in it."""
        return f"/{self.path}/" if self.path else "/"

    @property
    def file_hash(self) -> str:
        return self.area.pathname_hash(self.context_id, self.filepath, self.filename)

    @property
    def directory_hash(self) -> str:
        return self.area.pathname_hash(self.context_id, self.directory_path, DIRECTORY)

    def lineage(self) -> list[Spot]:
        """The area's root, and every directory down to this one."""
        spots = [self]
        while spots[-1].path:
            spots.append(spots[-1].parent)
        return spots[::-1]


def decoded(key: bytes) -> str | None:
    """The key as text, or ``None`` for what Moodle's tables cannot hold."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def reject_unsafe(key: Key, backend: str) -> None:
    """Raise InvalidName for a key outside the shown tree. The layers above have checked; this guards."""
    for component in key.split(b"/") if key else ():
        if component in (b"", b".", b"..") or b"\0" in component or component.startswith(RESERVED_PREFIX):
            raise InvalidName("such a name cannot be in a backend", backend=backend, key=key)


def validate(name: bytes, backend: str) -> None:
    """Raise InvalidName or NameTooLong for a component that Moodle would refuse or rewrite."""
    if len(name) > MAX_NAME_BYTES:
        raise NameTooLong(f"a name may have {MAX_NAME_BYTES} bytes, not {len(name)}", backend=backend)
    text = decoded(name)
    if text is None:
        raise InvalidName(f"Moodle holds names in UTF-8 only, not {show(name)}", backend=backend)
    for character in text:
        if character in _FORBIDDEN or unicodedata.category(character) == "Cc":
            raise InvalidName(
                f"Moodle's file storage cannot hold the character {show(character.encode())} in a name; "
                "control characters and & < > \" ` | ' : \\ are refused",
                backend=backend,
            )


def require_fit(spot: Spot, key: Key, backend: str) -> None:
    """Raise NameTooLong when Moodle's columns cannot hold ``spot`` as a file."""
    if max(len(spot.filepath), len(spot.filename)) > MAX_PATH_CHARACTERS:
        raise _too_long(backend, key)


def require_directory_fit(spot: Spot, key: Key, backend: str) -> None:
    """The same for a directory."""
    if len(spot.directory_path) > MAX_PATH_CHARACTERS:
        raise _too_long(backend, key)


def _too_long(backend: str, key: Key) -> NameTooLong:
    return NameTooLong(
        f"Moodle holds directories of {MAX_PATH_CHARACTERS - 2} characters at most", backend=backend, key=key
    )
