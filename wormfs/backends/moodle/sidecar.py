"""What wormfs knows of a file, kept beside its row: a row of ``mdl_files`` of wormfs's own.

It lies in the system context, in the area ``local_wormfs/record``, where no file list of Moodle looks and
which stays when a course is deleted. Its text is the ``source`` column; it has no content. So data and
record appear in one transaction, no table and no right of its own is needed, and a backup of Moodle's
database holds the records.

::

    {"v":1,"state":"kept","course":7,"shortname":"Law 1","path":"job-17/exam.zip",
     "contenthash":"0a1b…","record":{…as wormfs.backends.record_codec writes it…}}
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Final

from wormfs.backends import record_codec
from wormfs.backends.moodle.names import Area, Spot
from wormfs.errors import BackendFault
from wormfs.model import Record

RECORDS: Final = Area("local_wormfs", "record", 0)
CHECKS: Final = Area("local_wormfs", "check", 0)
_VERSION: Final = 1
_SUFFIX: Final = ".json"


class SidecarState(enum.Enum):
    """What is to be expected beside a record."""

    KEPT = "kept"
    """The file's row, with its content."""
    ERASING = "erasing"
    """An erase has begun: the row is gone, the content may not be."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One file's record, and what is needed to name the file when Moodle has forgotten it."""

    state: SidecarState
    course_id: int
    shortname: str
    path: str
    contenthash: str
    record: Record


@dataclass(frozen=True, slots=True)
class SidecarPlace:
    """Where the record of one file lies."""

    filepath: str
    filename: str
    pathname_hash: str


def place_of(spot: Spot, system_context_id: int) -> SidecarPlace:
    """Where the record of the file ``spot`` lies."""
    return place_of_hash(spot.area, spot.context_id, spot.file_hash, system_context_id)


def place_of_hash(area: Area, context_id: int, file_hash: str, system_context_id: int) -> SidecarPlace:
    """The same for a file whose ``pathnamehash`` is known."""
    filepath = folder_of(area, context_id)
    filename = file_hash + _SUFFIX
    return SidecarPlace(filepath, filename, RECORDS.pathname_hash(system_context_id, filepath, filename))


def folder_of(area: Area, context_id: int | None = None) -> str:
    """The ``filepath`` of the records of a context's files, or what those of all contexts begin with."""
    top = f"/{area.component}/{area.filearea}/{area.itemid}/"
    return top if context_id is None else f"{top}{context_id}/"


def file_hash_of(filename: str) -> str:
    """The ``pathnamehash`` of the file that a record of this ``filename`` belongs to."""
    return filename.removesuffix(_SUFFIX)


def encode(sidecar: Sidecar) -> str:
    """The text of the ``source`` column."""
    head = {
        "v": _VERSION,
        "state": sidecar.state.value,
        "course": sidecar.course_id,
        "shortname": sidecar.shortname,
        "path": sidecar.path,
        "contenthash": sidecar.contenthash,
    }
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False)
    return f'{text[:-1]},"record":{record_codec.encode(sidecar.record).decode()}}}'


def course_text(course_id: str) -> str:
    """How the text of a record names its course."""
    return f'"course":{course_id}'


def shortname_text(shortname: str) -> str:
    """The same by its short name."""
    return f'"shortname":{json.dumps(shortname, ensure_ascii=False)}'


def decode(text: str | None) -> Sidecar:
    """Raises BackendFault for what ``encode`` did not make."""
    try:
        document = json.loads(text or "")
        if document["v"] != _VERSION:
            raise BackendFault(f"the record beside the file has version {document['v']!r}, not {_VERSION}")
        return Sidecar(
            state=SidecarState(document["state"]),
            course_id=int(document["course"]),
            shortname=str(document["shortname"]),
            path=str(document["path"]),
            contenthash=str(document["contenthash"]),
            record=record_codec.decode(json.dumps(document["record"]).encode()),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise BackendFault("the record beside the file in Moodle's database cannot be understood") from error
