"""What an error of the database means to wormfs: one place, by its code and never by its text.

The texts of SQLAlchemy's errors can hold statements, parameters and addresses; none of them leaves this
module. Of the database's own message only the first line goes on: it names users, hosts and tables, never a
password.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from wormfs.errors import (
    AccessDenied,
    BackendFault,
    InvalidName,
    NameTooLong,
    OutOfSpace,
    Unavailable,
    WormfsError,
)

# PostgreSQL, appendix "Error Codes": a whole code, or its class (first two characters).
_SQLSTATES: Final[Mapping[str, type[WormfsError]]] = MappingProxyType(
    {
        "08": Unavailable,  # connection
        "28": AccessDenied,  # authentication
        "40": Unavailable,  # deadlock, serialization: the whole transaction may be tried again
        "53": Unavailable,  # too many connections, out of memory
        "53100": OutOfSpace,
        "55": Unavailable,  # a lock was not to be had in time
        "57": Unavailable,  # shutdown, starting up, a statement took too long
        "58": Unavailable,  # its disk
        "22001": NameTooLong,
        "22021": InvalidName,
        "25006": Unavailable,  # read-only: a standby, or a disk that was full
        "42501": AccessDenied,
    }
)

# MariaDB and MySQL, "Error Codes".
_NUMBERS: Final[Mapping[int, type[WormfsError]]] = MappingProxyType(
    {
        **dict.fromkeys((1044, 1045, 1142, 1143, 1227, 1698, 3118), AccessDenied),
        **dict.fromkeys((1021, 1114, 1041), OutOfSpace),
        **dict.fromkeys((1040, 1053, 1077, 1203, 1205, 1213, 1226, 1290, 1317, 1836), Unavailable),
        **dict.fromkeys((1927, 1969, 3024, 4031), Unavailable),
        **dict.fromkeys((2002, 2003, 2006, 2013, 2026, 2055), Unavailable),
        1406: NameTooLong,
        1366: InvalidName,
    }
)
DUPLICATE_SQLSTATE: Final = "23505"
DUPLICATE_NUMBER: Final = 1062


class Duplicate(Exception):
    """A unique index refused a row; the transaction has changed nothing."""


def is_duplicate(error: BaseException | None) -> bool:
    """Whether an error of the database's module says that a unique index refused the row."""
    return code_of(error) in (DUPLICATE_SQLSTATE, DUPLICATE_NUMBER)


def code_of(error: BaseException | None) -> str | int | None:
    """PostgreSQL's SQLSTATE or MariaDB's number, if the database gave one."""
    arguments = getattr(error, "args", ())
    # First: PyMySQL has an SQLSTATE as well, and it tells less.
    if arguments and isinstance(arguments[0], int):
        return arguments[0]
    sqlstate = getattr(error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None


def translated(error: SQLAlchemyError, backend: str, key: bytes | None) -> WormfsError:
    """The error of the tree that ``error`` stands for."""
    if isinstance(error, PoolTimeout):
        return Unavailable("all connections to Moodle's database are busy", backend=backend, key=key)
    if not isinstance(error, DBAPIError):
        return BackendFault(
            f"Moodle's database cannot be used like this ({type(error).__name__})", backend=backend, key=key
        )
    lost = error.connection_invalidated or (
        code_of(error.orig) is None and isinstance(error, OperationalError | InterfaceError)
    )
    return of_driver(error.orig, backend, key, lost=lost)


def of_driver(error: BaseException | None, backend: str, key: bytes | None, *, lost: bool) -> WormfsError:
    """The same for an error of the database's own module (DB-API). ``lost``: the connection is gone."""
    code = code_of(error)
    meaning = _meaning(code)
    if meaning is None:
        meaning = Unavailable if lost else BackendFault
    said = _first_line(error)
    return meaning(
        f"Moodle's database says: {said}" + (f" ({code})" if code else ""), backend=backend, key=key
    )


def _meaning(code: str | int | None) -> type[WormfsError] | None:
    if isinstance(code, str):
        return _SQLSTATES.get(code) or _SQLSTATES.get(code[:2])
    return _NUMBERS.get(code) if code is not None else None


def _first_line(error: BaseException | None) -> str:
    """What the server said, without details (which may quote values)."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    arguments = getattr(error, "args", ())
    text = primary or (arguments[-1] if arguments and isinstance(arguments[-1], str) else "")
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__
