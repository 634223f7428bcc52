"""The database goes down in the middle, and comes back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.moodle.conftest import Site
from tests.support.daemon import Daemon
from tests.support.databases import KINDS, make_server
from tests.support.moodle import Moodle, make_moodle, secret
from wormfs.errors import Unavailable
from wormfs.model import Key

# PyMySQL leaves the socket of a failed attempt to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@contextlib.contextmanager
def own_moodle(kind: str, top: Path, *, durable: bool) -> Iterator[Moodle]:
    """A site on a server of its own, which may be gone at the end."""
    server = make_server(kind, durable=durable)
    made: list[Moodle] = []
    try:
        made.append(make_moodle(kind, top, server))
        yield made[0]
    finally:
        server.stop()
        for moodle in made:
            forget_connection(moodle)


@pytest.fixture(params=sorted(KINDS))
def fragile(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Moodle]:
    """A site on a server of its own, which syncs what it commits."""
    with own_moodle(request.param, tmp_path, durable=True) as moodle:
        yield moodle


def restart(moodle: Moodle) -> None:
    moodle.server.start()
    forget_connection(moodle)


def forget_connection(moodle: Moodle) -> None:
    """The server at its other end is gone."""
    connection = moodle.__dict__.pop("connection", None)
    if connection is not None:
        with contextlib.suppress(Exception):  # PyMySQL's own error: it is closed already
            connection.close()


def waiting(daemon: Daemon) -> int:
    """How many files are not committed yet."""
    return int(daemon.status()["backends"]["law"]["spool"]["waiting"])


def progress(moodle: Moodle) -> None:
    """Wait until some more files have been stored."""
    until, begun = time.monotonic() + 30, len(moodle.rows())
    while len(moodle.rows()) < begun + 10:
        assert time.monotonic() < until, "nothing is stored"
        time.sleep(0.01)


def test_threads_that_store_through_a_crash_of_the_database(fragile: Moodle, tmp_path: Path) -> None:
    site = Site(fragile, tmp_path)
    backend = site.backend()
    stop = threading.Event()

    def writer(number: int) -> dict[str, bytes]:
        stored = {}
        for turn in range(10_000):
            if stop.is_set():
                break
            name, content = f"{number}-{turn}", b"%d of %d" % (turn, number)
            for _ in range(50):
                with contextlib.suppress(Unavailable):
                    # The same record again and again, as the committer does it.
                    site.publish(backend, name.encode(), content)
                    stored[name] = content
                    break
        return stored

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        running = [pool.submit(writer, number) for number in range(4)]
        for _ in range(2):
            progress(fragile)
            fragile.server.kill()
            restart(fragile)
        progress(fragile)
        stop.set()
        stored = {name: content for future in running for name, content in future.result().items()}
    assert len(stored) > 20
    rows = fragile.rows()
    # A publish whose reply was lost was repeated with another entry here, and so may have met itself.
    assert {name for name in rows if name} >= set(stored)
    for name, content in stored.items():
        assert fragile.content(name) == content
    assert list(backend.findings()) == []
    backend.close()


def test_a_database_that_is_down_is_unavailable_and_not_missing(fragile: Moodle, tmp_path: Path) -> None:
    site = Site(fragile, tmp_path)
    backend = site.backend()
    site.store(backend, b"exam.zip", b"content")
    fragile.server.kill()
    with pytest.raises(Unavailable):
        backend.stat(Key(b"exam.zip"))
    with pytest.raises(Unavailable):
        backend.begin(Key(b"other.zip"))
    restart(fragile)
    assert backend.stat(Key(b"exam.zip")).size_bytes == 7
    backend.close()


def test_a_mount_through_a_crash_of_the_database(
    fragile: Moodle, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(secret())
    password.chmod(0o600)
    options = fragile.options(course=7, database_password={"file": str(password)}, spool_reserve="0")
    daemon = daemons({"law": {"type": "moodle", **options}})
    daemon.start()
    mount = daemon.mountpoint / "law"
    stop = threading.Event()

    def writer(number: int) -> dict[str, bytes]:
        stored = {}
        for turn in range(10_000):
            if stop.is_set():
                break
            name, content = f"{number}-{turn}", bytes([turn % 256]) * (1 + turn * 37 % 20_000)
            try:
                (mount / name).write_bytes(content)
            except OSError:
                continue  # told at create: nothing was accepted
            stored[name] = content
        return stored

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(writer, number) for number in range(3)]
        try:
            for _ in range(2):
                progress(fragile)
                fragile.server.kill()
                restart(fragile)
            progress(fragile)
        finally:
            stop.set()
        stored = {name: content for future in running for name, content in future.result().items()}
    daemon.wait_for(
        lambda: not daemon.status()["backends"]["law"]["spool"]["waiting"], "everything is committed", 60
    )
    assert len(stored) > 20
    assert "ALERT" not in daemon.log_text()
    for name, content in stored.items():
        assert fragile.content(name) == content
        assert (mount / name).read_bytes() == content
    assert daemon.stop() == 0
    assert secret() not in daemon.log_text()
