"""What the settings say about one Moodle backend, checked once more where the driver begins."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from wormfs.config.secret import Secret
from wormfs.errors import SettingsError

DEFAULT_CONNECTIONS = 8
MAX_COMPONENT = 100
MAX_FILEAREA = 50
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1", "")


class Server(enum.Enum):
    """The kind of Moodle's database. MySQL is spoken to as MariaDB is."""

    POSTGRESQL = "postgresql"
    MARIADB = "mariadb"


class Tls(enum.Enum):
    """How the connection to the database is protected."""

    OFF = "off"
    REQUIRE = "require"
    """Encrypted; the server may be anybody."""
    VERIFY = "verify"
    """Encrypted; the certificate is valid and names the host."""


class CourseNames(enum.Enum):
    """What the directory of a course is called, and what ``course`` names."""

    ID = "id"
    SHORTNAME = "shortname"


@dataclass(frozen=True, slots=True)
class MoodleOptions:
    """See docs/moodle-storage.md for what each means. Paths are absolute; ``timeout_s`` is in seconds."""

    dataroot: str
    database: str
    filedir: str | None = None
    trashdir: str | None = None
    database_host: str = "localhost"
    database_port: int | None = None
    database_socket: str | None = None
    database_name: str = "moodle"
    database_user: str = "moodle"
    database_password: Secret | None = None
    database_tls: str | None = None
    database_ca: str | None = None
    database_timeout_s: float = 20.0
    prefix: str = "mdl_"
    component: str = "local_wormfs"
    filearea: str = "archive"
    itemid: int = 0
    course: int | str | None = None
    course_names: str = "id"
    owner: str | None = None
    directory_permissions: str = "2777"
    config_php: str | None = None
    connections: int = DEFAULT_CONNECTIONS

    @property
    def server(self) -> Server:
        return Server(self.database)

    @property
    def names(self) -> CourseNames:
        return CourseNames(self.course_names)

    @property
    def tls(self) -> Tls:
        """``database_tls``; unset, it is off on this machine and verified to any other."""
        if self.database_tls is not None:
            return Tls(self.database_tls)
        local = self.database_socket is not None or self.database_host in _LOCAL_HOSTS
        return Tls.OFF if local else Tls.VERIFY

    @property
    def pool_path(self) -> str:
        """``$CFG->filedir``."""
        return self.filedir or os.path.join(self.dataroot, "filedir")

    @property
    def trash_path(self) -> str:
        return self.trashdir or os.path.join(self.dataroot, "trashdir")

    @property
    def directory_mode(self) -> int:
        """``$CFG->directorypermissions``."""
        return int(self.directory_permissions, 8)

    @property
    def file_mode(self) -> int:
        """What Moodle gives its pool files: the directories' mode without search and special bits."""
        return self.directory_mode & 0o666


def parse(name: str, options: Mapping[str, object]) -> MoodleOptions:
    """Raises SettingsError for what is unknown, missing or of the wrong kind."""
    known = {field.name for field in fields(MoodleOptions)}
    for option in options:
        if option not in known:
            raise SettingsError(
                f"unknown option {option!r}; a moodle backend has {', '.join(sorted(known))}", backend=name
            )
    for required in ("dataroot", "database"):
        if required not in options:
            raise SettingsError(f"{required} is missing", backend=name)
    _require_types(name, options)
    parsed = MoodleOptions(**_untyped(options))
    _require_sense(name, parsed)
    return parsed


def _untyped(options: Mapping[str, object]) -> dict[str, Any]:
    return dict(options)


def _require_types(name: str, options: Mapping[str, object]) -> None:
    hints = get_type_hints(MoodleOptions)
    for option, value in options.items():
        right = isinstance(value, hints[option]) or (hints[option] is float and isinstance(value, int))
        if isinstance(value, bool) or not right:
            # Not shown: it may be a secret in the wrong place.
            raise SettingsError(f"{option} is of the wrong kind ({type(value).__name__})", backend=name)


def _require_sense(name: str, options: MoodleOptions) -> None:
    for kind, word, field in (
        (Server, options.database, "database"),
        (CourseNames, options.course_names, "course_names"),
        (Tls, options.database_tls, "database_tls"),
    ):
        choices = [member.value for member in kind]
        if word is not None and word not in choices:
            raise SettingsError(f"{field} must be one of {', '.join(choices)}, not {word!r}", backend=name)
    for field, path in (("dataroot", options.dataroot), ("filedir", options.filedir)):
        if path is not None and not os.path.isabs(path):
            raise SettingsError(f"{field} must be an absolute path, not {path!r}", backend=name)
    try:
        fits = 0o700 <= options.directory_mode <= 0o7777
    except ValueError:
        fits = False
    if not fits:
        raise SettingsError(
            f"directory_permissions must be octal such as '2777', not {options.directory_permissions!r}",
            backend=name,
        )
    if not 1 <= len(options.component) <= MAX_COMPONENT or not 1 <= len(options.filearea) <= MAX_FILEAREA:
        raise SettingsError(
            f"component has 1 to {MAX_COMPONENT} characters, filearea 1 to {MAX_FILEAREA}", backend=name
        )
    if (options.component, options.filearea) in (("local_wormfs", "record"), ("local_wormfs", "check")):
        raise SettingsError(
            f"the file area {options.component}/{options.filearea} is what wormfs keeps its records in: "
            "choose another one",
            backend=name,
        )
    if options.prefix and not (options.prefix.isascii() and options.prefix.isidentifier()):
        raise SettingsError(
            f"prefix must be letters, digits and _ such as mdl_, not {options.prefix!r}", backend=name
        )
    if options.connections < 1 or options.itemid < 0:
        raise SettingsError("connections must be from 1, itemid from 0", backend=name)
