"""Settings of the Moodle driver: the file storage of a Moodle on this machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from wormfs.config.base import BackendSettings
from wormfs.config.fields import (
    AbsolutePath,
    OptionalPath,
    OptionalSecret,
    OptionalText,
    PositiveDuration,
    Text,
    one_of,
    optional,
    whole_number,
)
from wormfs.config.units import quote

_MAX_ID = (1 << 63) - 1


def _parse_course(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"must be the id of a course, or its short name in quotes, not {quote(value)}")


def _parse_octal(value: object) -> str:
    if isinstance(value, str):
        try:
            if 0o700 <= int(value, 8) <= 0o7777:
                return value
        except ValueError:
            pass
    raise ValueError(f"must be octal digits in quotes such as '2777', not {quote(value)}")


def _parse_prefix(value: object) -> str:
    if isinstance(value, str) and (not value or (value.isascii() and value.isidentifier())):
        return value
    raise ValueError(f"must be letters, digits and _ such as mdl_, not {quote(value)}")


class MoodleSettings(BackendSettings):
    """A backend that keeps its files in a Moodle's own storage: its database and its ``filedir``."""

    type: Literal["moodle"] = "moodle"
    dataroot: AbsolutePath = Field(examples=["/var/moodledata"])
    """``$CFG->dataroot``."""
    database: Annotated[
        Literal["postgresql", "mariadb"], BeforeValidator(one_of("postgresql", "mariadb"))
    ] = Field(examples=["postgresql"])
    filedir: OptionalPath = None
    """``$CFG->filedir``; ``None``: in the dataroot."""
    trashdir: OptionalPath = None
    database_host: Text = "localhost"
    database_port: Annotated[int | None, BeforeValidator(optional(whole_number(1, 65535)))] = None
    database_socket: OptionalPath = None
    """PostgreSQL: the directory of its socket; MariaDB: the socket."""
    database_name: Text = "moodle"
    database_user: Text = "moodle"
    database_password: OptionalSecret = None
    database_tls: Annotated[
        Literal["off", "require", "verify"] | None,
        BeforeValidator(optional(one_of("off", "require", "verify"))),
    ] = None
    """``None``: off on this machine, verify to any other."""
    database_ca: OptionalPath = None
    database_timeout_s: PositiveDuration = 20.0
    prefix: Annotated[str, BeforeValidator(_parse_prefix)] = "mdl_"
    component: Text = "local_wormfs"
    filearea: Text = "archive"
    itemid: Annotated[int, BeforeValidator(whole_number(0, _MAX_ID))] = 0
    course: Annotated[int | str | None, BeforeValidator(optional(_parse_course))] = None
    """One course for the whole backend; ``None``: a directory for each."""
    course_names: Annotated[Literal["id", "shortname"], BeforeValidator(one_of("id", "shortname"))] = "id"
    owner: OptionalText = None
    """``user`` or ``user:group`` of what is stored; ``None``: those of the filedir."""
    directory_permissions: Annotated[str, BeforeValidator(_parse_octal)] = "2777"
    """``$CFG->directorypermissions``."""
    config_php: OptionalPath = None
    """Moodle's config.php, to be looked at for what would make this backend wrong."""
