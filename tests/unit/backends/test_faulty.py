"""The faulty backend fails as told, and only so."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.drivers import LocalStorage, make_record, spooled, store
from tests.support.faulty import FaultyBackend
from wormfs.errors import AlreadyExists, OutOfSpace, Unavailable
from wormfs.model import ROOT, Key

KEY = Key(b"exam.zip")


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


@pytest.fixture
def faulty(storage: LocalStorage) -> Iterator[FaultyBackend]:
    faulty = FaultyBackend(storage.backend())
    faulty.start()
    yield faulty
    faulty.close()


def test_without_faults_it_is_the_backend_inside(storage: LocalStorage, faulty: FaultyBackend) -> None:
    info = store(storage, faulty, KEY, b"content")
    reader = faulty.open(info)
    assert reader.read(0, 100) == b"content"
    reader.close()
    assert faulty.faults.calls["publish"] == 1


def test_it_fails_as_often_as_told(faulty: FaultyBackend) -> None:
    faulty.faults.fail("stat", Unavailable("down", backend="archive"), times=2)
    for _ in range(2):
        with pytest.raises(Unavailable, match="archive: down"):
            faulty.stat(ROOT)
    faulty.stat(ROOT)
    faulty.faults.fail("*", Unavailable("down"))
    for _ in range(3):
        with pytest.raises(Unavailable):
            faulty.space()
    faulty.faults.clear()
    faulty.space()


def test_a_lost_reply_has_stored_the_file(storage: LocalStorage, faulty: FaultyBackend) -> None:
    record = make_record(b"content")
    faulty.faults.lose_reply("publish", Unavailable("timed out"))
    with pytest.raises(Unavailable):
        store(storage, faulty, KEY, b"content", record)
    assert storage.plain(KEY) == b"content"
    assert faulty.resume(KEY).publish(None, record).size_bytes == 7
    with pytest.raises(AlreadyExists):
        faulty.begin(KEY)


def test_a_call_hangs_until_released(faulty: FaultyBackend) -> None:
    released = faulty.faults.hang("space")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(faulty.space)
        with pytest.raises(TimeoutError):
            future.result(timeout=0.05)
        released.set()
        assert future.result(timeout=10).total_bytes


def test_it_fills_up_in_the_middle(storage: LocalStorage, faulty: FaultyBackend) -> None:
    faulty.faults.fill_up(after_bytes=10)
    store(storage, faulty, KEY, b"content")
    assert faulty.space().free_bytes == 3
    with spooled(storage, b"content") as file:
        transfer = faulty.begin(Key(b"second"))
        with pytest.raises(OutOfSpace):
            transfer.publish(file, make_record(b"content"))
    faulty.faults.clear()
    store(storage, faulty, Key(b"second"), b"content")


def test_a_call_that_no_driver_has_is_a_mistake(faulty: FaultyBackend) -> None:
    with pytest.raises(AssertionError, match="publsh"):
        faulty.faults.fail("publsh", Unavailable())
