"""The start: is this Moodle's database, is this its pool, and does the guarantee hold?"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import re
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Inspector, text

from wormfs.backends.moodle.courses import CourseState
from wormfs.backends.moodle.folders import Looks
from wormfs.backends.moodle.options import Server
from wormfs.backends.moodle.rows import Rows
from wormfs.errors import NotFound, SettingsError

if TYPE_CHECKING:
    from wormfs.backends.moodle.backend import MoodleBackend

_log = logging.getLogger(__name__)

_ALTERNATIVE: Final = "alternative_file_system_class"
_IN_CONFIG_PHP: Final = re.compile(rf"^\s*\$CFG\s*->\s*{_ALTERNATIVE}\s*=\s*([^;]+);", re.MULTILINE)
_COMMENTS: Final = re.compile(r"/\*.*?\*/", re.DOTALL)


def start(backend: MoodleBackend) -> Rows:
    """Raises Unavailable to be called again; SettingsError for what can never work."""
    looks = looks_of(backend)
    backend.database.open()
    backend.pool.open(looks, backend.clock.now_ns())
    _require_owner(backend)
    _refuse_alternative_in_config(backend)
    _require_tables(backend)
    _refuse_alternative_in_database(backend)
    rows = Rows(backend.name, backend.tables, backend.database.server, backend.courses.system_context())
    if backend.options.course is not None:
        try:
            course = backend.courses.named(str(backend.options.course))
        except NotFound:
            raise SettingsError(
                f"Moodle has no course whose {backend.options.course_names} is {backend.options.course!r}",
                backend=backend.name,
            ) from None
        if course.state is CourseState.DELETED:
            _log.error(
                "%s: ALERT: Moodle has deleted course %s (%s); records of its files remain: run wormfs "
                "verify, and restore the files from a backup of Moodle; nothing can be stored here any more",
                backend.name, course.id, course.shortname,
            )  # fmt: skip
    backend.content.stored_before(
        backend.database.read(lambda connection: rows.newest_content(connection, backend.area))
    )
    return rows


def time_ns(connection: Connection) -> int:
    """The database's clock."""
    if connection.dialect.name == "postgresql":
        statement = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS bigint)"
    else:
        statement = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)"
    return int(connection.execute(text(statement)).scalar_one()) * 1000


def looks_of(backend: MoodleBackend) -> Looks:
    """Owner and modes that the settings ask for. Raises SettingsError for an unknown user or group."""
    options = backend.options
    uid = gid = None
    if options.owner is not None:
        user, _, group = options.owner.partition(":")
        try:
            entry = pwd.getpwnam(user)
            uid = entry.pw_uid
            gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
        except KeyError as error:
            raise SettingsError(
                f"owner: this machine does not know {options.owner!r}", backend=backend.name
            ) from error
    return Looks(options.directory_mode, options.file_mode, uid, gid)


def _require_owner(backend: MoodleBackend) -> None:
    """Files that Moodle cannot read, or cannot remove, must not come into its pool."""
    uid, _ = backend.pool.owner
    if os.geteuid() not in (0, uid):
        raise SettingsError(
            f"the pool {backend.pool.path} belongs to uid {uid}, and this daemon, which runs as uid "
            f"{os.geteuid()}, cannot give files to others: run it as root or as that user",
            backend=backend.name,
        )


def _require_tables(backend: MoodleBackend) -> None:
    tables = backend.tables

    def missing(inspector: Inspector) -> str | None:
        for table in (tables.files, tables.context, tables.course):
            if not inspector.has_table(table.name):
                return f"there is no table {table.name}: is {backend.options.prefix!r} Moodle's prefix?"
            present = {column["name"] for column in inspector.get_columns(table.name)}
            lacking = {column.name for column in table.columns} - present
            if lacking:
                return f"the table {table.name} has no {', '.join(sorted(lacking))}: is it Moodle's?"
        unique = [
            index["column_names"] for index in inspector.get_indexes(tables.files.name) if index["unique"]
        ]
        if ["pathnamehash"] not in unique:
            return (
                f"the table {tables.files.name} has no unique index on pathnamehash, without which nothing "
                "keeps a file from being stored twice: repair Moodle's database "
                "(admin/cli/check_database_schema.php)"
            )
        return None

    problem = backend.database.inspect(missing)
    if problem is not None:
        raise SettingsError(problem, backend=backend.name)


def _refuse_alternative_in_config(backend: MoodleBackend) -> None:
    path = backend.options.config_php
    if path is None:
        return
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = _IN_CONFIG_PHP.search(_COMMENTS.sub("", file.read()))
    except OSError as error:
        raise SettingsError(
            f"config_php: cannot read {path}: {error.strerror}", backend=backend.name
        ) from error
    if found is not None:
        raise _alternative(backend, found[1].strip(), path)


def _refuse_alternative_in_database(backend: MoodleBackend) -> None:
    config = backend.tables.config
    if not backend.database.inspect(lambda inspector: inspector.has_table(config.name)):
        return
    wanted = config.select().with_only_columns(config.c.value).where(config.c.name == _ALTERNATIVE)
    value = backend.database.read(lambda connection: connection.execute(wanted).scalar())
    if value:
        raise _alternative(backend, str(value), config.name)


def _alternative(backend: MoodleBackend, value: str, place: str) -> SettingsError:
    return SettingsError(
        f"Moodle keeps its content elsewhere ({_ALTERNATIVE} is {value} in {place}): wormfs works with "
        "Moodle's own filedir only; use a backend of type s3 for an object store",
        backend=backend.name,
    )


def settings_warning(backend: MoodleBackend) -> str | None:
    """What in the server's configuration endangers what it calls committed."""

    def ask(connection: Connection) -> str | None:
        if backend.database.server is Server.POSTGRESQL:
            for name in ("fsync", "full_page_writes"):
                if connection.execute(text(f"SHOW {name}")).scalar() != "on":
                    return f"PostgreSQL runs with {name} off: after a power loss what was stored may be gone"
            followers = connection.execute(text("SELECT count(*) FROM pg_stat_replication")).scalar()
            if followers and not connection.execute(text("SHOW synchronous_standby_names")).scalar():
                return (
                    f"PostgreSQL has {followers} that follow it and waits for none of them "
                    "(synchronous_standby_names is empty): when one takes over, what was stored last may be "
                    "gone"
                )
            return None
        flush = connection.execute(text("SELECT @@innodb_flush_log_at_trx_commit")).scalar()
        if flush != 1:
            return (
                f"innodb_flush_log_at_trx_commit is {flush}, not 1: after a power loss the last second of "
                "what was stored may be gone"
            )
        return None

    return backend.database.read(ask)
