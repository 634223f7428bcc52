"""Courses: from the name of a directory to a context, remembered for a few seconds.

A course that Moodle has deleted lives on in the records of its files: what they tell of its files stays
under its name, so that a loss can be looked at and, when retention is over, erased.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Select, exists, select

from wormfs import clock
from wormfs.backends.base import RESERVED_PREFIX
from wormfs.backends.moodle import sidecar
from wormfs.backends.moodle.database import Database
from wormfs.backends.moodle.names import MAX_NAME_BYTES, Area
from wormfs.backends.moodle.options import CourseNames
from wormfs.backends.moodle.tables import (
    CONTEXT_COURSE,
    CONTEXT_SYSTEM,
    LIKE_ESCAPE,
    Tables,
    like_escaped,
)
from wormfs.errors import BackendFault, NotFound

_REMEMBER_S: Final = 5.0
_REMEMBER_AT_MOST: Final = 4096
_PAGE: Final = 200
_RECORDS_LOOKED_AT: Final = 20


class CourseState(enum.Enum):
    """Whether Moodle still has a course."""

    THERE = "there"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Course:
    """A course and its context."""

    id: int
    shortname: str
    context_id: int
    state: CourseState = CourseState.THERE


class Courses:
    """Looks courses up. Safe from many threads."""

    def __init__(self, backend: str, database: Database, tables: Tables, area: Area, names: CourseNames):
        self._backend = backend
        self._database = database
        self._tables = tables
        self._area = area
        self._names = names
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Course]] = {}
        self._not_deleted: dict[str, float] = {}
        """Names that no record tells of, and until when that is believed: finding out takes time."""

    def named(self, name: str, key: bytes | None = None) -> Course:
        """The course that the settings or a path call ``name``, also one that is deleted and whose files have
        records. Raises NotFound, Unavailable.
        """
        now = clock.monotonic()
        with self._lock:
            until, course = self._known.get(name, (now, None))
            look_at_records = self._not_deleted.get(name, now) <= now
        if course is not None and until > now:
            return course
        found = self._database.read(partial(self._look_up, name=name, look_at_records=look_at_records), key)
        with self._lock:
            for remembered in (self._known, self._not_deleted):
                if len(remembered) >= _REMEMBER_AT_MOST:
                    remembered.clear()
            if found is not None:
                self._known[name] = (now + _REMEMBER_S, found)
                return found
            if look_at_records:
                self._not_deleted[name] = now + _REMEMBER_S
        raise NotFound(f"Moodle has no course {name!r}", backend=self._backend, key=key)

    def name_of(self, course: Course) -> str:
        """What the directory of a course is called."""
        return str(course.id) if self._names is CourseNames.ID else course.shortname

    def listed(self) -> Iterator[Course]:
        """The courses that have something in the area, streamed."""
        last = 0
        while True:
            page = self._database.read(partial(self._page, last=last))
            for course in page:
                name = self.name_of(course)
                # Short names may be anything; what cannot be a directory is found by its id only.
                if can_be_directory(name):
                    yield course
            if len(page) < _PAGE:
                return
            last = page[-1].context_id

    def system_context(self) -> int:
        """The context of the whole site. Raises BackendFault, Unavailable."""
        context = self._tables.context
        wanted = select(context.c.id).where(context.c.contextlevel == CONTEXT_SYSTEM)
        found = self._database.read(lambda connection: connection.execute(wanted).scalars().all())
        if len(found) != 1:
            raise BackendFault(
                f"Moodle has one system context, this database {len(found)}: is it Moodle's?",
                backend=self._backend,
            )
        return int(found[0])

    def _joined(self) -> Select[Any]:
        context, course = self._tables.context, self._tables.course
        return (
            select(course.c.id, course.c.shortname, context.c.id)
            .join(context, context.c.instanceid == course.c.id)
            .where(context.c.contextlevel == CONTEXT_COURSE)
        )

    def _look_up(self, connection: Connection, name: str, look_at_records: bool) -> Course | None:
        # Exactly as it is shown: no 007, no sign, no other digits.
        if self._names is CourseNames.ID and not (
            name.isascii() and name.isdigit() and len(name) < 19 and str(int(name)) == name
        ):
            return None
        found = self._find(connection, name)
        return self._find_deleted(connection, name) if found is None and look_at_records else found

    def _find_deleted(self, connection: Connection, name: str) -> Course | None:
        """By the records of its files. Looks through all records: only what is nowhere is asked for."""
        c = self._tables.files.c
        ids = self._names is CourseNames.ID
        told = sidecar.course_text(name) if ids else sidecar.shortname_text(name)
        folder = sidecar.folder_of(self._area)
        wanted = (
            select(c.filepath, c.source)
            .where(
                c.component == sidecar.RECORDS.component,
                c.filearea == sidecar.RECORDS.filearea,
                c.itemid == sidecar.RECORDS.itemid,
                c.filepath.like(f"{like_escaped(folder)}%", escape=LIKE_ESCAPE),
                c.source.like(f"%,{like_escaped(told)},%", escape=LIKE_ESCAPE),
            )
            .limit(_RECORDS_LOOKED_AT)
        )
        for filepath, source in connection.execute(wanted):
            beside = sidecar.decode(source)
            # A path may hold the pattern, and MariaDB compares without case.
            if name == (str(beside.course_id) if ids else beside.shortname):
                context_id = int(filepath.removeprefix(folder).rstrip("/"))
                return Course(beside.course_id, beside.shortname, context_id, CourseState.DELETED)
        return None

    def _find(self, connection: Connection, name: str) -> Course | None:
        course = self._tables.course
        if self._names is CourseNames.ID:
            wanted = self._joined().where(course.c.id == int(name))
        else:
            wanted = self._joined().where(course.c.shortname == name)
        for row in connection.execute(wanted):
            # MariaDB compares without case and accents.
            if self._names is CourseNames.ID or row[1] == name:
                return Course(row[0], row[1], row[2])
        return None

    def _page(self, connection: Connection, last: int) -> list[Course]:
        context, files = self._tables.context, self._tables.files
        used = exists().where(
            files.c.component == self._area.component,
            files.c.filearea == self._area.filearea,
            files.c.contextid == context.c.id,
            files.c.itemid == self._area.itemid,
        )
        wanted = self._joined().where(used, context.c.id > last).order_by(context.c.id).limit(_PAGE)
        return [Course(row[0], row[1], row[2]) for row in connection.execute(wanted)]


def can_be_directory(name: str) -> bool:
    """Whether a course's name can be a component of a path."""
    encoded = name.encode()
    return (
        0 < len(encoded) <= MAX_NAME_BYTES
        and name not in (".", "..")
        and "/" not in name
        and "\0" not in name
        and not encoded.startswith(RESERVED_PREFIX)
    )
