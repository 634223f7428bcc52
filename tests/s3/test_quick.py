"""Requests that do not go through boto3: as few as can be, and the same to every eye."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.credentials import Credentials

from tests.conformance.drivers import make_record, spooled, store
from tests.conformance.storages_s3 import S3Storage, secret
from tests.support.httpfaults import HttpFaults
from wormfs.backends.s3 import recent
from wormfs.backends.s3.backend import S3Backend
from wormfs.backends.s3.failures import PreconditionFailed
from wormfs.backends.s3.options import Addressing, S3Options
from wormfs.backends.s3.quick import MAX_BODY_BYTES, Quick
from wormfs.backends.s3.sharedlook import SharedLook
from wormfs.errors import AccessDenied, AlreadyExists, NotFound
from wormfs.model import DirectoryAttributes, Key

SMALL = b"an archive\n" * 100
ODD_NAMES = ["a b", "a+b", "ä ö", "100 %", "%41", "a&b=c?d#e", "~-._", "(1)*'!$,;:@", "日本"]


def test_a_small_file_costs_three_requests(plain: S3Storage) -> None:
    host, port = plain.endpoint.removeprefix("http://").split(":")
    with HttpFaults((host, int(port))) as faults:
        backend = plain.backend(endpoint=faults.endpoint)
        backend.start()
        backend.make_directory(Key(b"d"), DirectoryAttributes())
        for number in range(3):
            faults.seen.clear()
            key = Key(b"d/%d" % number)
            with pytest.raises(NotFound):
                backend.stat(key)  # as the kernel does before it creates
            store(plain, backend, key, SMALL)
        backend.close()
    free, put, claims = faults.seen
    assert free.startswith("GET ") and "prefix=" in free
    assert put.startswith("PUT ") and put.endswith("/d/2")
    assert claims.startswith("GET ") and "claim%2F" in claims


def ask(backend: S3Backend, key: Key) -> None:
    """As the kernel does before it creates."""
    with pytest.raises(NotFound):
        if backend.stat_ready(key) is None:
            backend.stat(key)


def test_of_many_small_files_each_costs_less_than_three_requests(
    plain: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may take longer than the moment itself.
    monkeypatch.setattr(recent, "_MOMENT_S", 10.0)
    host, port = plain.endpoint.removeprefix("http://").split(":")
    with HttpFaults((host, int(port))) as faults:
        backend = plain.backend(endpoint=faults.endpoint, page_keys=1000)
        backend.start()
        backend.make_directory(Key(b"d"), DirectoryAttributes())
        faults.seen.clear()
        keys = [Key(b"d/%d" % number) for number in range(40)]
        for key in keys:
            ask(backend, key)
            record = make_record(SMALL)
            with spooled(plain, SMALL) as file:
                transfer = backend.begin_ready(key)
                assert transfer is not None
                transfer.publish(file, record)
            assert backend.stat_ready(key) is None, "ours is not free, whatever was listed before"
            assert backend.stat(key).size_bytes == len(SMALL)
        questions = [line for line in faults.seen if "list-type" in line and "claim" not in line]
        assert faults.count("PUT") == len(keys)
        # One listing in a second answers for all; the first few are asked for one by one.
        assert len(questions) < len(keys) / 2, questions
        backend.close()
    assert all(plain.plain(key) == SMALL for key in keys)


def test_a_name_that_was_listed_free_and_is_taken_stays_as_it_is(
    plain: S3Storage, backend: S3Backend
) -> None:
    backend._started().store.options = plain.options(page_keys=1000)
    backend.make_directory(Key(b"d"), DirectoryAttributes())
    for number in range(8):
        ask(backend, Key(b"d/%d" % number))
    key = Key(b"d/exam.zip")
    ask(backend, key)
    transfer = backend.begin_ready(key)
    assert transfer is not None
    plain.place_foreign(key, b"of another host")
    with spooled(plain, SMALL) as file, pytest.raises(AlreadyExists):
        transfer.publish(file, make_record(SMALL))
    assert plain.plain(key) == b"of another host"
    ours = backend.stat(key)
    assert ours.size_bytes == len(b"of another host")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_and_sizes_arrive_as_they_are(name: str, plain: S3Storage, backend: S3Backend) -> None:
    key = Key(name.encode())
    with pytest.raises(NotFound):
        backend.stat(key)
    with pytest.raises(NotFound):
        backend.stat(Key(key + b"2"))  # answered by a listing
    record = make_record(SMALL)
    store(plain, backend, key, SMALL, record)
    assert plain.plain(key) == SMALL
    assert backend.record(key) == record
    assert backend._started().tree._surely_absent(key) is False
    with pytest.raises(PreconditionFailed):
        backend._started().store.put(plain.name_of(key), b"other")


@pytest.mark.parametrize("size", [0, 1, MAX_BODY_BYTES, MAX_BODY_BYTES + 1])
def test_both_ways_to_send_store_the_same(size: int, plain: S3Storage, backend: S3Backend) -> None:
    content = random.Random(size).randbytes(size)
    record = make_record(content)
    store(plain, backend, Key(b"file"), content, record)
    assert plain.plain(Key(b"file")) == content
    assert backend.record(Key(b"file")) == record


def test_what_boto3_must_find_out_goes_through_boto3() -> None:
    plain = {"bucket": "b", "endpoint": "http://127.0.0.1:1"}
    assert Quick.possible(S3Options(**plain))
    for changes in (
        {"endpoint": None},
        {"endpoint": "http://127.0.0.1:1/below"},
        {"addressing": Addressing.VIRTUAL},
        {"proxy": "http://127.0.0.1:2"},
    ):
        assert not Quick.possible(S3Options(**plain | changes)), changes


def test_a_wrong_key_is_told_and_not_shown(plain: S3Storage, backend: S3Backend) -> None:
    wrong = plain.backend(secret_key=secret("not-the-right-one"))
    with pytest.raises(AccessDenied) as raised:
        wrong.start()
    assert "not-the-right-one" not in str(raised.value) + repr(raised.value)
    quick = Quick(
        plain.options(),
        Credentials("someone", "not-the-right-one"),
        "us-east-1",
        5.0,
    )
    backend._started().store._quick = quick
    with spooled(plain, SMALL) as file, pytest.raises(AccessDenied) as raised:
        backend.begin(Key(b"x")).publish(file, make_record(SMALL))
    assert "not-the-right-one" not in str(raised.value) + repr(raised.value)


def test_a_claim_is_seen_by_the_look_that_many_share(plain: S3Storage, backend: S3Backend) -> None:
    claims = backend._started().target.claims
    keys = [Key(b"file-%d" % number) for number in range(16)]

    def claimed(key: Key) -> bool:
        return claims.any_for(key)

    with ThreadPoolExecutor(16) as pool:
        assert not any(pool.map(claimed, keys))
        for key in keys[::2]:
            claims.take(key, "entry", "no-such-upload")
        assert list(pool.map(claimed, keys)) == [True, False] * 8
    many = plain.backend(page_keys=3)
    many.start()
    assert [many._started().target.claims.any_for(key) for key in keys] == [True, False] * 8
    many.close()


def test_a_look_that_began_before_is_not_taken() -> None:
    now = 0
    looks = 0
    lock = threading.Lock()

    def look() -> int:
        nonlocal looks
        with lock:
            looks += 1
            seen = now
        time.sleep(0.002)
        if looks % 7 == 0:
            raise ConnectionError
        return seen

    shared = SharedLook(look)

    def ask(_: int) -> None:
        nonlocal now
        with lock:
            now += 1
            mine = now
        while True:
            try:
                assert shared.fresh() >= mine
            except ConnectionError:
                continue
            return

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(400)))
    assert looks < 200, "they share"
