"""What networks do to control and data connections, between the driver and a real server."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.drivers import make_record, spooled, store
from tests.conformance.storages_ftp import FtpStorage
from tests.crash.real import wait_until
from tests.support.faultproxy import (
    BlackHole,
    Direction,
    Fault,
    Latency,
    LimitData,
    Refuse,
    ResetPeer,
    Slicer,
    SlowClose,
)
from tests.support.ftpproxy import FtpProxy
from wormfs.backends.base import Backend
from wormfs.backends.ftp.backend import FtpBackend
from wormfs.backends.ftp.upload import RESUME_FROM_BYTES
from wormfs.errors import AlreadyExists, NotFound, Unavailable, WormfsError
from wormfs.model import Key, Record

KEY = Key(b"exam.zip")
SMALL = b"small\n" * 100
LARGE = random.Random(5).randbytes(9_000_001)
TIMEOUT_S = 1.0

CONTROL_FAULTS: dict[str, tuple[Fault, Direction]] = {
    "half-open": (BlackHole(), Direction.DOWN),
    "black-hole": (BlackHole(), Direction.BOTH),
    "reset": (ResetPeer(), Direction.DOWN),
    "reset-up": (ResetPeer(), Direction.UP),
    "cut-after-some-replies": (LimitData(400), Direction.DOWN),
    "ends-after-some-replies": (LimitData(400, clean=True), Direction.DOWN),
    "refused": (Refuse(), Direction.BOTH),
}
DATA_FAULTS: dict[str, tuple[Fault, Direction]] = {
    "black-hole": (BlackHole(), Direction.BOTH),
    "half-open": (BlackHole(), Direction.UP),
    "reset": (ResetPeer(), Direction.UP),
    "cut": (LimitData(300), Direction.BOTH),
    # The server takes a proper end in the middle for the end of the file, and says 226.
    "ends-early": (LimitData(300, clean=True), Direction.BOTH),
}
HARMLESS: dict[str, tuple[Fault, Direction]] = {
    "latency": (Latency(0.02), Direction.BOTH),
    "slices": (Slicer(3000), Direction.BOTH),
    "slow-close": (SlowClose(0.05), Direction.BOTH),
}


@pytest.fixture(params=["vsftpd", "pureftpd"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FtpStorage]:
    made = getattr(storages_ftp, request.param)(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def proxy(storage: FtpStorage) -> Iterator[FtpProxy]:
    with FtpProxy(storage.port) as proxy:
        yield proxy


@pytest.fixture
def backend(storage: FtpStorage, proxy: FtpProxy) -> Iterator[Backend]:
    backend = FtpBackend("archive", storage.options(port=proxy.port, timeout_s=TIMEOUT_S, patience_s=0.5))
    backend.start()
    yield backend
    proxy.clear()
    backend.close()


def try_to_store(storage: FtpStorage, backend: Backend, content: bytes, record: Record) -> WormfsError | None:
    """One attempt, as the committer makes it."""
    with spooled(storage, content) as file:
        transfer = None
        try:
            transfer = backend.resume(KEY)
            transfer.advance(file, len(content))
            transfer.publish(file, record)
        except WormfsError as error:
            if transfer is not None:
                transfer.abort()
            return error
    return None


def must_get_there(storage: FtpStorage, backend: Backend, content: bytes, record: Record) -> None:
    assert try_to_store(storage, backend, content, record) is None
    assert storage.plain(KEY) == content
    assert backend.record(KEY) == record


@pytest.mark.parametrize("fault", sorted(CONTROL_FAULTS))
def test_a_fault_of_the_control_connection_ends_in_time_and_costs_nothing(
    storage: FtpStorage, proxy: FtpProxy, backend: Backend, fault: str
) -> None:
    record = make_record(SMALL)
    started = time.monotonic()
    proxy.control.add(*CONTROL_FAULTS[fault])
    if isinstance(CONTROL_FAULTS[fault][0], Refuse):
        proxy.cut()
    error = try_to_store(storage, backend, SMALL, record)
    assert error is None or isinstance(error, Unavailable)
    assert time.monotonic() - started < 12 * TIMEOUT_S
    assert KEY not in storage.visible() or storage.plain(KEY) == SMALL
    proxy.clear()
    proxy.cut()
    must_get_there(storage, backend, SMALL, record)


@pytest.mark.parametrize("fault", sorted(DATA_FAULTS))
def test_a_fault_of_data_connections_never_makes_a_half_file(
    storage: FtpStorage, proxy: FtpProxy, backend: Backend, fault: str
) -> None:
    record = make_record(LARGE)
    proxy.data_faults.append(DATA_FAULTS[fault])
    error = try_to_store(storage, backend, LARGE, record)
    assert error is not None
    assert KEY not in storage.visible()
    proxy.clear()
    must_get_there(storage, backend, LARGE, record)


@pytest.mark.parametrize("fault", sorted(HARMLESS))
def test_a_slow_network_is_only_slow(
    storage: FtpStorage, proxy: FtpProxy, backend: Backend, fault: str
) -> None:
    proxy.control.add(*HARMLESS[fault])
    proxy.data_faults.append(HARMLESS[fault])
    store(storage, backend, KEY, SMALL)
    reader = backend.open(backend.stat(KEY))
    assert reader.read(0, 10_000) == SMALL
    reader.close()
    assert [info.key for info in backend.list(Key(b""))] == [KEY]


def must_read_on(storage: FtpStorage, backend: Backend, cut: Callable[[], object]) -> None:
    """A whole file by one reader, the connections cut every 2 MiB."""
    store(storage, backend, KEY, LARGE)
    reader = backend.open(backend.stat(KEY))
    found = bytearray()
    while len(found) < len(LARGE):
        if len(found) // (2 << 20) != (len(found) + 131_072) // (2 << 20):
            cut()
        found += reader.read(len(found), 131_072)
    assert found == LARGE
    reader.close()


def test_a_read_that_breaks_goes_on_where_it_was(
    storage: FtpStorage, proxy: FtpProxy, backend: Backend
) -> None:
    must_read_on(storage, backend, proxy.cut)


def test_a_server_that_hangs_in_the_middle_of_a_read_ends_in_time(
    storage: FtpStorage, proxy: FtpProxy, backend: Backend
) -> None:
    store(storage, backend, KEY, LARGE)
    reader = backend.open(backend.stat(KEY))
    assert reader.read(0, 10) == LARGE[:10]
    hole = BlackHole()
    proxy.control.add(hole)
    proxy.data_faults.append((hole, Direction.BOTH))
    for each in proxy._data:
        each.add(hole)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        for offset in range(0, len(LARGE), 1 << 20):
            reader.read(offset, 1 << 20)
    assert time.monotonic() - started < 10 * TIMEOUT_S
    proxy.clear()
    proxy.cut()
    assert reader.read(5_000_000, 1000) == LARGE[5_000_000:5_001_000]
    reader.close()


def test_a_listing_that_is_cut_off_is_an_error_and_not_a_short_listing(
    storage: FtpStorage, proxy: FtpProxy, backend: Backend
) -> None:
    for number in range(300):
        storage.place_foreign(Key(b"file-%03d" % number), b"")
    proxy.data_faults.append((LimitData(2000), Direction.DOWN))
    with pytest.raises(Unavailable):
        list(backend.list(Key(b"")))
    proxy.clear()
    assert len(list(backend.list(Key(b"")))) == 300


def test_a_lost_reply_to_the_claim_is_no_already_exists(
    storage: FtpStorage, proxy: FtpProxy, backend: Backend
) -> None:
    for attempt in range(12):
        key = Key(b"raced-%d" % attempt)
        record = make_record(SMALL)
        with spooled(storage, SMALL) as file:
            transfer = backend.begin(key)
            # Somewhere on the way, the server's answers stop.
            proxy.control.add(LimitData(150 + attempt * 60), Direction.DOWN)
            try:
                transfer.publish(file, record)
            except AlreadyExists:
                pytest.fail("the name is ours")
            except WormfsError:
                transfer.abort()
            proxy.clear()
            proxy.cut()
            backend.resume(key).publish(file, record)
        assert backend.record(key) == record


def test_nothing_stays_behind_when_the_server_is_back(
    storage: FtpStorage, proxy: FtpProxy, backend: Backend
) -> None:
    with spooled(storage, LARGE) as file:
        transfer = backend.begin(KEY)
        transfer.advance(file, len(LARGE))
        wait_until(lambda: any(name.endswith("/data") for name in storage.hidden()))
        refuse = proxy.control.add(Refuse())
        proxy.cut()
        with pytest.raises(Unavailable):
            transfer.publish(file, make_record(LARGE))
        transfer.abort()
        proxy.control.remove(refuse)
    assert [name for name in storage.hidden() if name.startswith("s/")]
    store(storage, backend, Key(b"other"), SMALL)
    assert [name for name in storage.hidden() if name.startswith(("s/", "e/"))] == []
    with pytest.raises(NotFound):
        backend.stat(KEY)


def test_a_large_upload_that_breaks_goes_on_where_it_was(
    storage: FtpStorage, proxy: FtpProxy, backend: Backend
) -> None:
    content = random.Random(6).randbytes(1 << 20) * (RESUME_FROM_BYTES // (1 << 20) + 16)
    record = make_record(content)
    limit = (LimitData(RESUME_FROM_BYTES + (8 << 20)), Direction.UP)
    proxy.data_faults.append(limit)
    with spooled(storage, content) as file:
        transfer = backend.begin(KEY)
        before = proxy.data_connections
        transfer.publish(file, record)
    # Had it begun again, it would have broken at the same place again, and three times.
    assert proxy.data_connections - before == 4, (
        "two for the bytes, one to read them back, one for the record"
    )
    assert storage.plain(KEY) == content
    assert backend.record(KEY) == record


def test_a_reply_that_is_cut_off_in_its_middle_is_no_reply(storage: FtpStorage, proxy: FtpProxy) -> None:
    """ "213 12" is no size of a file of 1234 bytes, however properly the connection ends after it."""
    content = b"x" * 123_456
    backend = FtpBackend("archive", storage.options(port=proxy.port, timeout_s=TIMEOUT_S, patience_s=0.0))
    backend.start()
    try:
        store(storage, backend, KEY, content)
        for arrived in range(1, 12):
            backend.stat(KEY)
            with proxy_cut_after(proxy, arrived), pytest.raises(Unavailable):
                backend.stat(KEY)
        assert backend.stat(KEY).size_bytes == len(content)
    finally:
        backend.close()


@contextlib.contextmanager
def proxy_cut_after(proxy: FtpProxy, size: int) -> Iterator[None]:
    """So many bytes still come from the server, then the end of the connection."""
    proxy.control.add(LimitData(size, clean=True), Direction.DOWN)
    yield
    proxy.clear()
    proxy.cut()
