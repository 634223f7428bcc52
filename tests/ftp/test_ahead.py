"""What is done before anybody asks for it: blocks that will be read, bytes that will be published."""

from __future__ import annotations

import concurrent.futures
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.drivers import make_record, spooled, store
from tests.conformance.storages_ftp import FtpStorage
from tests.crash.real import wait_until
from tests.support.ftpservers import FtpServer, Kind
from wormfs.backends.blockcache import BLOCK_BYTES
from wormfs.backends.ftp.backend import FtpBackend
from wormfs.errors import NotFound
from wormfs.model import Key

KEY = Key(b"exam.zip")
BLOCKS = 40
CONTENT = random.Random(5).randbytes(BLOCK_BYTES) * BLOCKS + b"end"


@pytest.fixture(params=["vsftpd", "proftpd"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FtpStorage]:
    made = getattr(storages_ftp, request.param)(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def backend(storage: FtpStorage) -> Iterator[FtpBackend]:
    backend = FtpBackend("archive", storage.options())
    backend.start()
    yield backend
    backend.close()


def block(number: int) -> bytes:
    return CONTENT[number * BLOCK_BYTES :][:BLOCK_BYTES]


def test_who_reads_on_finds_the_next_blocks_there_and_no_more_than_a_few(
    storage: FtpStorage, backend: FtpBackend
) -> None:
    storage.place_foreign(KEY, CONTENT)
    reader = backend.open(backend.stat(KEY))
    assert reader.read(0, BLOCK_BYTES) == block(0)
    assert reader.read_ready(BLOCK_BYTES, 10) is None, "one read is no reading on"
    assert reader.read(BLOCK_BYTES, BLOCK_BYTES) == block(1)
    wait_until(lambda: reader.read_ready(9 * BLOCK_BYTES, 1) is not None)
    assert reader.read_ready(12 * BLOCK_BYTES, 10) is None
    # Each from memory or by asking, in its order.
    for number in range(2, BLOCKS + 1):
        offset = number * BLOCK_BYTES
        data = reader.read_ready(offset, BLOCK_BYTES)
        assert (data if data is not None else reader.read(offset, BLOCK_BYTES)) == block(number)
    # What was given out whole is the kernel's to keep.
    assert reader.read_ready(20 * BLOCK_BYTES, 10) is None
    reader.close()
    assert backend.connected()._open == len(backend.connected()._idle), "its connections came back"


def test_readers_that_run_ahead_give_way(tmp_path: Path) -> None:
    """With one connection for all, and a reader that would like to fetch on."""
    server = FtpServer(Kind.VSFTPD)
    try:
        storage = storages_ftp.made(server, tmp_path)
        backend = FtpBackend("archive", storage.options(connections=1))
        backend.start()
        for number in range(3):
            storage.place_foreign(Key(b"file-%d" % number), CONTENT)

        def read(number: int) -> bool:
            reader = backend.open(backend.stat(Key(b"file-%d" % number)))
            try:
                return all(
                    reader.read(index * BLOCK_BYTES, BLOCK_BYTES) == block(index)
                    for index in range(BLOCKS + 1)
                )
            finally:
                reader.close()

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            readings = [pool.submit(read, number) for number in range(3)]
            store(storage, backend, KEY, b"small")
            assert [each.result() for each in readings] == [True] * 3
        backend.close()
    finally:
        server.remove()


def test_what_is_prepared_is_at_the_server_before_the_publish_and_goes_with_an_abort(
    storage: FtpStorage, backend: FtpBackend
) -> None:
    for content in (b"small", CONTENT):
        record = make_record(content)
        with spooled(storage, content) as file:
            transfer = backend.begin(KEY)
            transfer.prepare(file, record)
            wait_until(lambda: any(name.endswith("/meta") for name in storage.hidden()))
            assert storage.visible() == set()
            with pytest.raises(NotFound):
                backend.stat(KEY)
            transfer.abort()
        assert [name for name in storage.hidden() if "/" in name] == []
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        transfer.prepare(file, record)
        transfer.publish(file, record)
    assert storage.plain(KEY) == CONTENT
    assert backend.record(KEY) == record


def test_an_abort_does_not_wait_for_all_bytes(storage: FtpStorage, backend: FtpBackend) -> None:
    content = CONTENT * 6
    record = make_record(content)
    with spooled(storage, content) as file:
        transfer = backend.begin(KEY)
        transfer.prepare(file, record)
        wait_until(lambda: any(name.endswith("/data") for name in storage.hidden()))
        transfer.abort()
        sent = transfer._upload.sent_bytes  # type: ignore[attr-defined]
    assert sent == 0
    assert storage.visible() == set()
    assert [name for name in storage.hidden() if "/" in name] == []
