"""Directories, streamed from the table a page at a time.

Pages follow the ids of rows, which never change, so an entry that stays is neither missed nor repeated; no
transaction and no connection is held between two pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection

from wormfs.backends.moodle import info
from wormfs.backends.moodle.names import DIRECTORY, Spot
from wormfs.backends.moodle.rows import FileRow
from wormfs.backends.moodle.sidecar import Sidecar
from wormfs.model import ROOT, Key, ObjectInfo, child

if TYPE_CHECKING:
    from wormfs.backends.moodle.backend import MoodleBackend

_IDS: Final = 256
"""So many are found in one look at the whole area, which is what costs."""
_PAGE: Final = 20


def courses(backend: MoodleBackend) -> Iterator[ObjectInfo]:
    """The directories of the courses that have something in the area."""
    for course in backend.courses.listed():
        key = child(ROOT, backend.courses.name_of(course).encode())
        yield info.of_directory(key, None, backend.pool.owner)


def entries(backend: MoodleBackend, key: Key, spot: Spot) -> Iterator[ObjectInfo]:
    """What lies in the directory ``spot``, whose key is ``key``."""
    last = 0
    while True:
        ids = backend.database.read(
            partial(backend.rows().directory_ids, spot=spot, after_id=last, limit=_IDS), key
        )
        for start in range(0, len(ids), _PAGE):
            yield from _page_entries(backend, key, spot, ids[start : start + _PAGE])
        if len(ids) < _IDS:
            return
        last = ids[-1]


def _page_entries(backend: MoodleBackend, key: Key, spot: Spot, ids: list[int]) -> Iterator[ObjectInfo]:
    page, beside, hiding = backend.database.read(
        lambda connection: _page(backend, connection, spot, ids), key
    )
    for row in page:
        if row.filename != DIRECTORY:
            if row.filepath == spot.directory_path:
                below = child(key, row.filename.encode())
                yield info.of_file(below, row, beside.get(row.pathname_hash), backend.pool.owner)
            continue
        name = child_name(spot, row)
        if name is not None and _below(spot, name).file_hash not in hiding:
            yield info.of_directory(child(key, name.encode()), row, backend.pool.owner)


def _page(
    backend: MoodleBackend, connection: Connection, spot: Spot, ids: list[int]
) -> tuple[list[FileRow], dict[str, Sidecar], dict[str, FileRow]]:
    """Rows, the records of the files among them, and files of the same name as directories among them."""
    rows = backend.rows()
    page = rows.by_ids(connection, ids)
    files = [row.pathname_hash for row in page if row.filename != DIRECTORY]
    names = [child_name(spot, row) for row in page if row.filename == DIRECTORY]
    hiding = [_below(spot, name).file_hash for name in names if name is not None]
    return (
        page,
        rows.sidecars(connection, spot.area, spot.context_id, files),
        # Moodle lets a file and a directory have one name; a file system cannot: the file is shown.
        rows.by_hash(connection, hiding),
    )


def _below(spot: Spot, name: str) -> Spot:
    return Spot(spot.area, spot.context_id, f"{spot.path}/{name}" if spot.path else name)


def child_name(spot: Spot, row: FileRow) -> str | None:
    """The name of a directory's row in the directory ``spot``; ``None`` if it does not lie right in it."""
    above = spot.directory_path
    if not row.filepath.startswith(above):
        return None
    name = row.filepath[len(above) : -1]
    return name if name and "/" not in name else None
