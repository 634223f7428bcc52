"""One daemon with several backends serves most tests here; every test gets a directory of its own on it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.daemon import Daemon, daemons, environment
from tests.support.tools import Place

__all__ = ["daemons", "fresh_daemon", "module_daemon", "place", "place_in", "shared"]

PlaceIn = Callable[[str], Place]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(id): the test proves this row of docs/semantics.md")


class Detached(Daemon):
    """A daemon that is no child of the tests.

    Wormfs looks at a writer's descendants and their sockets. The tests write, too, and the daemon's own
    sockets would make every close a case of its own.
    """

    def start(self, *, wait: bool = True, **variables: str) -> None:
        command = [sys.executable, "-m", "wormfs", "mount", "--config", str(self.config)]
        with self.log.open("ab") as log:
            subprocess.run(
                ["setsid", "--fork", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.base,
                env=environment(self.base) | variables,
                check=True,
            )
        if wait:
            self.wait_mounted(*yaml.safe_load(self.config.read_text())["backends"])


@pytest.fixture
def fresh_daemon() -> Iterator[Callable[..., Daemon]]:
    """Makes daemons of one test's own, not started yet, in directories that every user may enter."""
    yield from _factory()


@pytest.fixture(scope="module")
def module_daemon() -> Iterator[Callable[..., Daemon]]:
    """The same for all tests of a module."""
    yield from _factory()


def _factory() -> Iterator[Callable[..., Daemon]]:
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
        "settling": {"settle": "3s", "empty_grace": "0s"},
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
    identity = request.node.nodeid
    number = zlib.crc32(identity.encode("utf-8", "backslashreplace"))
    name = re.sub(r"\W+", "-", identity.rpartition("::")[2])[:60] + f"-{number:08x}"
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
