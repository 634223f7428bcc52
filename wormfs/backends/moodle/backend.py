"""Moodle's own file storage as a backend: rows in ``mdl_files``, content in ``filedir``.

wormfs speaks to Moodle's database and to its pool of content directly, on a host that has both. What it
stores looks to Moodle as if Moodle had stored it; what Moodle has in the same file area is shown,
read-only. See docs/moodle-storage.md.

::

    <course>/job-1/exam.zip     a row: context of the course, component, file area, item,
                                filepath /job-1/, filename exam.zip; and its record, a row of wormfs's own
    <filedir>/0a/1b/0a1b…       its content, by SHA-1
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

from wormfs import durability
from wormfs.backends.base import Guarantee, Traits
from wormfs.backends.local.reader import Buffers, LocalReader
from wormfs.backends.memory import Memory
from wormfs.backends.moodle import check, findings, info, listing, names, starting
from wormfs.backends.moodle.content import ContentKeeper
from wormfs.backends.moodle.courses import Course, Courses, CourseState
from wormfs.backends.moodle.database import Database
from wormfs.backends.moodle.names import Area, Spot
from wormfs.backends.moodle.options import MoodleOptions, parse
from wormfs.backends.moodle.pool import Pool
from wormfs.backends.moodle.rows import NS_PER_S, FileRow, Found, Rows, Taken, asking
from wormfs.backends.moodle.sidecar import Sidecar, SidecarState
from wormfs.backends.moodle.tables import Tables, make_tables
from wormfs.backends.moodle.transfer import MoodleTransfer, Origin, Target
from wormfs.clock import Clock, SystemClock
from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    BackendFault,
    DigestMismatch,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotFound,
    Unavailable,
    Unsupported,
)
from wormfs.model import (
    ROOT,
    CheckResult,
    DirectoryAttributes,
    Finding,
    Key,
    ObjectInfo,
    Record,
    RetentionChange,
    Space,
    name_of,
)
from wormfs.oserrors import translated
from wormfs.worm import retention

_PATH_BYTES: Final = names.MAX_UTF8_BYTES * (names.MAX_PATH_CHARACTERS - 2) + 1 + names.MAX_NAME_BYTES
_COURSE_BYTES: Final = names.MAX_NAME_BYTES + 1
_MOMENT_S: Final = 0.2
_FREE_NAMES_KEPT: Final = 1024


def create(name: str, options: Mapping[str, object]) -> MoodleBackend:
    """For the registry. Raises SettingsError."""
    return MoodleBackend(name, parse(name, options))


@dataclass(frozen=True, slots=True)
class Located:
    """What a key stands for: a path below the area of one course."""

    course: Course
    spot: Spot


class MoodleBackend:
    """See ``wormfs.backends.base.Backend`` for what each method promises."""

    def __init__(self, name: str, options: MoodleOptions, clock: Clock | None = None) -> None:
        self.name = name
        self.options = options
        self.area = Area(options.component, options.filearea, options.itemid)
        self.traits = Traits(
            guarantee=Guarantee.ATOMIC,
            connections=options.connections,
            max_key_bytes=_PATH_BYTES + (_COURSE_BYTES if options.course is None else 0),
            max_name_bytes=names.MAX_NAME_BYTES,
        )
        self.tables: Tables = make_tables(options.prefix)
        self.database = Database(name, options)
        self.pool = Pool(name, options.pool_path, options.trash_path)
        self.courses = Courses(name, self.database, self.tables, self.area, options.names)
        self.content = ContentKeeper(name, self.database, self.pool, self.rows)
        self.clock = clock or SystemClock()
        self._rows: Rows | None = None
        self._buffers = Buffers()
        self._free_names: Memory[Located] = Memory(_MOMENT_S, _FREE_NAMES_KEPT)
        """The kernel asks for a name in the moment before it creates it, in the same open(2); the second
        question is answered from here. Nothing rests on it: a name comes into being by the unique index."""
        self._target = Target(name, self.database, self.pool, self.content, self.rows)

    # Life

    def start(self) -> None:
        """Connect, and prove that this is a Moodle whose file storage can be used."""
        self._rows = starting.start(self)

    def close(self) -> None:
        if self._rows is not None:
            self.content.look_again(0.0)
        self._rows = None
        self.database.close()
        self.pool.close()

    def rows(self) -> Rows:
        """The statements. Raises Unavailable before ``start``."""
        if self._rows is None:
            raise Unavailable("Moodle's database is not connected", backend=self.name)
        return self._rows

    def connected_rows(self) -> Rows:
        """For ``check``: the statements, after ``start`` if it was not called yet."""
        if self._rows is None:
            self.start()
        return self.rows()

    def spool_directory(self, instance_id: str) -> str | None:
        """The state directory's: a spool in ``moodledata`` would puzzle those who look after it."""
        return None

    def check(self, *, light: bool = False) -> Iterator[CheckResult]:
        return check.run(self)

    def space(self) -> Space:
        """Asked now and then by whoever shows it: a time to look after what was stored last."""
        self.content.look_again()
        return self.pool.space()

    def time_ns(self) -> int | None:
        return self.database.read(starting.time_ns)

    # Names

    def validate(self, name: bytes) -> None:
        names.validate(name, self.name)

    def stat(self, key: Key) -> ObjectInfo:
        """A file whose row Moodle has removed is told of by its record: its name is not free."""
        located = self._locate(key)
        if located is None or not located.spot.path:
            return info.of_directory(key, None, self.pool.owner)
        found, above = self._look(key, located.spot, located.spot.parent)
        seen = self._info(key, found)
        if seen is None:
            in_directory = above.directory is not None or not located.spot.parent.path
            if in_directory and located.course.state is CourseState.THERE:
                self._free_names.note(key, located)
            raise self._missing(key)
        self._free_names.forget(key)
        return seen

    def list(self, key: Key) -> Iterator[ObjectInfo]:
        """In a tree of courses, the root lists those that have something in the area."""
        located = self._locate(key)
        if located is None:
            return listing.courses(self)
        if located.spot.path:
            (found,) = self._look(key, located.spot)
            if found.file is not None:
                raise NotADirectory("it is a file", backend=self.name, key=key)
            if found.directory is None:
                raise self._missing(key)
        return listing.entries(self, key, located.spot)

    # Files

    def open(self, info: ObjectInfo) -> LocalReader:
        """NotFound also when the name now holds another file than ``info`` tells of; BackendFault for one
        whose row or content was removed."""
        key = info.key
        row = self._file(key)
        if info.version is not None and info.version != row.contenthash:
            raise NotFound("the file was replaced since it was looked up", backend=self.name, key=key)
        try:
            fd = self.pool.open_content(row.contenthash, row.size_bytes, key)
        except OSError as error:
            raise translated(error, self.name, key, f"open its content {row.contenthash}") from error
        return LocalReader(fd, row.size_bytes, self.name, key, self._buffers)

    def record(self, key: Key) -> Record | None:
        located = self._file_place(key)
        (found,) = self._look(key, located.spot)
        if found.sidecar is not None:
            return found.sidecar.record
        self._require_file(key, found)
        return None

    def begin(self, key: Key) -> MoodleTransfer:
        located = self._place_of_new(key)
        names.require_fit(located.spot, key, self.name)
        found, above = self._look(key, located.spot, located.spot.parent)
        if self._info(key, found) is not None:
            raise AlreadyExists("the name is taken", backend=self.name, key=key)
        self._require_directory(key, located.spot.parent, above)
        return MoodleTransfer(self._target, key, located.spot, located.course, Origin.NEW)

    def begin_ready(self, key: Key) -> MoodleTransfer | None:
        """Right after ``stat`` has found the name free. See ``Remembering``."""
        free = self._free_names.take(key)
        if free is None:
            return None
        self.validate(name_of(key))
        names.require_fit(free.spot, key, self.name)
        return MoodleTransfer(self._target, key, free.spot, free.course, Origin.NEW)

    def stat_ready(self, key: Key) -> ObjectInfo | None:
        """The root only, where it is a directory of every Moodle. See ``Remembering``."""
        return info.of_directory(key, None, self.pool.owner) if key == ROOT else None

    def resume(self, key: Key) -> MoodleTransfer:
        """Directories that are missing are made with the row."""
        located = self._place_of_new(key)
        names.require_fit(located.spot, key, self.name)
        return MoodleTransfer(self._target, key, located.spot, located.course, Origin.RESUMED)

    def change_retention(self, key: Key, change: RetentionChange) -> Record:
        located = self._file_place(key)
        spot, rows = located.spot, self.rows()

        def change_it(connection: Connection) -> Record:
            locked = rows.lock_sidecar(connection, spot)
            (found,) = rows.look(asking(connection), spot)
            if not locked or found.sidecar is None:
                self._require_file(key, found)
                raise Unsupported("wormfs did not write this file", backend=self.name, key=key)
            record = found.sidecar.record
            wanted = retention.changed(record.retention, change)
            record = dataclasses.replace(record, retention=wanted)
            # Also what is there already: nobody said whether the COMMIT that brought it came to its end.
            rows.replace_sidecar(connection, spot, dataclasses.replace(found.sidecar, record=record))
            return record

        return self.database.change(change_it, key)

    def erase(self, key: Key, *, early: bool = False) -> None:
        """The row goes, its record, and its content if no other row of this Moodle uses that."""
        located = self._file_place(key)
        spot, rows = located.spot, self.rows()

        def begin_erase(connection: Connection) -> tuple[set[str], Sidecar | None]:
            rows.lock_sidecar(connection, spot)
            (found,) = rows.look(asking(connection), spot)
            if found.sidecar is not None:
                changed = dataclasses.replace(found.sidecar, state=SidecarState.ERASING)
                rows.replace_sidecar(connection, spot, changed)
            else:
                self._require_file(key, found)
            # Two, if somebody has given the row other content since.
            contents = set() if found.sidecar is None else {found.sidecar.contenthash}
            if found.file is not None:
                rows.remove(connection, found.file.pathname_hash)
                contents.add(found.file.contenthash)
            return contents, found.sidecar

        contents, beside = self.database.change(begin_erase, key)
        durability.step("moodle-erase.row-removed")
        for contenthash in contents:
            self.content.erase(contenthash)
        durability.step("moodle-erase.content-removed")
        # Until here the record says that an erase has begun, so that it can be gone on with.
        if beside is not None:
            self.database.change(lambda connection: rows.remove_erased(connection, spot, beside), key)
        durability.step("moodle-erase.record-removed")

    def findings(self) -> Iterator[Finding]:
        return findings.run(self)

    # Directories

    def make_directory(self, key: Key, attributes: DirectoryAttributes) -> ObjectInfo:
        """Courses are made in Moodle: AccessDenied."""
        located = self._place_of_new(key, courses_too=True)
        if not located.spot.path:
            raise AlreadyExists("it is there already", backend=self.name, key=key)
        spot, rows = located.spot, self.rows()
        names.require_directory_fit(spot, key, self.name)
        (above,) = self._look(key, spot.parent)
        self._require_directory(key, spot.parent, above)
        now_s = self.clock.now_ns() // NS_PER_S
        try:
            row = self.database.change(lambda connection: rows.add_directory(connection, spot, now_s), key)
        except Taken:
            raise AlreadyExists("the name is taken", backend=self.name, key=key) from None
        return info.of_directory(key, row, self.pool.owner)

    def remove_directory(self, key: Key) -> None:
        if key == ROOT:
            raise InvalidArgument("the root of a backend cannot be removed", backend=self.name)
        located = self._locate(key)
        assert located is not None, "only the root is no course"
        if not located.spot.path:
            raise AccessDenied("courses are removed in Moodle", backend=self.name, key=key)
        (found,) = self._look(key, located.spot)
        if found.file is not None:
            raise NotADirectory("it is not a directory", backend=self.name, key=key)
        if found.directory is None:
            raise self._missing(key)
        rows = self.rows()
        if not self.database.change(lambda connection: rows.remove_directory(connection, located.spot), key):
            raise DirectoryNotEmpty("it is not empty", backend=self.name, key=key)

    def set_directory_attributes(self, key: Key, attributes: DirectoryAttributes) -> None:
        """Moodle's directories have none; only looked for."""
        self.stat(key)

    # Inside

    def _locate(self, key: Key) -> Located | None:
        """Where a key lies; ``None`` for the directory of all courses. Raises NotFound."""
        names.reject_unsafe(key, self.name)
        text = names.decoded(key)
        if text is None:
            raise self._missing(key)
        if self.options.course is not None:
            return self._inside(self.fixed_course(key), text)
        if not text:
            return None
        name, _, path = text.partition("/")
        return self._inside(self.courses.named(name, key), path)

    def _inside(self, course: Course, path: str) -> Located:
        return Located(course, Spot(self.area, course.context_id, path))

    def fixed_course(self, key: bytes | None = None) -> Course:
        """The course of the settings. Raises BackendFault when Moodle has it no more."""
        try:
            return self.courses.named(str(self.options.course), key)
        except NotFound as error:
            raise BackendFault(
                f"Moodle has no course {self.options.course!r} any more", backend=self.name, key=key
            ) from error

    def _place_of_new(self, key: Key, *, courses_too: bool = False) -> Located:
        """Where something new is to lie."""
        self.validate(name_of(key))
        try:
            located = self._locate(key)
        except NotFound:
            if key.count(b"/") or self.options.course is not None:
                raise
            raise self._only_courses(key) from None
        if located is None or (not located.spot.path and not courses_too):
            raise AlreadyExists("it is a directory", backend=self.name, key=key)
        if located.course.state is CourseState.DELETED:
            raise BackendFault(
                "Moodle has deleted the course: nothing can be stored in it any more",
                backend=self.name,
                key=key,
            )
        return located

    def _only_courses(self, key: Key) -> AccessDenied:
        return AccessDenied(
            "here are courses only, and they are made in Moodle: store files in the directory of a course",
            backend=self.name,
            key=key,
        )

    def _file_place(self, key: Key) -> Located:
        located = self._locate(key)
        if located is None or not located.spot.path:
            raise IsADirectory("it is a directory", backend=self.name, key=key)
        return located

    def _look(self, key: Key, *spots: Spot) -> Sequence[Found]:
        return self.rows().look(partial(self.database.ask, key=key), *spots)

    def _info(self, key: Key, found: Found) -> ObjectInfo | None:
        if found.file is not None:
            return info.of_file(key, found.file, found.sidecar, self.pool.owner)
        if found.sidecar is not None:
            beside = found.sidecar
            return info.of_record(key, beside, beside.contenthash, beside.record.size_bytes)
        if found.directory is not None:
            return info.of_directory(key, found.directory, self.pool.owner)
        return None

    def _file(self, key: Key) -> FileRow:
        located = self._file_place(key)
        (found,) = self._look(key, located.spot)
        if found.file is None and found.sidecar is not None:
            raise BackendFault(
                "Moodle has removed this file (its course, or the file itself, was deleted there); "
                f"its content was {found.sidecar.contenthash}: restore it from a backup of Moodle",
                backend=self.name,
                key=key,
            )
        self._require_file(key, found)
        assert found.file is not None, "_require_file has raised"
        if found.sidecar is not None and found.sidecar.contenthash != found.file.contenthash:
            raise DigestMismatch(
                f"Moodle has given it other content: {found.file.contenthash}, and stored was "
                f"{found.sidecar.contenthash}; see wormfs verify",
                backend=self.name,
                key=key,
            )
        return found.file

    def _require_file(self, key: Key, found: Found) -> None:
        if found.file is None:
            if found.directory is not None:
                raise IsADirectory("it is a directory", backend=self.name, key=key)
            raise self._missing(key)

    def _require_directory(self, key: Key, spot: Spot, found: Found) -> None:
        if not spot.path:
            return
        if found.file is not None or found.sidecar is not None:
            raise NotADirectory("its directory is a file", backend=self.name, key=key)
        if found.directory is None:
            raise NotFound("its directory does not exist", backend=self.name, key=key)

    def _missing(self, key: Key) -> NotFound:
        return NotFound("no such file or directory", backend=self.name, key=key)
