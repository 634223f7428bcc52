"""A Moodle as far as wormfs meets it: its tables, as Moodle 5 makes them, and its moodledata; no PHP.

Columns, types and indexes are those of Moodle's lib/db/install.xml as its installer writes them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.databases import DATABASE, PASSWORD, USER, DatabaseServer, shared_server

EMPTY_SHA1 = hashlib.sha1(b"").hexdigest()
COMPONENT, FILEAREA, ITEMID = "local_wormfs", "archive", 0
SYSTEM_CONTEXT = 1
COURSE = 7
"""The id of the course that every site has; its context is ``context_of(COURSE)``."""

# name, type; NOT NULL unless it begins with "?"; a default after "=".
_FILES = """contenthash c40; pathnamehash c40; contextid i; component c100; filearea c50; itemid i;
filepath c255; filename c255; userid ?i; filesize i; mimetype ?c100; status i =0; source
?t; author ?c255; license ?c255; timecreated i; timemodified i; sortorder i =0;
referencefileid ?i"""
_CONTEXT = "contextlevel i =0; instanceid i =0; path ?c255; depth s =0; locked s =0"
_COURSE = """category i =0; sortorder i =0; fullname c254 =''; shortname c255 =''; idnumber c100 ='';
summary ?t; summaryformat s =0; format c21 ='topics'; showgrades s =1; newsitems i =1;
startdate i =0; enddate i =0; relativedatesmode s =0; marker i =0; maxbytes i =0;
legacyfiles s =0; showreports s =0; visible s =1; visibleold s =1; downloadcontent ?s;
groupmode s =0; groupmodeforce s =0; defaultgroupingid i =0; lang c30 =''; calendartype
c30 =''; theme c50 =''; timecreated i =0; timemodified i =0; requested s =0;
enablecompletion s =0; completionnotify s =0; cacherev i =0; originalcourseid ?i;
showactivitydates s =0; showcompletionconditions ?s; pdfexportfont ?c50"""
_INDEXES = {
    "files": [
        ("component,filearea,contextid,itemid", False), ("contenthash", False), ("pathnamehash", True),
        ("license", False), ("filename", False), ("contextid", False), ("userid", False),
        ("referencefileid", False),
    ],
    "context": [("contextlevel,instanceid", True), ("instanceid", False), ("path", False)],
    "course": [("category", False), ("idnumber", False), ("shortname", False), ("sortorder", False),
               ("originalcourseid", False)],
}  # fmt: skip
_TYPES = {
    "postgresql": {
        "i": "BIGINT", "s": "SMALLINT", "t": "TEXT", "c": "VARCHAR({})", "id": "BIGSERIAL PRIMARY KEY",
    },
    "mariadb": {
        "i": "BIGINT(10)", "s": "SMALLINT(4)", "t": "LONGTEXT COLLATE utf8mb4_unicode_ci",
        "c": "VARCHAR({}) COLLATE utf8mb4_unicode_ci",
        "id": "BIGINT(10) NOT NULL AUTO_INCREMENT PRIMARY KEY",
    },
}  # fmt: skip


def context_of(course: int) -> int:
    """The context of a course that ``add_course`` made."""
    return 1000 + course


@dataclass
class Moodle:
    """One site: a prefix of its own in a server's database, and a moodledata below ``top``.

    It can be pickled for other processes; each has a connection of its own.
    """

    kind: str
    server: DatabaseServer
    top: Path
    prefix: str = field(default_factory=lambda: f"m{secrets.token_hex(4)}_")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("connection", None)
        server = state["server"].__class__.__new__(state["server"].__class__)
        server.__dict__ = {**self.server.__dict__, "process": None}
        state["server"] = server
        return state

    @functools.cached_property
    def connection(self) -> Any:
        return self.server.connect()

    @property
    def dataroot(self) -> Path:
        return self.top / "moodledata"

    @property
    def filedir(self) -> Path:
        return self.dataroot / "filedir"

    @property
    def trashdir(self) -> Path:
        return self.dataroot / "trashdir"

    def make(self) -> Moodle:
        """Tables, the system context, course 7, an empty pool."""
        for table, columns in (("files", _FILES), ("context", _CONTEXT), ("course", _COURSE)):
            self._make_table(table, columns)
        self.execute(f"INSERT INTO {self.prefix}context (id, contextlevel) VALUES (%s, 10)", SYSTEM_CONTEXT)
        self.add_course(COURSE, "Law 1")
        self.filedir.mkdir(parents=True)
        return self

    def options(self, **settings: object) -> dict[str, object]:
        """The settings of a backend on this site, but ``type``."""
        return {
            "dataroot": str(self.dataroot),
            "database": self.kind,
            "database_socket": str(self.server.socket),
            "database_name": "postgres" if self.kind == "postgresql" else DATABASE,
            "database_user": USER,
            "prefix": self.prefix,
            **settings,
        }

    def remove(self) -> None:
        """Tables and moodledata away."""
        for table in ("files", "context", "course"):
            self.execute(f"DROP TABLE {self.prefix}{table}")
        self.connection.close()
        shutil.rmtree(self.dataroot)

    # As Moodle does it

    def execute(self, statement: str, *values: object) -> list[Sequence[Any]]:
        """One statement; its rows, if it has any."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else []

    def add_course(self, course: int, shortname: str) -> None:
        self.execute(
            f"INSERT INTO {self.prefix}course (id, fullname, shortname) VALUES (%s, %s, %s)",
            course, shortname, shortname,
        )  # fmt: skip
        self.execute(
            f"INSERT INTO {self.prefix}context (id, contextlevel, instanceid, path, depth) "
            "VALUES (%s, 50, %s, %s, 3)",
            context_of(course), course, f"/1/3/{context_of(course)}",
        )  # fmt: skip

    def delete_course(self, course: int = COURSE) -> None:
        """Rows of its context, content that no other row uses to the trash, context, course."""
        context = context_of(course)
        wanted = f"SELECT DISTINCT contenthash FROM {self.prefix}files WHERE contextid = %s"
        hashes = [row[0] for row in self.execute(wanted, context)]
        self.execute(f"DELETE FROM {self.prefix}files WHERE contextid = %s", context)
        for contenthash in hashes:
            self.trash(contenthash)
        self.execute(f"DELETE FROM {self.prefix}context WHERE id = %s", context)
        self.execute(f"DELETE FROM {self.prefix}course WHERE id = %s", course)

    def trash(self, contenthash: str, *, unused: bool = True) -> None:
        """file_system_filedir::remove_file. ``unused``: ask for rows first, as Moodle does."""
        if contenthash == EMPTY_SHA1:
            return
        count = f"SELECT COUNT(*) FROM {self.prefix}files WHERE contenthash = %s"
        if unused and self.execute(count, contenthash)[0][0]:
            return
        target = self.trashdir / contenthash[:2] / contenthash[2:4] / contenthash
        target.parent.mkdir(parents=True, exist_ok=True)
        self.pool_path(contenthash).rename(target)

    def pool_path(self, contenthash: str) -> Path:
        return self.filedir / contenthash[:2] / contenthash[2:4] / contenthash

    def add_content(self, content: bytes) -> str:
        contenthash = hashlib.sha1(content).hexdigest()
        path = self.pool_path(contenthash)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return contenthash

    def add_file(self, path: str, content: bytes, course: int = COURSE) -> None:
        """file_storage::create_file_from_string: content, then the row, then rows of directories."""
        folder, _, name = path.rpartition("/")
        self.insert(f"/{folder}/" if folder else "/", name, self.add_content(content), len(content), course)
        while True:
            self.insert(f"/{folder}/" if folder else "/", ".", EMPTY_SHA1, 0, course, must=False)
            if not folder:
                return
            folder = folder.rpartition("/")[0]

    def insert(
        self,
        filepath: str,
        filename: str,
        contenthash: str,
        size: int,
        course: int = COURSE,
        *,
        must: bool = True,
    ) -> None:
        """One row. ``must``: an error when it is there already."""
        context = context_of(course)
        values = (
            contenthash, pathname_hash(context, filepath, filename), context, COMPONENT, FILEAREA, ITEMID,
            filepath, filename, 2, size, 1_600_000_000, 1_600_000_001,
        )  # fmt: skip
        ignore, conflict = ("", "")
        if not must:
            ignore, conflict = (
                ("", " ON CONFLICT DO NOTHING") if self.kind == "postgresql" else (" IGNORE", "")
            )
        self.execute(
            f"INSERT{ignore} INTO {self.prefix}files (contenthash, pathnamehash, contextid, component, "
            "filearea, itemid, filepath, filename, userid, filesize, timecreated, timemodified) "
            f"VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s){conflict}",
            *values,
        )

    def rows(self, course: int | None = COURSE) -> dict[str, tuple[str, int]]:
        """Path of every file and (with a slash at its end) directory of the area: content hash and size."""
        found = self.execute(
            f"SELECT filepath, filename, contenthash, filesize, contextid FROM {self.prefix}files "
            "WHERE component = %s AND filearea = %s",
            COMPONENT, FILEAREA,
        )  # fmt: skip
        return {
            (row[0] + ("" if row[1] == "." else row[1]))[1:]: (row[2], row[3])
            for row in found
            if course is None or row[4] == context_of(course)
        }

    def lose(self, path: str, course: int = COURSE) -> None:
        """As when the database is put back to a time before the file: neither its row nor wormfs's record."""
        folder, _, name = path.rpartition("/")
        file_hash = pathname_hash(context_of(course), f"/{folder}/" if folder else "/", name)
        contenthash, _ = self.rows(course)[path]
        lost = f"DELETE FROM {self.prefix}files WHERE pathnamehash = %s OR filename = %s"
        self.execute(lost, file_hash, f"{file_hash}.json")
        self.trash(contenthash)

    def content(self, path: str, course: int = COURSE) -> bytes:
        """The bytes of a file, found as Moodle's file API finds them."""
        folder, _, name = path.rpartition("/")
        filepath = f"/{folder}/" if folder else "/"
        ((contenthash, size),) = self.execute(
            f"SELECT contenthash, filesize FROM {self.prefix}files WHERE pathnamehash = %s",
            pathname_hash(context_of(course), filepath, name),
        )  # fmt: skip
        content = self.pool_path(contenthash).read_bytes()
        assert (hashlib.sha1(content).hexdigest(), len(content)) == (contenthash, size)
        return content

    def pool_files(self) -> set[str]:
        """The names of everything in the pool that is no directory."""
        return {name for _, _, files in os.walk(self.filedir) for name in files}

    def _make_table(self, table: str, columns: str) -> None:
        types = _TYPES[self.kind]
        lines = [f"id {types['id']}"]
        for column in columns.split(";"):
            name, kind, *default = column.split()
            null = "" if kind.startswith("?") else " NOT NULL"
            kind = kind.lstrip("?")
            shape = types[kind[0]].format(kind[1:])
            lines.append(f"{name} {shape}{null}" + (f" DEFAULT {default[0][1:]}" if default else ""))
        indexes = [
            (
                f"{self.prefix}{table}_{number}_{'uix' if unique else 'ix'}",
                indexed,
                "UNIQUE " if unique else "",
            )
            for number, (indexed, unique) in enumerate(_INDEXES[table])
        ]
        if self.kind == "mariadb":
            # In one statement: each is durable by itself, which takes its time.
            lines += [f"{unique}INDEX {name} ({indexed})" for name, indexed, unique in indexes]
            collation = "DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci"
            self.execute(
                f"CREATE TABLE {self.prefix}{table} ({', '.join(lines)}) "
                f"ENGINE=InnoDB {collation} ROW_FORMAT=Dynamic"
            )
            return
        self.execute(f"CREATE TABLE {self.prefix}{table} ({', '.join(lines)})")
        for name, indexed, unique in indexes:
            self.execute(f"CREATE {unique}INDEX {name} ON {self.prefix}{table} ({indexed})")


def pathname_hash(context: int, filepath: str, filename: str) -> str:
    """file_storage::get_pathname_hash."""
    path = f"/{context}/{COMPONENT}/{FILEAREA}/{ITEMID}{filepath}{filename}"
    return hashlib.sha1(path.encode()).hexdigest()


def make_moodle(kind: str, top: Path, server: DatabaseServer | None = None) -> Moodle:
    """A site on the tests' shared server, or on ``server``."""
    return Moodle(kind, server or shared_server(kind), top).make()


def secret() -> str:
    """The password, as the settings may hold it."""
    return PASSWORD
