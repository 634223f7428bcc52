"""No connection to the database is left to the garbage collector; none is used that met the server's end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event

from tests.moodle.conftest import Site
from wormfs.backends.moodle import engine
from wormfs.backends.moodle.database import NO_PATIENCE, Cursor, Database
from wormfs.errors import WormfsError


@pytest.fixture
def database(site: Site) -> Iterator[Database]:
    database = Database("law", site.backend(started=False).options)
    database.open()
    yield database
    database.close()


def driver(connection: Connection) -> Any:
    """The object of the database's own module."""
    return connection.connection.driver_connection


def is_open(connection: Any) -> bool:
    # PyMySQL says "open", psycopg "closed".
    return bool(connection.open) if hasattr(connection, "open") else not connection.closed


def test_one_that_is_in_use_is_closed_when_it_is_given_back(database: Database) -> None:
    def close_beside(connection: Connection) -> Any:
        database.close()
        assert is_open(driver(connection))
        return driver(connection)

    assert not is_open(database.read(close_beside))


def test_those_beside_a_lost_one_are_not_used_again(site: Site, database: Database) -> None:
    postgresql = site.moodle.kind == "postgresql"
    beside: list[Any] = []

    def lose(cursor: Cursor) -> None:
        beside.append(database.read(driver))
        if len(beside) > 1:
            return
        cursor.execute("SELECT pg_backend_pid()" if postgresql else "SELECT connection_id()")
        number = cursor.fetchall()[0][0]
        site.moodle.execute("SELECT pg_terminate_backend(%s)" if postgresql else "KILL %s", number)
        cursor.execute("SELECT 1")

    database.write(lose)
    before, after = beside
    assert before is not after and not is_open(before) and is_open(after)


def test_one_that_was_just_made_is_used_though_others_were_lost_meanwhile(database: Database) -> None:
    """When the server goes, many threads find it out, each at its own time."""
    connections = database._connections
    assert connections is not None
    event.listen(connections.engine, "connect", lambda *_: connections.distrust())
    for _ in range(2):
        assert [tuple(row) for row in database.ask("SELECT 1", (), patience=NO_PATIENCE)] == [(1,)]
    assert database.read(lambda connection: 1, patience=NO_PATIENCE) == 1


def test_one_that_cannot_be_prepared_is_closed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def fail(connection: Any, _options: object) -> None:
        made.append(connection)
        raise WormfsError("no")

    monkeypatch.setattr(engine, "_prepare", fail)
    with pytest.raises(WormfsError):
        database.ask("SELECT 1", (), patience=NO_PATIENCE)
    assert made and not any(map(is_open, made))
