"""Moodle's database: connections, transactions, and trying again.

Every statement has a time limit at the server, and every read of the socket one here, so that every call
ends. A transaction that met a deadlock, a lost connection or a restart is run again as a whole: whatever
runs in ``change`` must find out by itself that an earlier run arrived although its reply was lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, Inspector, create_engine, event, inspect
from sqlalchemy.exc import SQLAlchemyError

from wormfs.backends.moodle.dberrors import translated
from wormfs.backends.moodle.options import MoodleOptions, Server, Tls
from wormfs.backends.retry import Patience, retrying
from wormfs.errors import SettingsError, Unavailable, WormfsError

Result = TypeVar("Result")

_CONNECT_TIMEOUT_S: Final = 5
_LOCK_TIMEOUT_S: Final = 10
_GRACE_S: Final = 5
"""How much longer than the server's own limit the socket waits for its answer."""
_RECYCLE_S: Final = 1800
"""Shorter than the idle limits of databases and of what stands between."""
NO_PATIENCE: Final = Patience(total_s=0.0)
PATIENCE: Final = Patience(total_s=8.0, first_delay_s=0.05, last_delay_s=1.0)
"""A restart of the database is waited for; longer outages are the committer's."""
READ_PATIENCE: Final = Patience(total_s=4.0, first_delay_s=0.05, last_delay_s=1.0)
"""Somebody waits for the answer."""


class Database:
    """One Moodle's database. ``read`` and ``change`` may be called from many threads."""

    def __init__(self, backend: str, options: MoodleOptions) -> None:
        """Contacts nobody. ``backend``: its name, for messages."""
        self._backend = backend
        self._options = options
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    @property
    def server(self) -> Server:
        return self._options.server

    def open(self) -> None:
        """Make the engine, reading the password; connects to nobody yet. Raises SettingsError."""
        with self._lock:
            if self._engine is None:
                self._engine = self._make_engine()

    def close(self) -> None:
        """Close all connections. May be called again."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

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

    def _once(self, work: Callable[[Connection], Result], key: bytes | None, *, committing: bool) -> Result:
        engine = self._require_open(key)
        try:
            if committing:
                with engine.begin() as connection:
                    return work(connection)
            with engine.connect() as connection:
                if self.server is Server.POSTGRESQL:
                    # Saves two trips; MariaDB begins without one.
                    return work(connection.execution_options(isolation_level="AUTOCOMMIT"))
                return work(connection)
        except SQLAlchemyError as error:
            # Without the chain: its text may hold parameters.
            raise translated(error, self._backend, key) from None
        except WormfsError as error:
            error.backend = error.backend or self._backend
            error.key = error.key if error.key is not None else key
            raise

    def _require_open(self, key: bytes | None) -> Engine:
        engine = self._engine
        if engine is None:
            raise Unavailable("the connection to Moodle's database is closed", backend=self._backend, key=key)
        return engine

    def inspect(self, work: Callable[[Inspector], Result]) -> Result:
        """Ask what tables and indexes there are."""
        return self.read(lambda connection: work(inspect(connection)))

    def _make_engine(self) -> Engine:
        # No ping before each use: what meets a dead connection is run again anyway, on a new one.
        options = self._options
        try:
            engine = create_engine(
                self._url(),
                connect_args=self._connect_arguments(),
                pool_size=options.connections,
                max_overflow=2,
                pool_timeout=options.database_timeout_s,
                pool_recycle=_RECYCLE_S,
                # Every transaction is ended where it was begun (_once): PyMySQL would ask the server again.
                pool_reset_on_return=None,
                isolation_level="READ COMMITTED",
                hide_parameters=True,
            )
        except ImportError as error:
            raise SettingsError(
                f"the Python package {error.name} is missing: install wormfs[moodle-{self.server.value}]",
                backend=self._backend,
            ) from None
        event.listen(engine, "connect", self._set_limits)
        return engine

    def _url(self) -> URL:
        options = self._options
        password = options.database_password
        driver = "postgresql+psycopg" if self.server is Server.POSTGRESQL else "mysql+pymysql"
        return URL.create(
            driver,
            username=options.database_user,
            password=password.reveal() if password is not None else None,
            host=options.database_host if options.database_socket is None else None,
            port=options.database_port if options.database_socket is None else None,
            database=options.database_name,
        )

    def _connect_arguments(self) -> dict[str, Any]:
        if self.server is Server.POSTGRESQL:
            return self._postgresql_arguments()
        return self._mariadb_arguments()

    def _postgresql_arguments(self) -> dict[str, Any]:
        options = self._options
        modes = {Tls.OFF: "disable", Tls.REQUIRE: "require", Tls.VERIFY: "verify-full"}
        arguments: dict[str, Any] = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": "wormfs",
            "sslmode": modes[options.tls],
            "keepalives_idle": 30,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": int((options.database_timeout_s + _GRACE_S) * 1000),
        }
        if options.tls is Tls.VERIFY:
            # "system": the certificates that this machine trusts (libpq 16 and later).
            arguments["sslrootcert"] = options.database_ca or "system"
        if options.database_socket is not None:
            arguments["host"] = options.database_socket
            if options.database_port is not None:
                arguments["port"] = options.database_port
        return arguments

    def _mariadb_arguments(self) -> dict[str, Any]:
        options = self._options
        limit_s = options.database_timeout_s + _GRACE_S
        arguments: dict[str, Any] = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": limit_s,
            "write_timeout": limit_s,
            "charset": "utf8mb4",
            "local_infile": False,
        }
        if options.database_socket is not None:
            arguments["unix_socket"] = options.database_socket
        if options.tls is Tls.OFF:
            arguments["ssl_disabled"] = True
        elif options.tls is Tls.VERIFY:
            arguments |= {"ssl_ca": options.database_ca, "ssl_verify_cert": True, "ssl_verify_identity": True}
        else:
            arguments["ssl"] = {"check_hostname": False}
        return arguments

    def _set_limits(self, connection: Any, _record: object) -> None:
        """For each new connection. Plain SET, which poolers in between understand, too."""
        statement_s = self._options.database_timeout_s
        with connection.cursor() as cursor:
            for statement in self._limits(cursor, statement_s):
                cursor.execute(statement)
        connection.commit()

    def _limits(self, cursor: Any, statement_s: float) -> list[str]:
        if self.server is Server.POSTGRESQL:
            return [
                f"SET statement_timeout = {int(statement_s * 1000)}",
                f"SET lock_timeout = {_LOCK_TIMEOUT_S * 1000}",
                f"SET idle_in_transaction_session_timeout = {int(statement_s * 1000)}",
                # What is told as committed must be on the disk, whatever the server's default is.
                "SET synchronous_commit = on",
            ]
        cursor.execute("SELECT VERSION()")
        mariadb = "mariadb" in str(cursor.fetchone()[0]).lower()
        # MySQL limits reads only, in milliseconds.
        limit = (
            f"max_statement_time = {statement_s}"
            if mariadb
            else f"max_execution_time = {int(statement_s * 1000)}"
        )
        return [
            f"SET SESSION {limit}",
            f"SET SESSION innodb_lock_wait_timeout = {_LOCK_TIMEOUT_S}",
            # Too long or wrong values are errors, never cut off.
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO'",
            "SET SESSION time_zone = '+00:00'",
        ]
