"""A host that dies at any request to the store, before it arrives or after: no file is lost, half there or
doubled, whether the same host goes on or another."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance.drivers import make_record, spooled
from tests.conformance.storages_s3 import PART_BYTES, S3Storage
from wormfs.backends.s3.backend import S3Backend
from wormfs.backends.s3.store import Store
from wormfs.errors import AlreadyExists, Unavailable, WormfsError
from wormfs.model import DirectoryAttributes, Key, Record

SIZES = {"one put": 5000, "in parts": 2 * PART_BYTES + 1000}
MAX_STEPS = 40


class Cutter:
    """Lets the n-th request of one store, and all after it, go wrong."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.dying: Store | None = None
        self.count = 0
        self.at = 0
        self.arrives = False
        self._lock = threading.Lock()
        once, quickly = Store.once, Store._quickly_once

        def cut_once(store: Store, *words: Any, **parameters: Any) -> Any:
            return self._step(store, lambda: once(store, *words, **parameters))

        def cut_quickly(store: Store, *words: Any) -> Any:
            return self._step(store, lambda: quickly(store, *words))

        patch.setattr(Store, "once", cut_once)
        patch.setattr(Store, "_quickly_once", cut_quickly)

    def _step(self, store: Store, step: Callable[[], Any]) -> Any:
        if store is not self.dying:
            return step()
        with self._lock:
            self.count += 1
            number = self.count
        if number < self.at:
            return step()
        if number == self.at and self.arrives:
            step()
        # From here on nothing comes back: the host is dead.
        raise Unavailable("cut off by the test")

    @contextlib.contextmanager
    def cutting(self, host: S3Backend, at: int, *, arrives: bool) -> Iterator[None]:
        self.dying, self.count, self.at, self.arrives = host._started().store, 0, at, arrives
        try:
            yield
        finally:
            self.dying = None


@pytest.fixture
def cutter() -> Iterator[Cutter]:
    with pytest.MonkeyPatch.context() as patch:
        yield Cutter(patch)


@pytest.fixture
def hosts(plain: S3Storage) -> Iterator[tuple[S3Backend, S3Backend]]:
    """One that dies, and one that lives and takes the dead one's claims for old at once."""
    dying, living = plain.backend(patience_s=0.0), plain.backend(claim_age_s=0.0)
    for host in (dying, living):
        host.start()
    living.make_directory(Key(b"job"), DirectoryAttributes())
    yield dying, living
    for host in (dying, living):
        host.close()


def publish(storage: S3Storage, host: S3Backend, key: Key, content: bytes, record: Record) -> None:
    with spooled(storage, content) as file:
        transfer = host.begin(key)
        transfer.advance(file, len(content))
        transfer.publish(file, record)


def resume(storage: S3Storage, host: S3Backend, key: Key, content: bytes, record: Record) -> None:
    with spooled(storage, content) as file:
        transfer = host.resume(key)
        transfer.advance(file, len(content))
        assert transfer.publish(file, record).size_bytes == len(content)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("arrives", [False, True], ids=["request lost", "answer lost"])
def test_a_host_that_dies_anywhere_loses_nothing(
    arrives: bool, size: int, plain: S3Storage, cutter: Cutter, hosts: tuple[S3Backend, S3Backend]
) -> None:
    dying, living = hosts
    chance = random.Random(size)
    for at in range(1, MAX_STEPS):
        key, content = Key(b"job/%d" % at), chance.randbytes(size)
        record = make_record(content)
        done = True
        with cutter.cutting(dying, at, arrives=arrives):
            try:
                publish(plain, dying, key, content, record)
            except WormfsError:
                done = False
        if key in plain.visible():
            assert plain.plain(key) == content, "never half a file under the name"
        resume(plain, living, key, content, record)
        assert plain.plain(key) == content
        assert living.record(key) == record
        if done:
            assert at > 2, "it was cut somewhere"
            return
    raise AssertionError(f"more than {MAX_STEPS} requests for one file")


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_another_host_takes_the_name_of_one_that_died_or_finds_its_file(
    size: int, plain: S3Storage, cutter: Cutter, hosts: tuple[S3Backend, S3Backend]
) -> None:
    dying, living = hosts
    chance = random.Random(size)
    for at in range(1, MAX_STEPS):
        key, ours, theirs = Key(b"job/%d" % at), chance.randbytes(size), chance.randbytes(size)
        record = make_record(ours)
        done = True
        with cutter.cutting(dying, at, arrives=True):
            try:
                publish(plain, dying, key, ours, record)
            except WormfsError:
                done = False
        try:
            publish(plain, living, key, theirs, make_record(theirs))
        except AlreadyExists:
            winner = ours
        else:
            winner = theirs
        assert plain.plain(key) == winner
        if winner is ours:
            resume(plain, living, key, ours, record)
        else:
            with pytest.raises(AlreadyExists):
                resume(plain, living, key, ours, record)
        assert plain.plain(key) == winner, "what stands at a name never changes"
        if done:
            assert winner is ours
            return
    raise AssertionError(f"more than {MAX_STEPS} requests for one file")
