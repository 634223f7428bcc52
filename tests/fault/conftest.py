"""Every test that takes ``place`` runs once per storage of ``tests.conformance.drivers``.

A further driver gets all of them for free.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conformance.drivers import STORAGES, Storage
from tests.support.faulty import Faults, FaultyBackend
from tests.support.inprocess import Host, StillClock, options
from wormfs.fs.stack import StackOptions
from wormfs.spool.committer import RetryPolicy

OPTIONS = options(commit_timeout_s=10.0, retry=RetryPolicy(first_delay_s=0.5, last_delay_s=2.0))


@dataclass
class Place:
    """One storage with a backend that fails as asked, and hosts that use it one after the other."""

    storage: Storage
    spool: Path
    hosts: list[Host] = field(default_factory=list)

    @property
    def faults(self) -> Faults:
        backend = self.hosts[-1].backend
        assert isinstance(backend, FaultyBackend)
        return backend.faults

    def host(self, settings: StackOptions | None = None, speed: float = 0.0) -> Host:
        """A new host; the one before must have ended. Its wall clock goes on from there."""
        start_ns = self.hosts[-1].clock.now_ns() if self.hosts else StillClock().now_ns()
        backend = FaultyBackend(self.storage.backend())
        host = Host(backend, self.spool, settings or OPTIONS, StillClock(start_ns, speed))
        host.start()
        self.hosts.append(host)
        return host


# The layers above the driver are tried here. One server is enough for that; soak takes all.
_OTHERS = ("moodle-mariadb", "moto", "proftpd", "pureftpd", "pyftpdlib", "seaweedfs-locked", "vsftpd-once")
_SERVERS_FOR_SOAK = () if os.environ.get("WORMFS_SOAK") else _OTHERS


@pytest.fixture(params=sorted(STORAGES.keys() - set(_SERVERS_FOR_SOAK)))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    make: Callable[[Path], Storage] = STORAGES[request.param]
    storage = make(tmp_path)
    place = Place(storage, tmp_path / "spool")
    yield place
    for host in place.hosts:
        if not host._ended.done():
            place.faults.clear()
            host.crash()
    storage.remove()


@pytest.fixture
def host(place: Place) -> Host:
    return place.host()
