"""A database that takes connections and statements, and then says nothing: every call ends all the same."""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.conformance.drivers import make_record, spooled
from tests.moodle.conftest import Site
from tests.moodle.test_outage import own_moodle
from tests.support.databases import KINDS, PASSWORD, USER
from tests.support.moodle import Moodle
from wormfs.backends.moodle import database as module
from wormfs.backends.moodle import engine
from wormfs.backends.moodle.database import NO_PATIENCE, Database
from wormfs.backends.moodle.starting import settings_warning
from wormfs.errors import Unavailable
from wormfs.model import Key

LIMIT_S = 1.0
KEY = Key(b"exam.zip")
CONTENT = b"an exam"
ONE = text("SELECT 1")


@pytest.fixture(params=sorted(KINDS))
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Moodle]:
    """A site on a server of its own."""
    with own_moodle(request.param, tmp_path, durable=False) as moodle:
        yield moodle


def process_that_answers(own: Moodle, database: Database) -> int:
    """PostgreSQL has one for each connection, MariaDB one for all."""
    if own.kind == "postgresql":
        return int(database.ask("SELECT pg_backend_pid()", ())[0][0])
    process = own.server.process
    assert process is not None
    return process.pid


def hold(number: int) -> None:
    """Stop a process; all its threads stand still when this returns."""
    os.kill(number, signal.SIGSTOP)
    until = time.monotonic() + 20
    for task in Path(f"/proc/{number}/task").iterdir():
        while (task / "stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < until
            time.sleep(0.005)


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_GRACE_S", 0.5)
    monkeypatch.setattr(module, "PATIENCE", NO_PATIENCE)


@pytest.mark.parametrize("way", ["ask", "read", "write", "change"])
@pytest.mark.usefixtures("limited")
def test_a_server_that_hangs_in_a_statement_is_unavailable_in_time(
    own: Moodle, tmp_path: Path, way: str
) -> None:
    database = Site(own, tmp_path).backend(database_timeout_s=LIMIT_S).database
    ways: dict[str, Callable[[], object]] = {
        "ask": lambda: database.ask("SELECT 1", (), patience=NO_PATIENCE),
        "read": lambda: database.read(lambda connection: connection.execute(ONE), patience=NO_PATIENCE),
        "write": lambda: database.write(lambda cursor: cursor.execute("SELECT 1")),
        "change": lambda: database.change(lambda connection: connection.execute(ONE)),
    }
    number = process_that_answers(own, database)
    hold(number)
    begun = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            ways[way]()
        assert time.monotonic() - begun < 10 * LIMIT_S
    finally:
        os.kill(number, signal.SIGCONT)
    assert database.ask("SELECT 1", ())[0][0] == 1
    database.close()


@pytest.mark.usefixtures("limited")
def test_a_standby_that_is_waited_for_is_waited_for_by_every_attempt(tmp_path: Path) -> None:
    """PostgreSQL shows what was committed here only, once whoever waited for the standby is gone."""
    with contextlib.ExitStack() as ending:
        own = ending.enter_context(own_moodle("postgresql", tmp_path, durable=False))
        site = Site(own, tmp_path)
        backend = site.backend(database_timeout_s=LIMIT_S)
        ending.callback(backend.close)
        site.store(backend, b"first.zip", b"its directory's row is there from now on")
        record = make_record(CONTENT)
        wait_for_standbys(own, "nobody")
        for _ in range(2):
            with spooled(site.storage, CONTENT) as file:
                transfer = backend.resume(KEY)
                with pytest.raises(Unavailable):
                    transfer.publish(file, record)
                transfer.abort()
            end_those_who_wait(own)
            assert KEY.decode() in own.rows(), "it can be seen, after the first attempt already"
        wait_for_standbys(own, "")
        with spooled(site.storage, CONTENT) as file:
            backend.resume(KEY).publish(file, record)
        assert own.content(KEY.decode()) == CONTENT


def test_check_warns_of_a_standby_that_nobody_waits_for(tmp_path: Path) -> None:
    with contextlib.ExitStack() as ending:
        # One that syncs: else check warns of that.
        own = ending.enter_context(own_moodle("postgresql", tmp_path, durable=True))
        backend = Site(own, tmp_path).backend()
        ending.callback(backend.close)
        ending.enter_context(following(own))
        assert "waits for none" in (settings_warning(backend) or "")
        wait_for_standbys(own, "*")
        assert settings_warning(backend) is None


@contextlib.contextmanager
def following(own: Moodle) -> Iterator[None]:
    """Somebody who receives what the server writes, as a standby does."""
    received = own.top / "received"
    received.mkdir()
    program = glob.glob("/usr/lib/postgresql/*/bin/pg_receivewal")[-1]
    with subprocess.Popen(
        [program, "-h", str(own.server.socket), "-U", USER, "-D", str(received), "--no-sync"],
        env={**os.environ, "PGPASSWORD": PASSWORD}, stderr=subprocess.DEVNULL,
    ) as receiver:  # fmt: skip
        try:
            until = time.monotonic() + 20
            while not own.execute("SELECT 1 FROM pg_stat_replication"):
                assert receiver.poll() is None and time.monotonic() < until
                time.sleep(0.02)
            yield
        finally:
            receiver.kill()


def end_those_who_wait(own: Moodle) -> None:
    waiting = "pg_stat_activity WHERE wait_event = 'SyncRep'"
    until = time.monotonic() + 20
    own.execute(f"SELECT pg_terminate_backend(pid) FROM {waiting}")
    while own.execute(f"SELECT 1 FROM {waiting}"):
        assert time.monotonic() < until
        time.sleep(0.01)


def wait_for_standbys(own: Moodle, names: str) -> None:
    own.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    own.execute("SELECT pg_reload_conf()")
    until = time.monotonic() + 20
    while own.execute("SHOW synchronous_standby_names")[0][0] != names:
        assert time.monotonic() < until
        time.sleep(0.01)
