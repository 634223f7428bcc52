"""Directories, names and listings of a driver."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable

import pytest

from tests.conformance.drivers import NOW_NS, Storage, removing, store
from wormfs.backends.base import Backend
from wormfs.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    InvalidName,
    NameTooLong,
    NotADirectory,
    NotFound,
)
from wormfs.model import ROOT, DirectoryAttributes, Key, Kind, child, name_of

ANY = DirectoryAttributes()
AWKWARD = [bytes([number]) for number in range(1, 256) if number not in b"./"] + [
    b"...",
    b"..x",
    b"wormfs",
    b"name with spaces ",
    b"-rf",
    b"quote'\"\\",
    b"new\nline\r",
    "Prüfung äöü".encode(),
    "u\u0308".encode(),
    b"\xff\xfe invalid \xc3",
    b"%2e%2e",
    b"x" * 255,
    b"\xff" * 255,
]


def names(backend: Backend, key: Key = ROOT) -> list[bytes]:
    return [name_of(info.key) for info in backend.list(key)]


def test_the_root_is_an_empty_directory(backend: Backend) -> None:
    assert backend.stat(ROOT).kind is Kind.DIRECTORY
    assert names(backend) == []


@removing
def test_making_and_removing_directories(storage: Storage, backend: Backend, other_host: Backend) -> None:
    parent, below = Key(b"job-1"), Key(b"job-1/below")
    info = backend.make_directory(parent, ANY)
    assert (info.key, info.kind) == (parent, Kind.DIRECTORY)
    backend.make_directory(below, ANY)
    assert other_host.stat(below).kind is Kind.DIRECTORY
    with pytest.raises(AlreadyExists):
        other_host.make_directory(parent, ANY)
    with pytest.raises(NotFound):
        backend.make_directory(Key(b"missing/below"), ANY)
    with pytest.raises(DirectoryNotEmpty):
        other_host.remove_directory(parent)
    other_host.remove_directory(below)
    backend.remove_directory(parent)
    with pytest.raises(NotFound):
        backend.remove_directory(parent)
    assert storage.visible() == set()


def test_a_file_is_no_directory(storage: Storage, backend: Backend) -> None:
    key = Key(b"file")
    store(storage, backend, key, b"x")
    calls: list[Callable[[], object]] = [
        lambda: list(backend.list(key)),
        lambda: backend.remove_directory(key),
        lambda: backend.make_directory(Key(b"file/below"), ANY),
    ]
    for call in calls:
        with pytest.raises(NotADirectory):
            call()
    with pytest.raises(AlreadyExists):
        backend.make_directory(key, ANY)
    with pytest.raises(NotFound):
        list(backend.list(Key(b"missing")))


def test_a_directory_with_a_file_stays(storage: Storage, backend: Backend) -> None:
    backend.make_directory(Key(b"job-1"), ANY)
    store(storage, backend, Key(b"job-1/exam.zip"), b"x")
    with pytest.raises(DirectoryNotEmpty):
        backend.remove_directory(Key(b"job-1"))
    assert storage.plain(Key(b"job-1/exam.zip")) == b"x"


def test_the_root_cannot_be_removed(backend: Backend) -> None:
    with pytest.raises(InvalidArgument):
        backend.remove_directory(ROOT)


def test_directory_attributes_are_kept_where_the_traits_say_so(backend: Backend) -> None:
    key = Key(b"job-1")
    backend.make_directory(key, DirectoryAttributes(mode=0o2777, uid=33, gid=34))
    backend.set_directory_attributes(key, DirectoryAttributes(mtime_ns=NOW_NS))
    if backend.traits.keeps_directory_attributes:
        info = backend.stat(key)
        assert (info.mode, info.uid, info.gid, info.mtime_ns) == (0o2777, 33, 34, NOW_NS)
        backend.set_directory_attributes(key, DirectoryAttributes(mode=0o700, atime_ns=5))
        info = backend.stat(key)
        assert (info.mode, info.uid, info.atime_ns, info.mtime_ns) == (0o700, 33, 5, NOW_NS)


def test_names_of_any_bytes_or_a_clear_refusal(storage: Storage, backend: Backend) -> None:
    kept = []
    for name in AWKWARD:
        try:
            backend.validate(name)
        except InvalidName:
            continue
        except NameTooLong:
            assert len(name) > backend.traits.max_name_bytes
            continue
        kept.append(name)
        key = child(ROOT, name)
        store(storage, backend, key, name)
        assert backend.stat(key).size_bytes == len(name)
        assert storage.plain(key) == name
    assert sorted(names(backend)) == sorted(kept)
    # ASCII letters and digits have to work everywhere.
    assert {b"a", b"Z", b"0", b"-", b"_"} <= set(kept)


def test_a_component_that_is_too_long_is_refused(backend: Backend) -> None:
    name = b"x" * (backend.traits.max_name_bytes + 1)
    with pytest.raises(NameTooLong):
        backend.validate(name)
    with pytest.raises(NameTooLong):
        backend.begin(child(ROOT, name))


@removing
def test_keys_up_to_the_traits_limit(storage: Storage, backend: Backend) -> None:
    # Some can hold more, but not divided into directories in every way.
    limit = getattr(storage, "certain_key_bytes", backend.traits.max_key_bytes)
    key = Key(b"d" * 200)
    while True:
        backend.make_directory(key, ANY)
        if len(key) + 202 > limit:
            break
        key = child(key, b"d" * min(200, limit - len(key) - 3))
    file = child(key, b"f" * (limit - len(key) - 1))
    assert len(file) == limit
    info = store(storage, backend, file, b"deep")
    # The spool has unlinked its own name since, which a local file's ctime shows.
    assert dataclasses.replace(backend.stat(file), ctime_ns=info.ctime_ns) == info
    reader = backend.open(info)
    assert reader.read(0, 10) == b"deep"
    reader.close()
    assert [entry.key for entry in backend.list(key)] == [file]
    assert backend.record(file) is not None
    backend.erase(file)
    while key:
        backend.remove_directory(key)
        key = Key(key.rpartition(b"/")[0])


def test_a_listing_tells_what_stat_tells(storage: Storage, backend: Backend) -> None:
    backend.make_directory(Key(b"job-1"), ANY)
    backend.make_directory(Key(b"job-1/below"), ANY)
    store(storage, backend, Key(b"job-1/exam.zip"), b"x" * 10)
    listed = {info.key: info for info in backend.list(Key(b"job-1"))}
    assert set(listed) == {b"job-1/below", b"job-1/exam.zip"}
    for key, info in listed.items():
        told = backend.stat(key)
        if info.partial:
            told = dataclasses.replace(info, key=told.key, kind=told.kind, size_bytes=told.size_bytes)
        assert info == told


@removing
def test_a_listing_during_additions_and_removals_neither_misses_nor_repeats(
    storage: Storage, backend: Backend, other_host: Backend
) -> None:
    backend.make_directory(Key(b"big"), ANY)
    staying = {b"stays-%04d" % number for number in range(storage.rounds(1500))}
    for name in staying:
        backend.make_directory(Key(b"big/" + name), ANY)
    leaving = [b"leaves-%03d" % number for number in range(storage.rounds(200))]
    for name in leaving:
        backend.make_directory(Key(b"big/" + name), ANY)
    seen = []
    for number, info in enumerate(backend.list(Key(b"big"))):
        seen.append(name_of(info.key))
        if number % 5 == 0:
            other_host.make_directory(Key(b"big/comes-%04d" % number), ANY)
        if number % 10 == 0 and leaving:
            other_host.remove_directory(Key(b"big/" + leaving.pop()))
    assert len(seen) == len(set(seen))
    assert staying <= set(seen)


def test_a_small_directory_that_grows_during_its_listing(storage: Storage, backend: Backend) -> None:
    # On ext4 the first block fills up here and the directory becomes a hash tree.
    staying = {b"stays-%02d" % number for number in range(50)}
    for name in staying:
        backend.make_directory(child(ROOT, name), ANY)
    listing = iter(backend.list(ROOT))
    seen = [name_of(next(listing).key)]
    for number in range(storage.rounds(400)):
        backend.make_directory(Key(b"comes-later-%04d" % number), ANY)
    seen += [name_of(info.key) for info in listing]
    assert len(seen) == len(set(seen))
    assert staying <= set(seen)


def test_a_listing_that_is_closed_early_frees_itself(storage: Storage, backend: Backend) -> None:
    for number in range(20):
        backend.make_directory(Key(b"%d" % number), ANY)
    for _ in range(storage.rounds(2000)):
        listing = backend.list(ROOT)
        next(listing)
        close = getattr(listing, "close", None)
        assert close is not None, "a listing can be closed before its end"
        close()


def test_a_large_directory_is_streamed(storage: Storage, backend: Backend) -> None:
    count = storage.rounds(3000)
    for number in range(count):
        storage.place_foreign(Key(b"file-%05d" % number), b"")
    tracemalloc.start()
    try:
        assert sum(1 for _ in backend.list(ROOT)) == count
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 400_000, "a listing must not hold all of the directory"
