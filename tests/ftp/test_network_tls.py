"""A sample of what networks do, to connections with TLS: the driver and a real server that demands it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.drivers import make_record, store
from tests.conformance.storages_ftp import FtpStorage
from tests.ftp.test_network import LARGE, SMALL, TIMEOUT_S, must_get_there, must_read_on, try_to_store
from tests.support.faultproxy import BlackHole, Direction, Fault, LimitData, ResetPeer
from tests.support.ftpproxy import HOST, SecretFtpProxy, passive_ports
from tests.support.ftpservers import FtpServer, Kind, Security
from wormfs.backends.base import Backend
from wormfs.backends.ftp.backend import FtpBackend
from wormfs.errors import Unavailable
from wormfs.model import Key

KEY = Key(b"exam.zip")
PORTS = 8
IN_ITS_MIDDLE = 500_000
"""Bytes; the handshake is long over."""

CONTROL_FAULTS: dict[str, tuple[Fault, Direction]] = {
    "half-open": (BlackHole(), Direction.DOWN),
    "reset": (ResetPeer(), Direction.DOWN),
    "cut-after-some-replies": (LimitData(700), Direction.DOWN),
    "ends-after-some-replies": (LimitData(700, clean=True), Direction.DOWN),
}
DATA_FAULTS: dict[str, tuple[Fault, Direction]] = {
    "black-hole": (BlackHole(), Direction.BOTH),
    "cut-in-the-handshake": (LimitData(300), Direction.BOTH),
    "cut": (LimitData(IN_ITS_MIDDLE), Direction.UP),
    # Without TLS's own word for an end.
    "ends-early": (LimitData(IN_ITS_MIDDLE, clean=True), Direction.UP),
    "read-back-ends-early": (LimitData(IN_ITS_MIDDLE, clean=True), Direction.DOWN),
}


@pytest.fixture(scope="module")
def passive() -> range:
    return passive_ports(PORTS)


@pytest.fixture(scope="module")
def server(passive: range) -> Iterator[FtpServer]:
    lines = [f"pasv_min_port={passive[0]}", f"pasv_max_port={passive[-1]}"]
    server = FtpServer(Kind.VSFTPD, Security.EXPLICIT, extra={"lines": lines})
    yield server
    server.remove()


@pytest.fixture
def storage(server: FtpServer, tmp_path: Path) -> Iterator[FtpStorage]:
    made = storages_ftp.made(server, tmp_path)
    yield made
    made.remove()


@pytest.fixture
def proxy(storage: FtpStorage, passive: range) -> Iterator[SecretFtpProxy]:
    with SecretFtpProxy(storage.port, passive) as proxy:
        yield proxy


@pytest.fixture
def backend(storage: FtpStorage, proxy: SecretFtpProxy) -> Iterator[Backend]:
    options = storage.options(host=HOST, port=proxy.port, timeout_s=TIMEOUT_S, patience_s=0.5)
    backend = FtpBackend("archive", options)
    backend.start()
    assert proxy.data_connections, "they go through the proxy"
    yield backend
    proxy.clear()
    backend.close()


@pytest.mark.parametrize("fault", sorted(CONTROL_FAULTS))
def test_a_fault_of_the_control_connection_ends_in_time_and_costs_nothing(
    storage: FtpStorage, proxy: SecretFtpProxy, backend: Backend, fault: str
) -> None:
    record = make_record(SMALL)
    started = time.monotonic()
    proxy.control.add(*CONTROL_FAULTS[fault])
    error = try_to_store(storage, backend, SMALL, record)
    assert error is None or isinstance(error, Unavailable)
    assert time.monotonic() - started < 12 * TIMEOUT_S
    assert KEY not in storage.visible() or storage.plain(KEY) == SMALL
    proxy.clear()
    proxy.cut()
    must_get_there(storage, backend, SMALL, record)


@pytest.mark.parametrize("fault", sorted(DATA_FAULTS))
def test_a_fault_of_data_connections_never_makes_a_half_file(
    storage: FtpStorage, proxy: SecretFtpProxy, backend: Backend, fault: str
) -> None:
    record = make_record(LARGE)
    proxy.add_to_data(*DATA_FAULTS[fault])
    started = time.monotonic()
    error = try_to_store(storage, backend, LARGE, record)
    assert error is not None
    assert time.monotonic() - started < 30 * TIMEOUT_S
    assert KEY not in storage.visible()
    proxy.clear()
    must_get_there(storage, backend, LARGE, record)


def test_a_read_that_breaks_goes_on_where_it_was(
    storage: FtpStorage, proxy: SecretFtpProxy, backend: Backend
) -> None:
    must_read_on(storage, backend, proxy.cut)


def test_a_read_whose_connection_ends_early_is_no_end_of_the_file(
    storage: FtpStorage, proxy: SecretFtpProxy, backend: Backend
) -> None:
    """Whoever sits in between can end a connection; what came is never taken for all."""
    store(storage, backend, KEY, LARGE)
    reader = backend.open(backend.stat(KEY))
    proxy.add_to_data(LimitData(3 << 20, clean=True), Direction.DOWN)
    found = bytearray()
    while len(found) < len(LARGE):
        some = reader.read(len(found), 131_072)
        assert some
        found += some
    assert found == LARGE
    reader.close()
