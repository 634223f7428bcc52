"""The rows of ``mdl_files``: what stands there, and the transactions that change it.

The unique index on ``pathnamehash`` makes an INSERT the atomic create-if-absent, against Moodle, too. What
it cannot keep apart is a file and a directory of the same path, and a directory that goes while a file
comes. Therefore whoever adds a file takes a shared lock on the row of its directory, and whoever adds or
removes a directory an exclusive one on the row of the directory above. Lock order: directory above,
directory, file, record.

What every stored file needs (``look``, ``add_file``) is written out, for ``Database.ask`` and ``write``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Dialect,
    Row,
    Select,
    and_,
    any_,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import IntegrityError

from wormfs.backends.moodle import mimetypes, sidecar
from wormfs.backends.moodle.database import Cursor
from wormfs.backends.moodle.dberrors import is_duplicate
from wormfs.backends.moodle.names import DIRECTORY, Area, Spot
from wormfs.backends.moodle.options import Server
from wormfs.backends.moodle.sidecar import RECORDS, Sidecar
from wormfs.backends.moodle.tables import EMPTY_CONTENT, LIKE_ESCAPE, Tables, like_escaped
from wormfs.errors import BackendFault, NotFound

NS_PER_S: Final = 1_000_000_000
_NEWEST: Final = 2000
"""So many rows at the end of the table may be of the last minute."""

Ask = Callable[[str, Sequence[Any]], Sequence[Sequence[Any]]]
"""Runs a statement with ``%s`` for each value; its rows. ``Database.ask``, or ``asking``."""

_SHOWN: Final = (
    "id, contenthash, pathnamehash, contextid, filepath, filename, filesize, timecreated, timemodified"
)
"""The columns of a FileRow, in its order."""
_STORED: Final = (
    "contenthash", "pathnamehash", "contextid", "component", "filearea", "itemid", "filepath", "filename",
    "userid", "filesize", "mimetype", "status", "source", "timecreated", "timemodified", "sortorder",
)  # fmt: skip
"""The columns of a new row."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """What a row says of a file or directory. Times in whole seconds, as Moodle keeps them."""

    id: int
    contenthash: str
    pathname_hash: str
    context_id: int
    filepath: str
    filename: str
    size_bytes: int
    created_s: int
    modified_s: int


@dataclass(frozen=True, slots=True)
class Found:
    """What stands under one path."""

    file: FileRow | None
    directory: FileRow | None
    sidecar: Sidecar | None


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be: its place, content and record."""

    spot: Spot
    contenthash: str
    sidecar: Sidecar


class Taken(Exception):
    """The name is taken; the transaction has changed nothing."""


class Rows:
    """Statements on ``mdl_files`` in a caller's transaction."""

    def __init__(self, backend: str, tables: Tables, server: Server, system_context_id: int):
        """``backend``: its name, for messages."""
        self._backend = backend
        self._tables = tables
        self._files = tables.files
        self._server = server
        self.system_context_id = system_context_id
        name, postgresql_ = self._files.name, server is Server.POSTGRESQL
        # Only names go into these texts: the prefix is letters, digits and _ (options.parse).
        self._look = f"SELECT {_SHOWN}, source FROM {name} WHERE pathnamehash "  # noqa: S608
        self._hold = f"SELECT id FROM {name} WHERE pathnamehash = %s " + (  # noqa: S608
            "FOR SHARE" if postgresql_ else "LOCK IN SHARE MODE"
        )
        self._any = f"SELECT 1 FROM {name} WHERE pathnamehash IN (%s, %s, %s) LIMIT 1"  # noqa: S608
        self._touch = f"UPDATE {name} SET sortorder = 1 - sortorder WHERE pathnamehash = %s"  # noqa: S608

    # Looking

    def look(self, ask: Ask, *spots: Spot) -> list[Found]:
        """Everything under each of the paths, in one statement. Raises BackendFault for a damaged record."""
        hashes = [(spot.file_hash, spot.directory_hash, self.sidecar_hash(spot)) for spot in spots]
        wanted = [one for several in hashes for one in several]
        if self._server is Server.POSTGRESQL:
            # One value, so that the text of the statement stays the same.
            rows = ask(self._look + "= ANY(%s)", (wanted,))
        else:
            rows = ask(f"{self._look}IN ({', '.join(['%s'] * len(wanted))})", tuple(wanted))
        shown = {row[2]: FileRow(*row[:-1]) for row in rows}
        sources = {row[2]: row[-1] for row in rows}
        return [
            Found(
                file=shown.get(file_hash),
                directory=shown.get(directory_hash),
                sidecar=sidecar.decode(sources[beside_hash]) if beside_hash in sources else None,
            )
            for file_hash, directory_hash, beside_hash in hashes
        ]

    def sidecar_hash(self, spot: Spot) -> str:
        """The ``pathnamehash`` of the record of the file ``spot``."""
        return sidecar.place_of(spot, self.system_context_id).pathname_hash

    def directory_ids(self, connection: Connection, spot: Spot, after_id: int, limit: int) -> list[int]:
        """The ids of what may lie in a directory, ascending; the caller looks closer: MariaDB compares
        without case."""
        c = self._files.c
        path = spot.directory_path
        begins = like_escaped(path)
        in_it = and_(c.filepath == path, c.filename != DIRECTORY)
        below = and_(
            c.filename == DIRECTORY,
            c.filepath.like(f"{begins}%/", escape=LIKE_ESCAPE),
            c.filepath.not_like(f"{begins}%/%/", escape=LIKE_ESCAPE),
        )
        wanted = select(c.id).where(
            *self._in_area(spot.area), c.contextid == spot.context_id, or_(in_it, below), c.id > after_id
        )
        return list(connection.execute(self._by_id(wanted, limit)).scalars())

    def by_ids(self, connection: Connection, ids: list[int]) -> list[FileRow]:
        """The rows with these ids that are still there."""
        return [
            _made(row)
            for row in connection.execute(self._row_select().where(self._among(self._files.c.id, ids)))
        ]

    def file_page(
        self, connection: Connection, area: Area, context_id: int | None, after_id: int, limit: int
    ) -> list[FileRow]:
        """Files and directories of a context's area, or of all contexts', in the order of ids."""
        wanted = self._row_select().where(*self._in_area(area), self._files.c.id > after_id)
        if context_id is not None:
            wanted = wanted.where(self._files.c.contextid == context_id)
        return [_made(row) for row in connection.execute(self._by_id(wanted, limit))]

    def sidecar_page(
        self, connection: Connection, area: Area, context_id: int | None, after_id: int, limit: int
    ) -> list[tuple[int, str, str | None]]:
        """Records of a context's files, or of all contexts': id, filename and text."""
        c = self._files.c
        folder = like_escaped(sidecar.folder_of(area, context_id))
        wanted = select(c.id, c.filename, c.source).where(
            *self._in_area(RECORDS),
            c.contextid == self.system_context_id,
            c.filename != DIRECTORY,
            c.filepath.like(f"{folder}%", escape=LIKE_ESCAPE),
            c.id > after_id,
        )
        return [(row[0], row[1], row[2]) for row in connection.execute(self._by_id(wanted, limit))]

    def by_hash(self, connection: Connection, hashes: Iterable[str]) -> dict[str, FileRow]:
        """The rows with these ``pathnamehash`` values."""
        wanted = list(hashes)
        if not wanted:
            return {}
        asked = self._row_select().where(self._among(self._files.c.pathnamehash, wanted))
        return {row.pathnamehash: _made(row) for row in connection.execute(asked)}

    def sidecars(
        self, connection: Connection, area: Area, context_id: int, file_hashes: Iterable[str]
    ) -> dict[str, Sidecar]:
        """The records of the files with these hashes, by that hash."""
        places = {
            sidecar.place_of_hash(
                area, context_id, file_hash, self.system_context_id
            ).pathname_hash: file_hash
            for file_hash in file_hashes
        }
        if not places:
            return {}
        files = self._files
        wanted = select(files.c.pathnamehash, files.c.source).where(
            self._among(files.c.pathnamehash, list(places))
        )
        return {places[row[0]]: sidecar.decode(row[1]) for row in connection.execute(wanted)}

    def uses_content(self, connection: Connection, contenthash: str) -> bool:
        """Whether any row of this Moodle has the content, in whatever area."""
        files = self._files
        return bool(connection.execute(select(exists().where(files.c.contenthash == contenthash))).scalar())

    def recent_content(self, connection: Connection, limit: int) -> list[tuple[str, int]]:
        """Content hash and size of files that were stored last, wormfs's own left out."""
        files = self._files
        wanted = (
            select(files.c.contenthash, files.c.filesize)
            .where(files.c.filesize > 0, files.c.referencefileid.is_(None))
            .order_by(files.c.id.desc())
            .limit(limit)
        )
        return [(row[0], row[1]) for row in connection.execute(wanted)]

    def newest_content(self, connection: Connection, area: Area) -> list[tuple[str, int]]:
        """Content hash and size of what was stored in the area last: among the last rows of all areas."""
        c = self._files.c
        newest = select(func.max(c.id)).scalar_subquery()
        wanted = select(c.contenthash, c.filesize).where(
            *self._in_area(area), c.id > newest - _NEWEST, c.filename != DIRECTORY
        )
        return [(row[0], row[1]) for row in connection.execute(wanted)]

    # Changing

    def add_file(self, cursor: Cursor, new: NewFile) -> bool:
        """The row and its record. False: its directory has no row (``make_directory_of``); all is as before.

        Raises Taken, and whoever runs the transaction Duplicate: the name is taken.
        """
        spot = new.spot
        cursor.execute(self._hold, (spot.parent.directory_hash,))
        if not cursor.fetchall():
            return False
        rows = self._values_of_file(new)
        if self._server is Server.POSTGRESQL:
            # The index keeps file and record apart from others; a directory of this name is looked for.
            cursor.execute(self._insert(len(rows), guarded=True), (*_flat(rows), spot.directory_hash))
            if len(cursor.fetchall()) != len(rows):
                raise Taken
            return True
        cursor.execute(self._any, (spot.file_hash, spot.directory_hash, self.sidecar_hash(spot)))
        if cursor.fetchall():
            raise Taken
        cursor.execute(self._insert(len(rows)), _flat(rows))
        return True

    def touch_sidecar(self, cursor: Cursor, spot: Spot) -> bool:
        """Change the record of a file in what nobody reads; whether there is one.

        A row that can be seen may be less durable than what this database promises: its own COMMIT was cut
        off while it waited for a standby. But logs have an order: when this transaction is durable, that one
        is. So it has to change something.
        """
        cursor.execute(self._touch, (self.sidecar_hash(spot),))
        return cursor.rowcount == 1

    def make_directory_of(self, connection: Connection, spot: Spot, now_s: int) -> None:
        """Rows of the directories above a file that are missing: what has been accepted needs them.

        Raises Taken when a file is in the place of one; BackendFault when Moodle has deleted the course.
        """
        self._require_context(connection, spot)
        lineage = spot.parent.lineage()
        if self.by_hash(connection, [above.file_hash for above in lineage if above.path]):
            raise Taken
        self.ensure_directories(connection, lineage, now_s)

    def add_plain(
        self, connection: Connection, spot: Spot, contenthash: str, size_bytes: int, now_s: int
    ) -> None:
        """A row without a record, for the test object. Raises Taken."""
        row = self._values(
            spot.area, spot.context_id, spot.filepath, spot.filename, now_s,
            contenthash=contenthash, filesize=size_bytes, mimetype="text/plain",
        )  # fmt: skip
        self._insert_all(connection, [row])

    def add_directory(self, connection: Connection, spot: Spot, now_s: int) -> FileRow:
        """The row of a directory whose parent must have one (the area's root gets it here).

        Raises Taken, NotFound.
        """
        parent = spot.parent
        if not self._lock(connection, parent.directory_hash, shared=False):
            if parent.path:
                raise NotFound("its directory does not exist", backend=self._backend)
            self._require_context(connection, spot)
            self.ensure_directories(connection, [parent], now_s)
            self._lock(connection, parent.directory_hash, shared=False)
        if self.by_hash(connection, (spot.file_hash, spot.directory_hash, self.sidecar_hash(spot))):
            raise Taken
        self._insert_all(connection, [self._directory_values(spot, now_s)])
        return self.by_hash(connection, [spot.directory_hash])[spot.directory_hash]

    def remove_directory(self, connection: Connection, spot: Spot) -> bool:
        """Remove the row of a directory if nothing lies below; whether it did. The row must be there."""
        self._lock(connection, spot.parent.directory_hash, shared=False)
        if not self._lock(connection, spot.directory_hash, shared=False):
            return True
        files = self._files
        below = connection.execute(
            select(files.c.filepath, files.c.filename).where(
                files.c.component == spot.area.component,
                files.c.filearea == spot.area.filearea,
                files.c.contextid == spot.context_id,
                files.c.itemid == spot.area.itemid,
                files.c.pathnamehash != spot.directory_hash,
                files.c.filepath.like(f"{like_escaped(spot.directory_path)}%", escape=LIKE_ESCAPE),
            )
        )
        # MariaDB compares without case: only what really begins so is below.
        if any(row.filepath.startswith(spot.directory_path) for row in below):
            return False
        connection.execute(delete(files).where(files.c.pathnamehash == spot.directory_hash))
        return True

    def lock_sidecar(self, connection: Connection, spot: Spot) -> bool:
        """Hold the record of a file until the transaction ends; whether there is one."""
        return self._lock(connection, self.sidecar_hash(spot), shared=False)

    def replace_sidecar(self, connection: Connection, spot: Spot, changed: Sidecar) -> None:
        """Write the record anew."""
        files = self._files
        connection.execute(
            update(files)
            .where(files.c.pathnamehash == self.sidecar_hash(spot))
            .values(source=sidecar.encode(changed))
        )

    def remove(self, connection: Connection, pathname_hash: str) -> None:
        """Remove one row."""
        connection.execute(delete(self._files).where(self._files.c.pathnamehash == pathname_hash))

    def remove_erased(self, connection: Connection, spot: Spot, erased: Sidecar) -> None:
        """Remove the record of a file that is erased now, unless the name has got another file since."""
        self.lock_sidecar(connection, spot)
        (found,) = self.look(asking(connection), spot)
        there = found.sidecar
        if there is not None and there.record.entry_id == erased.record.entry_id:
            self.remove(connection, self.sidecar_hash(spot))

    def ensure_directories(self, connection: Connection, spots: Sequence[Spot], now_s: int) -> None:
        """Make sure that these directories have rows."""
        present = self.by_hash(connection, [spot.directory_hash for spot in spots])
        missing = [spot for spot in spots if spot.directory_hash not in present]
        for spot in missing:
            values = self._directory_values(spot, now_s)
            if self._server is Server.POSTGRESQL:
                statement = postgresql.insert(self._files)
                connection.execute(statement.on_conflict_do_nothing(index_elements=["pathnamehash"]), values)
            else:
                # INSERT IGNORE would forgive other errors, too.
                ignoring = mysql.insert(self._files).on_duplicate_key_update(id=self._files.c.id)
                connection.execute(ignoring, values)

    # Inside

    def _require_context(self, connection: Connection, spot: Spot) -> None:
        context = self._tables.context
        wanted = select(context.c.id).where(context.c.id == spot.context_id)
        if connection.execute(wanted).scalar() is None:
            raise BackendFault("Moodle has deleted the course", backend=self._backend, key=spot.path.encode())

    def _lock(self, connection: Connection, pathname_hash: str, *, shared: bool) -> bool:
        files = self._files
        wanted = select(files.c.id).where(files.c.pathnamehash == pathname_hash).with_for_update(read=shared)
        return connection.execute(wanted).scalar() is not None

    def _insert_all(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """All of the rows or none. Raises Taken when one is there already."""
        try:
            done = connection.exec_driver_sql(self._insert(len(rows)), _flat(rows))
        except IntegrityError as error:
            if is_duplicate(error.orig):
                raise Taken from None
            raise
        if self._server is Server.POSTGRESQL and len(done.all()) != len(rows):
            raise Taken

    @functools.cache  # noqa: B019 (a few texts for each backend)
    def _insert(self, count: int, *, guarded: bool = False) -> str:
        """One INSERT of several rows. ``guarded`` (PostgreSQL): none if there is a row of one more hash."""
        # Only names go into the text, as above.
        name, places = self._files.name, ", ".join(["%s"] * len(_STORED))
        rows = [f"({places})"] * count
        if guarded:
            # Inside a SELECT, PostgreSQL does not see by itself of what kind a value is.
            kinds = [self._kind(column) for column in _STORED]
            rows[0] = f"({', '.join(f'CAST(%s AS {kind})' for kind in kinds)})"
            free = f"NOT EXISTS (SELECT 1 FROM {name} WHERE pathnamehash = %s)"  # noqa: S608
            values = f"SELECT * FROM (VALUES {', '.join(rows)}) AS new WHERE {free}"  # noqa: S608
        else:
            values = f"VALUES {', '.join(rows)}"
        written = f"INSERT INTO {name} ({', '.join(_STORED)}) {values}"
        if self._server is Server.POSTGRESQL:
            written += " ON CONFLICT (pathnamehash) DO NOTHING RETURNING id"
        return written

    def _kind(self, column: str) -> str:
        dialect: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
        return self._files.c[column].type.compile(dialect)

    def _among(self, column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
        """One of ``values``. PostgreSQL takes one array, so that the text of a statement stays the same."""
        if self._server is Server.POSTGRESQL:
            return column == any_(literal(list(values), ARRAY(column.type)))
        return column.in_(values)

    def _in_area(self, area: Area) -> tuple[ColumnElement[bool], ...]:
        c = self._files.c
        return c.component == area.component, c.filearea == area.filearea, c.itemid == area.itemid

    def _by_id(self, wanted: Select[Any], limit: int) -> Select[Any]:
        c = self._files.c
        # Left to itself, PostgreSQL may walk the whole of mdl_files in the order of ids.
        order = c.id + 0 if self._server is Server.POSTGRESQL else c.id
        return wanted.order_by(order).limit(limit)

    def _row_select(self, *more: Any) -> Select[Any]:
        c = self._files.c
        return select(
            c.id, c.contenthash, c.pathnamehash, c.contextid, c.filepath, c.filename, c.filesize,
            c.timecreated, c.timemodified, *more,
        )  # fmt: skip

    def _values_of_file(self, new: NewFile) -> list[dict[str, Any]]:
        spot, record = new.spot, new.sidecar.record
        created_s = record.committed_at_ns // NS_PER_S
        row = self._values(
            spot.area, spot.context_id, spot.filepath, spot.filename, created_s,
            contenthash=new.contenthash,
            filesize=record.size_bytes,
            mimetype=mimetypes.guess(spot.filename),
            timemodified=max(0, record.attributes.mtime_ns // NS_PER_S),
        )  # fmt: skip
        return [row, self._sidecar_values(spot, new.sidecar, created_s)]

    def _sidecar_values(self, spot: Spot, beside: Sidecar, created_s: int) -> dict[str, Any]:
        place = sidecar.place_of(spot, self.system_context_id)
        return self._values(
            RECORDS, self.system_context_id, place.filepath, place.filename, created_s,
            mimetype="application/json", source=sidecar.encode(beside),
        )  # fmt: skip

    def _directory_values(self, spot: Spot, now_s: int) -> dict[str, Any]:
        return self._values(spot.area, spot.context_id, spot.directory_path, DIRECTORY, now_s)

    @staticmethod
    def _values(
        area: Area, context_id: int, filepath: str, filename: str, created_s: int, **others: Any
    ) -> dict[str, Any]:
        values: dict[str, Any] = {
            "contenthash": EMPTY_CONTENT,
            "pathnamehash": area.pathname_hash(context_id, filepath, filename),
            "contextid": context_id,
            "component": area.component,
            "filearea": area.filearea,
            "itemid": area.itemid,
            "filepath": filepath,
            "filename": filename,
            "userid": None,
            "filesize": 0,
            "mimetype": None,
            "status": 0,
            "source": None,
            "timecreated": created_s,
            "timemodified": created_s,
            "sortorder": 0,
        }
        return values | others


def asking(connection: Connection) -> Ask:
    """For ``look``, in the transaction of ``connection``."""
    return lambda statement, values: connection.exec_driver_sql(statement, tuple(values)).all()


def _flat(rows: list[dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(row[column] for row in rows for column in _STORED)


def _made(row: Row[Any]) -> FileRow:
    return FileRow(
        row.id, row.contenthash, row.pathnamehash, row.contextid, row.filepath, row.filename, row.filesize,
        row.timecreated, row.timemodified,
    )  # fmt: skip
