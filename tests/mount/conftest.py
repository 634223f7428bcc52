"""One daemon with several backends serves most tests here; every test gets a directory of its own on it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, daemons, environment
from tests.support.tools import Place

__all__ = ["daemons", "fresh_daemon", "place", "place_in", "shared"]

PlaceIn = Callable[[str], Place]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(id): the test proves this row of docs/semantics.md")


class Detached(Daemon):
    """A daemon that is no child of the tests.

    Wormfs looks at a writer's descendants and their sockets. The tests write, too, and the daemon's own
    sockets would make every close a case of its own.
    """

    def start(self, *, wait: bool = True, **variables: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "wormfs", "mount", "--config", str(self.config), "--daemon"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=40,
            cwd=self.base,
            env=environment(self.base) | variables,
        )
        assert not wait or done.returncode == 0, done.stderr

    def log_text(self) -> str:
        return (self.state_directory / "wormfs.log").read_text()


@pytest.fixture
def fresh_daemon() -> Iterator[Callable[..., Daemon]]:
    """Makes daemons of one test's own, not started yet, in directories that every user may enter."""
    made: list[Daemon] = []

    def make(**backends: dict[str, object]) -> Daemon:
        made.append(_new_daemon())
        return _configured(made[-1], backends or {"exams": {}})

    yield make
    for daemon in made:
        _take_down(daemon)


@pytest.fixture(scope="session")
def shared() -> Iterator[Daemon]:
    """The daemon of most tests."""
    daemon = _new_daemon()
    backends: dict[str, dict[str, object]] = {
        "exams": {"empty_grace": "0s"},
        "other": {},
        "settling": {"settle": "3s"},
        "slow": {"settle": "1h"},
        "grace": {"empty_grace": "1s"},
    }
    _configured(daemon, backends, broken={"type": "local", "path": str(daemon.base / "not-there")})
    try:
        daemon.start(wait=False)
        daemon.wait_mounted(*backends)
        yield daemon
        text = daemon.log_text()
    finally:
        _take_down(daemon)
    # The tests that provoke an unforeseen failure do so with a daemon of their own.
    assert "Traceback" not in text and "unforeseen" not in text, text


@pytest.fixture
def place_in(shared: Daemon, request: pytest.FixtureRequest) -> PlaceIn:
    """Makes a directory of the test's own in a backend."""
    path, _, test = request.node.nodeid.partition("::")
    name = re.sub(r"\W+", "-", f"{Path(path).stem}-{test}")[:80]
    return lambda backend: Place(shared, backend, name).make()


@pytest.fixture
def place(place_in: PlaceIn) -> Place:
    """A directory of the test's own where files are committed as they are closed."""
    return place_in("exams")


def _new_daemon() -> Detached:
    # Not below pytest's own directory: that is closed to other users, and some tests are other users.
    base = Path(tempfile.mkdtemp(prefix="wormfs-mount-"))
    base.chmod(0o755)
    return Detached(base)


def _configured(daemon: Daemon, backends: dict[str, dict[str, object]], **more: dict[str, object]) -> Daemon:
    shutil.rmtree(daemon.base / "data")
    daemon.write_config({**{name: daemon.local(name, **own) for name, own in backends.items()}, **more})
    for name in backends:
        daemon.data(name).chmod(0o777)
    return daemon


def _take_down(daemon: Daemon) -> None:
    daemon.clean_up()
    assert daemon.mounted() == []
    shutil.rmtree(daemon.base)
