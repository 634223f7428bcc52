"""What is wrong in Moodle's file storage, as far as tables and directories tell: no content is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from wormfs.backends.moodle.names import DIRECTORY, Spot
from wormfs.backends.moodle.options import CourseNames
from wormfs.backends.moodle.rows import FileRow
from wormfs.backends.moodle.sidecar import Sidecar, SidecarState, decode, file_hash_of
from wormfs.errors import BackendFault
from wormfs.model import Finding, FindingKind
from wormfs.oserrors import translating

if TYPE_CHECKING:
    from wormfs.backends.moodle.backend import MoodleBackend

_PAGE: Final = 200


def run(backend: MoodleBackend) -> Iterator[Finding]:
    """Records whose file Moodle has removed or changed, then files whose content is gone."""
    context_id = None if backend.options.course is None else backend.fixed_course().context_id
    yield from _records(backend, context_id)
    yield from _files(backend, context_id)


def _records(backend: MoodleBackend, context_id: int | None) -> Iterator[Finding]:
    rows, last = backend.rows(), 0
    while True:
        page = backend.database.read(
            partial(rows.sidecar_page, area=backend.area, context_id=context_id, after_id=last, limit=_PAGE)
        )
        hashes = [file_hash_of(filename) for _, filename, _ in page]
        files = backend.database.read(partial(rows.by_hash, hashes=hashes))
        for (_, filename, text), file_hash in zip(page, hashes, strict=True):
            yield from _of_record(backend, filename, text, files.get(file_hash))
        if len(page) < _PAGE:
            return
        last = page[-1][0]


def _of_record(
    backend: MoodleBackend, filename: str, text: str | None, row: FileRow | None
) -> Iterator[Finding]:
    try:
        beside = decode(text)
    except BackendFault as error:
        yield Finding(FindingKind.ALTERED, filename.encode(), str(error))
        return
    name = _name(backend, beside)
    course = f"course {beside.course_id} ({beside.shortname})"
    if beside.state is SidecarState.ERASING:
        yield Finding(
            FindingKind.UNEXPECTED, name, f"an erase was cut off: erase it again; it was in {course}"
        )
    elif row is None:
        yield Finding(
            FindingKind.MISSING,
            name,
            f"Moodle has removed it from {course}; its content was {beside.contenthash}, "
            f"{beside.record.size_bytes} bytes",
        )
    elif (row.contenthash, row.size_bytes) != (beside.contenthash, beside.record.size_bytes):
        yield Finding(
            FindingKind.ALTERED,
            name,
            f"its row in Moodle now names content {row.contenthash}, {row.size_bytes} bytes; stored was "
            f"{beside.contenthash}, {beside.record.size_bytes} bytes, in {course}",
        )


def _files(backend: MoodleBackend, context_id: int | None) -> Iterator[Finding]:
    rows, last = backend.rows(), 0
    while True:
        page = backend.database.read(
            partial(rows.file_page, area=backend.area, context_id=context_id, after_id=last, limit=_PAGE)
        )
        names = {row.pathname_hash: row for row in page}
        hidden = {_as_file(backend, row).file_hash: row for row in page if row.filename == DIRECTORY}
        hiding = backend.database.read(partial(rows.by_hash, hashes=hidden))
        for file_hash in hiding:
            directory = hidden[file_hash]
            yield Finding(
                FindingKind.UNEXPECTED,
                _row_name(backend, directory),
                "Moodle has a directory and a file of this name: the directory is not shown",
            )
        for row in names.values():
            if row.filename != DIRECTORY:
                yield from _of_content(backend, row)
        if len(page) < _PAGE:
            return
        last = page[-1].id


def _of_content(backend: MoodleBackend, row: FileRow) -> Iterator[Finding]:
    name = _row_name(backend, row)
    with translating(backend.name, name, "look at its content"):
        size_bytes = backend.pool.size_of(row.contenthash)
        if size_bytes is None and backend.pool.restore(row.contenthash, row.size_bytes):
            return
    if size_bytes is None:
        yield Finding(
            FindingKind.MISSING, name, f"its content {row.contenthash} is not in {backend.pool.path}"
        )
    elif size_bytes != row.size_bytes:
        yield Finding(
            FindingKind.ALTERED,
            name,
            f"its content {row.contenthash} has {size_bytes} bytes, not {row.size_bytes}",
        )


def _as_file(backend: MoodleBackend, row: FileRow) -> Spot:
    return Spot(backend.area, row.context_id, row.filepath.strip("/"))


def _row_name(backend: MoodleBackend, row: FileRow) -> bytes:
    filename = "" if row.filename == DIRECTORY else row.filename
    path = (row.filepath + filename).strip("/")
    if backend.options.course is None:
        path = f"context {row.context_id}: {path}"
    return path.encode()


def _name(backend: MoodleBackend, beside: Sidecar) -> bytes:
    if backend.options.course is not None:
        return beside.path.encode()
    course = str(beside.course_id) if backend.options.names is CourseNames.ID else beside.shortname
    return f"{course}/{beside.path}".encode()
