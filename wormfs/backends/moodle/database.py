"""Moodle's database: connections, transactions, and trying again.

Every statement has a time limit at the server, and every read of the socket one here, so that every call
ends. A transaction that met a deadlock, a lost connection or a restart is run again as a whole: whatever
runs in ``change`` or ``write`` must find out by itself that an earlier run arrived although its reply was
lost.

``read`` and ``change`` speak SQLAlchemy. ``ask`` and ``write``, for what every stored file needs, hand a
statement that is written out to the database's own module: a question takes 80 µs of the processor instead
of 400.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

from sqlalchemy import Connection, Inspector, PoolProxiedConnection, inspect
from sqlalchemy.exc import SQLAlchemyError

from wormfs.backends.moodle import dberrors
from wormfs.backends.moodle.engine import READING, Connections
from wormfs.backends.moodle.options import MoodleOptions, Server
from wormfs.backends.retry import Patience, retrying
from wormfs.errors import Unavailable, WormfsError

Result = TypeVar("Result")

NO_PATIENCE: Final = Patience(total_s=0.0)
PATIENCE: Final = Patience(total_s=8.0, first_delay_s=0.05, last_delay_s=1.0)
"""A restart of the database is waited for; longer outages are the committer's."""
READ_PATIENCE: Final = Patience(total_s=4.0, first_delay_s=0.05, last_delay_s=1.0)
"""Somebody waits for the answer."""


class Cursor(Protocol):
    """What ``write`` hands out: statements with ``%s`` for each value (DB-API)."""

    @property
    def rowcount(self) -> int: ...

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> object: ...

    def fetchall(self) -> Sequence[Sequence[Any]]: ...


class Database:
    """One Moodle's database. Methods may be called from many threads."""

    def __init__(self, backend: str, options: MoodleOptions) -> None:
        """Contacts nobody. ``backend``: its name, for messages."""
        self._backend = backend
        self._options = options
        self._lock = threading.Lock()
        self._connections: Connections | None = None

    @property
    def server(self) -> Server:
        return self._options.server

    def open(self) -> None:
        """Make the engine, reading the password; connects to nobody yet. Raises SettingsError."""
        with self._lock:
            if self._connections is None:
                self._connections = Connections(self._backend, self._options)

    def close(self) -> None:
        """Close all connections. May be called again."""
        with self._lock:
            ended, self._connections = self._connections, None
        if ended is not None:
            ended.close()

    def read(
        self,
        work: Callable[[Connection], Result],
        key: bytes | None = None,
        patience: Patience = READ_PATIENCE,
    ) -> Result:
        """Run statements that change nothing, each seeing what is committed. Raises the tree's errors."""
        self._require_open(key)
        return retrying(lambda: self._once(work, key, committing=False), patience)

    def change(self, work: Callable[[Connection], Result], key: bytes | None = None) -> Result:
        """Run one transaction; committed and durable when it returns, rolled back if it raises."""
        self._require_open(key)
        return retrying(lambda: self._once(work, key, committing=True), PATIENCE)

    def ask(
        self,
        statement: str,
        values: Sequence[Any],
        key: bytes | None = None,
        patience: Patience = READ_PATIENCE,
    ) -> Sequence[Sequence[Any]]:
        """As ``read``: the rows that one statement finds, with ``%s`` in it for each value."""

        def fetch(cursor: Cursor) -> Sequence[Sequence[Any]]:
            cursor.execute(statement, values)
            return cursor.fetchall()

        return retrying(lambda: self._plainly(fetch, key), patience)

    def write(self, work: Callable[[Cursor], Result], key: bytes | None = None) -> Result:
        """As ``change``. What the database refuses as a duplicate comes out as dberrors.Duplicate."""

        def transaction(cursor: Cursor) -> Result:
            cursor.execute("BEGIN")
            result = work(cursor)
            cursor.execute("COMMIT")
            return result

        return retrying(lambda: self._plainly(transaction, key), PATIENCE)

    def _once(self, work: Callable[[Connection], Result], key: bytes | None, *, committing: bool) -> Result:
        engine = self._require_open(key).engine
        try:
            if committing:
                with engine.begin() as connection:
                    return work(connection)
            with engine.connect() as connection:
                return work(connection.execution_options(**{READING: True}))
        except SQLAlchemyError as error:
            # Without the chain: its text may hold parameters.
            raise dberrors.translated(error, self._backend, key) from None
        except WormfsError as error:
            error.backend = error.backend or self._backend
            error.key = error.key if error.key is not None else key
            raise

    def _plainly(self, work: Callable[[Cursor], Result], key: bytes | None) -> Result:
        opened = self._require_open(key)
        module: Any = opened.engine.dialect.loaded_dbapi
        try:
            connection = opened.engine.raw_connection()
        except SQLAlchemyError as error:
            raise dberrors.translated(error, self._backend, key) from None
        except module.Error as error:
            raise dberrors.of_driver(error, self._backend, key, lost=True) from None
        try:
            return work(cast("Cursor", connection.cursor()))
        except module.Error as error:
            lost = opened.engine.dialect.is_disconnect(error, connection.dbapi_connection, None)
            _end_transaction(connection, opened, lost=lost)
            if dberrors.is_duplicate(error):
                raise dberrors.Duplicate from None
            raise dberrors.of_driver(error, self._backend, key, lost=lost) from None
        except BaseException:
            _end_transaction(connection, opened, lost=False)
            raise
        finally:
            if connection.is_valid:
                connection.close()

    def _require_open(self, key: bytes | None) -> Connections:
        connections = self._connections
        if connections is None:
            raise Unavailable("the connection to Moodle's database is closed", backend=self._backend, key=key)
        return connections

    def inspect(self, work: Callable[[Inspector], Result]) -> Result:
        """Ask what tables and indexes there are."""
        return self.read(lambda connection: work(inspect(connection)))


def _end_transaction(connection: PoolProxiedConnection, opened: Connections, *, lost: bool) -> None:
    """After an error: in no transaction, or away for good."""
    if not lost:
        try:
            connection.rollback()
        except Exception:  # noqa: BLE001 (what the module raises; the first error tells what happened)
            lost = True
    if lost:
        connection.invalidate()
        # Those beside it have most likely met the same.
        opened.distrust()
