"""How connections to Moodle's database are made: address, password, TLS, limits.

Every connection commits each statement by itself, in the isolation level READ COMMITTED; what belongs
together is put between BEGIN and COMMIT (``wormfs.backends.moodle.database``). So a question is one trip to
the server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from wormfs import clock
from wormfs.backends.moodle.options import MoodleOptions, Server, Tls
from wormfs.errors import SettingsError

_CONNECT_TIMEOUT_S: Final = 5
_LOCK_TIMEOUT_S: Final = 10
_GRACE_S: Final = 5
"""How much longer than the server's own limit the socket waits for its answer."""
_RECYCLE_S: Final = 1800
"""Shorter than the idle limits of databases and of what stands between."""
_MADE: Final = "wormfs_made_s"
"""What a pool's entry remembers of its connection: when it was made, on the monotonic clock."""
_NEW: Final = "wormfs_new"
"""The same, until it is used for the first time."""
READING: Final = "wormfs_reading"
"""The option of a SQLAlchemy connection on which no transaction is begun."""


class Connections:
    """The engine, and which of its connections may still be used. Methods may be called from many threads."""

    def __init__(self, backend: str, options: MoodleOptions) -> None:
        """Connects to nobody yet. ``backend``: its name, for messages. Raises SettingsError."""
        self.engine = _make(backend, options)
        self._options = options
        self._trusted_from_s = 0.0
        self._closed = False
        for name, listener in (
            ("connect", self._made),
            ("checkout", self._taken),
            ("checkin", self._returned),
        ):
            event.listen(self.engine, name, listener)

    def distrust(self) -> None:
        """Use no connection again that was made before now: one of them has met the server's end."""
        self._trusted_from_s = clock.monotonic()

    def close(self) -> None:
        """Close all; those in use when they are given back."""
        self._closed = True
        self.engine.dispose()

    def _made(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_MADE] = clock.monotonic()
        entry.info[_NEW] = True
        try:
            _prepare(connection, self._options)
        except BaseException:
            # SQLAlchemy would leave it to the garbage collector.
            connection.close()
            raise

    def _taken(self, _connection: object, entry: ConnectionPoolEntry, _proxy: object) -> None:
        # One just made is as good as the next; and SQLAlchemy gives up after the second.
        if not entry.info.pop(_NEW, False) and entry.info[_MADE] < self._trusted_from_s:
            # The word by which SQLAlchemy closes it and makes another.
            raise DisconnectionError

    def _returned(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        if self._closed:
            entry.close()


def _make(backend: str, options: MoodleOptions) -> Engine:
    # No ping before each use: what meets a dead connection is run again anyway, on a new one.
    try:
        engine = create_engine(
            _url(options),
            connect_args=_connect_arguments(options),
            pool_size=options.connections,
            max_overflow=2,
            pool_timeout=options.database_timeout_s,
            pool_recycle=_RECYCLE_S,
            # Every transaction is ended where it was begun: PyMySQL would ask the server again.
            pool_reset_on_return=None,
            hide_parameters=True,
        )
        if options.server is Server.POSTGRESQL:
            event.listen(engine, "do_connect", _limited_connect())
    except ImportError as error:
        raise SettingsError(
            f"the Python package {error.name} is missing: install wormfs[moodle-{options.server.value}]",
            backend=backend,
        ) from None

    event.listen(engine, "begin", _begin)
    return engine


def _limited_connect() -> Callable[..., object]:
    # psycopg is there only where PostgreSQL is used.
    from wormfs.backends.moodle.limited import LimitedConnection

    def connect(_dialect: object, _entry: object, arguments: list[Any], named: dict[str, Any]) -> object:
        return LimitedConnection.connect(*arguments, **named)

    return connect


def _begin(connection: Connection) -> None:
    """What SQLAlchemy calls the begin of a transaction."""
    if not connection.get_execution_options().get(READING):
        connection.exec_driver_sql("BEGIN")


def _url(options: MoodleOptions) -> URL:
    password = options.database_password
    driver = "postgresql+psycopg" if options.server is Server.POSTGRESQL else "mysql+pymysql"
    return URL.create(
        driver,
        username=options.database_user,
        password=password.reveal() if password is not None else None,
        host=options.database_host if options.database_socket is None else None,
        port=options.database_port if options.database_socket is None else None,
        database=options.database_name,
    )


def _connect_arguments(options: MoodleOptions) -> dict[str, Any]:
    if options.server is Server.POSTGRESQL:
        return _postgresql_arguments(options)
    return _mariadb_arguments(options)


def _postgresql_arguments(options: MoodleOptions) -> dict[str, Any]:
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


def _mariadb_arguments(options: MoodleOptions) -> dict[str, Any]:
    limit_s = options.database_timeout_s + _GRACE_S
    arguments: dict[str, Any] = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": limit_s,
        "write_timeout": limit_s,
        "charset": "utf8mb4",
        "local_infile": False,
        "autocommit": True,
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


def _prepare(connection: Any, options: MoodleOptions) -> None:
    """For each new connection. Plain SET, which poolers in between understand, too."""
    if options.server is Server.POSTGRESQL:
        connection.limit_s = options.database_timeout_s + _GRACE_S
        connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in _settings(cursor, options):
            cursor.execute(statement)


def _settings(cursor: Any, options: MoodleOptions) -> list[str]:
    statement_s = options.database_timeout_s
    if options.server is Server.POSTGRESQL:
        return [
            f"SET statement_timeout = {int(statement_s * 1000)}",
            f"SET lock_timeout = {_LOCK_TIMEOUT_S * 1000}",
            f"SET idle_in_transaction_session_timeout = {int(statement_s * 1000)}",
            "SET default_transaction_isolation = 'read committed'",
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
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        # Too long or wrong values are errors, never cut off.
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO'",
        "SET SESSION time_zone = '+00:00'",
    ]
