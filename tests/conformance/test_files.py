"""One file through a driver: create-if-absent, publish, records, reads, erasing."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import multiprocessing
import os
import random
import threading
from collections.abc import Callable

import pytest

from tests.conformance.drivers import (
    ATTRIBUTES,
    NOW_NS,
    RETAIN_NS,
    S,
    Storage,
    make_record,
    removing,
    spooled,
    store,
)
from wormfs.backends.base import Backend
from wormfs.errors import (
    AlreadyExists,
    IsADirectory,
    NotADirectory,
    NotFound,
    Retained,
    Unsupported,
    WormfsError,
)
from wormfs.model import (
    DirectoryAttributes,
    FileAttributes,
    Key,
    Kind,
    ObjectInfo,
    Retention,
    RetentionChange,
)

CONTENT = b"an archive\n" * 1000
KEY = Key(b"exam.zip")


def read_all(backend: Backend, info: ObjectInfo) -> bytes:
    reader = backend.open(info)
    try:
        return reader.read(0, info.size_bytes + 1)
    finally:
        reader.close()


def test_a_published_file_is_there_for_everyone(
    storage: Storage, backend: Backend, other_host: Backend
) -> None:
    info = store(storage, backend, KEY, CONTENT)
    assert (info.key, info.kind, info.size_bytes) == (KEY, Kind.FILE, len(CONTENT))
    for host in (backend, other_host):
        seen = host.stat(KEY)
        assert (seen.kind, seen.size_bytes) == (Kind.FILE, len(CONTENT))
        assert read_all(host, seen) == CONTENT


def test_data_is_readable_without_wormfs(storage: Storage, backend: Backend) -> None:
    record = make_record(CONTENT)
    store(storage, backend, KEY, CONTENT, record)
    assert hashlib.sha256(storage.plain(KEY)).hexdigest() == record.sha256


def test_an_empty_file_is_a_file(storage: Storage, backend: Backend) -> None:
    info = store(storage, backend, KEY, b"")
    assert info.size_bytes == 0
    assert read_all(backend, backend.stat(KEY)) == b""


def test_mode_owner_and_times_are_kept_and_write_bits_are_gone(storage: Storage, backend: Backend) -> None:
    attributes = FileAttributes(0o664, 33, 34, NOW_NS - 1, NOW_NS - 2)
    store(storage, backend, KEY, CONTENT, make_record(CONTENT, attributes=attributes))
    info = backend.stat(KEY)
    assert (info.mode, info.uid, info.gid) == (0o444, 33, 34)
    assert (info.atime_ns, info.mtime_ns) == (NOW_NS - 1, NOW_NS - 2)
    read_all(backend, info)
    assert backend.stat(KEY).atime_ns == NOW_NS - 1


def test_the_record_comes_back_as_it_was(storage: Storage, backend: Backend, other_host: Backend) -> None:
    attributes = dataclasses.replace(
        ATTRIBUTES,
        xattrs={b"user.course": "Prüfung".encode(), b"user.raw": bytes(range(256)), b"user.\xff": b""},
    )
    retention = Retention(RETAIN_NS + 10 * S, ("case 7", "Fall ß"))
    record = make_record(CONTENT, attributes=attributes, retention=retention)
    store(storage, backend, KEY, CONTENT, record)
    assert backend.record(KEY) == record
    assert other_host.record(KEY) == record


def test_prepare_again_after_a_change_keeps_the_last_record_only(storage: Storage, backend: Backend) -> None:
    first = make_record(CONTENT, attributes=dataclasses.replace(ATTRIBUTES, xattrs={b"user.old": b"1"}))
    last = make_record(CONTENT, attributes=dataclasses.replace(ATTRIBUTES, xattrs={b"user.new": b"2"}))
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        for record in (first, last, last):
            transfer.prepare(file, record)
        transfer.publish(file, last)
    assert backend.record(KEY) == last


def test_a_foreign_file_has_no_record_and_can_be_read(storage: Storage, backend: Backend) -> None:
    storage.place_foreign(KEY, CONTENT)
    assert backend.record(KEY) is None
    assert read_all(backend, backend.stat(KEY)) == CONTENT


# Create-if-absent


def test_begin_refuses_a_taken_name(storage: Storage, backend: Backend, other_host: Backend) -> None:
    store(storage, backend, KEY, CONTENT)
    backend.make_directory(Key(b"folder"), DirectoryAttributes())
    for host in (backend, other_host):
        for key in (KEY, Key(b"folder")):
            with pytest.raises(AlreadyExists):
                host.begin(key)


def test_begin_needs_the_directory(storage: Storage, backend: Backend) -> None:
    store(storage, backend, KEY, CONTENT)
    with pytest.raises(NotFound):
        backend.begin(Key(b"missing/exam.zip"))
    with pytest.raises(NotADirectory):
        backend.begin(Key(KEY + b"/exam.zip"))


def test_publishing_other_content_to_a_taken_name_changes_nothing(
    storage: Storage, backend: Backend, other_host: Backend
) -> None:
    with spooled(storage, b"late") as late:
        transfer = other_host.begin(KEY)
        record = make_record(CONTENT)
        store(storage, backend, KEY, CONTENT, record)
        late_record = make_record(b"late")
        transfer.prepare(late, late_record)
        for attempt in (transfer, other_host.resume(KEY)):
            with pytest.raises(AlreadyExists):
                attempt.publish(late, late_record)
    assert storage.plain(KEY) == CONTENT
    assert backend.record(KEY) == record


def test_publishing_onto_a_directory_is_refused(storage: Storage, backend: Backend) -> None:
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        record = make_record(CONTENT)
        transfer.prepare(file, record)
        backend.make_directory(KEY, DirectoryAttributes())
        with pytest.raises(AlreadyExists):
            transfer.publish(file, record)
    assert backend.stat(KEY).kind is Kind.DIRECTORY


def test_publishing_onto_a_foreign_file_is_refused(storage: Storage, backend: Backend) -> None:
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        record = make_record(CONTENT)
        transfer.prepare(file, record)
        storage.place_foreign(KEY, CONTENT)
        with pytest.raises(AlreadyExists):
            transfer.publish(file, record)


def test_an_aborted_transfer_leaves_nothing(storage: Storage, backend: Backend) -> None:
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        transfer.advance(file, len(CONTENT))
        transfer.prepare(file, make_record(CONTENT))
        transfer.abort()
        transfer.abort()
    assert storage.visible() == set()
    store(storage, backend, KEY, CONTENT)


def race(backend: Backend, storage: Storage, key: Key, content: bytes) -> str:
    try:
        store(storage, backend, key, content)
    except AlreadyExists:
        return "lost"
    return "won"


def test_of_sixteen_threads_one_wins(storage: Storage, backend: Backend) -> None:
    start = threading.Barrier(16)

    def writer(number: int, key: Key) -> str:
        start.wait()
        return race(backend, storage, key, b"%d" % number * 5000)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for turn in range(storage.rounds(20)):
            key = Key(b"raced-%d" % turn)
            results = list(pool.map(writer, range(16), [key] * 16))
            assert results.count("won") == 1
            assert storage.plain(key) == b"%d" % results.index("won") * 5000


def process_races(storage: Storage, number: int, turns: int) -> list[str]:
    backend = storage.backend()
    backend.start()
    try:
        return [
            race(backend, storage, Key(b"raced-%d" % turn), b"%d" % number * 5000) for turn in range(turns)
        ]
    finally:
        backend.close()


def test_of_many_processes_one_wins(storage: Storage, backend: Backend) -> None:
    turns = storage.rounds(20)
    # Each starts an interpreter: as many as the storage has rounds.
    writers = min(8, max(3, turns))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(writers, context) as pool:
        runs = list(pool.map(process_races, [storage] * writers, range(writers), [turns] * writers))
    for turn in range(turns):
        results = [run[turn] for run in runs]
        assert results.count("won") == 1
        assert storage.plain(Key(b"raced-%d" % turn)) == b"%d" % results.index("won") * 5000


# Publishing again


def test_publishing_twice_is_a_success(storage: Storage, backend: Backend, other_host: Backend) -> None:
    record = make_record(CONTENT)
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        transfer.prepare(file, record)
        first = transfer.publish(file, record)
        assert transfer.publish(file, record).size_bytes == first.size_bytes
        # The reply was lost, and the daemon started again.
        resumed = other_host.resume(KEY)
        resumed.advance(file, len(CONTENT))
        resumed.prepare(file, record)
        assert resumed.publish(file, record).size_bytes == first.size_bytes
    assert backend.record(KEY) == record
    assert storage.plain(KEY) == CONTENT


def test_publishing_without_the_spool_file_tells_whether_it_arrived(
    storage: Storage, backend: Backend
) -> None:
    record = make_record(CONTENT)
    with pytest.raises(NotFound):
        backend.resume(KEY).publish(None, record)
    store(storage, backend, KEY, CONTENT, record)
    assert backend.resume(KEY).publish(None, record).size_bytes == len(CONTENT)
    with pytest.raises(AlreadyExists):
        backend.resume(KEY).publish(None, make_record(CONTENT))


# Reading


def test_reads_at_any_offset_from_many_threads(storage: Storage, backend: Backend) -> None:
    content = random.Random(7).randbytes(3_000_001)
    info = store(storage, backend, KEY, content)
    reader = backend.open(info)

    def check(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(40):
            offset, size = numbers.randrange(len(content) + 100), numbers.choice((1, 8192, 131_072, 1 << 20))
            expected = content[offset : offset + size]
            assert reader.read(offset, size) == expected
            assert reader.read_ready(offset, size) in (expected, None)

    with concurrent.futures.ThreadPoolExecutor(backend.traits.connections) as pool:
        list(pool.map(check, range(16)))
    reader.close()
    reader.close()


@removing
def test_opening_what_was_replaced_is_refused(storage: Storage, backend: Backend) -> None:
    info = store(storage, backend, KEY, CONTENT)
    backend.erase(KEY)
    store(storage, backend, KEY, CONTENT + b"longer")
    with pytest.raises(NotFound):
        backend.open(info)


# Errors


def test_what_is_not_there_is_not_found(storage: Storage, backend: Backend) -> None:
    store(storage, backend, KEY, CONTENT)
    missing = Key(b"missing.zip")
    calls: list[Callable[[], object]] = [
        lambda: backend.stat(missing),
        lambda: backend.record(missing),
        lambda: backend.open(ObjectInfo(missing, Kind.FILE)),
        lambda: backend.erase(missing),
        lambda: backend.change_retention(missing, RetentionChange()),
        lambda: backend.stat(Key(b"missing/below")),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()
    with pytest.raises((NotFound, NotADirectory)):
        backend.stat(Key(KEY + b"/below"))


def test_errors_name_backend_and_key(backend: Backend) -> None:
    with pytest.raises(NotFound, match=r"^archive/missing\.zip: ") as caught:
        backend.stat(Key(b"missing.zip"))
    assert (caught.value.backend, caught.value.key) == ("archive", b"missing.zip")


def test_a_directory_is_no_file(backend: Backend) -> None:
    info = backend.make_directory(Key(b"folder"), DirectoryAttributes())
    for call in (
        lambda: backend.open(info),
        lambda: backend.erase(info.key),
        lambda: backend.record(info.key),
    ):
        with pytest.raises(IsADirectory):
            call()


def test_keys_outside_the_shown_tree_are_refused(backend: Backend) -> None:
    for key in (b"..", b"../x", b"a/../../x", b".wormfs", b".wormfs/check/object", b"a/.wormfs-x", b"a\0b"):
        with pytest.raises(WormfsError):
            backend.stat(Key(key))
        with pytest.raises(WormfsError):
            backend.begin(Key(key))


# Retention and erasing


def extended(until_ns: int | None) -> RetentionChange:
    return RetentionChange(extend=True, extend_to_ns=until_ns)


def test_retention_grows_and_never_shrinks(storage: Storage, backend: Backend, other_host: Backend) -> None:
    record = make_record(CONTENT, retention=Retention(RETAIN_NS))
    store(storage, backend, KEY, CONTENT, record)
    longer = dataclasses.replace(record, retention=Retention(RETAIN_NS + 5 * S))
    assert backend.change_retention(KEY, extended(RETAIN_NS + 5 * S)) == longer
    assert other_host.record(KEY) == longer
    with pytest.raises(Retained, match=r"^archive/exam\.zip: .*never shortened"):
        other_host.change_retention(KEY, extended(RETAIN_NS + 4 * S))
    assert backend.change_retention(KEY, extended(RETAIN_NS + 5 * S)) == longer
    backend.change_retention(KEY, extended(None))
    with pytest.raises(Retained):
        backend.change_retention(KEY, extended(RETAIN_NS + 6 * S))
    assert backend.record(KEY) == dataclasses.replace(record, retention=Retention(None))
    # What was published is still known as that.
    backend.resume(KEY).publish(None, record)


def test_legal_holds_come_and_go_and_leave_the_date_alone(
    storage: Storage, backend: Backend, other_host: Backend
) -> None:
    record = make_record(CONTENT, retention=Retention(RETAIN_NS, ("Az. 7 K 12/26",)))
    store(storage, backend, KEY, CONTENT, record)
    other_host.change_retention(KEY, RetentionChange(add_holds=("Fall ß", "Az. 7 K 12/26")))
    after = backend.record(KEY)
    assert after is not None
    assert after.retention == Retention(RETAIN_NS, ("Az. 7 K 12/26", "Fall ß"))
    for host in (backend, other_host):
        host.change_retention(KEY, RetentionChange(remove_holds=("Az. 7 K 12/26",)))
    assert backend.change_retention(KEY, RetentionChange()).retention == Retention(RETAIN_NS, ("Fall ß",))
    backend.change_retention(KEY, RetentionChange(remove_holds=("Fall ß",)))
    assert other_host.record(KEY) == dataclasses.replace(record, retention=Retention(RETAIN_NS))


def test_what_wormfs_did_not_write_has_no_retention(storage: Storage, backend: Backend) -> None:
    storage.place_foreign(KEY, CONTENT)
    with pytest.raises(Unsupported):
        backend.change_retention(KEY, extended(RETAIN_NS))


def test_of_many_changes_at_once_none_is_lost(
    storage: Storage, backend: Backend, other_host: Backend
) -> None:
    store(storage, backend, KEY, CONTENT, make_record(CONTENT, retention=Retention(RETAIN_NS)))

    def change(number: int) -> None:
        host = (backend, other_host)[number % 2]
        holds = (f"case {number}",) if number % 4 == 0 else ()
        try:
            host.change_retention(KEY, dataclasses.replace(extended(RETAIN_NS + number * S), add_holds=holds))
        except Retained:
            host.change_retention(KEY, RetentionChange(add_holds=holds))

    numbers = list(range(1, 33))
    random.Random(3).shuffle(numbers)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(change, numbers))
    record = backend.record(KEY)
    assert record is not None
    assert record.retention.retain_until_ns == RETAIN_NS + 32 * S
    assert set(record.retention.holds) == {f"case {number}" for number in range(4, 33, 4)}


@removing
def test_an_erased_file_is_gone_and_its_name_free(
    storage: Storage, backend: Backend, other_host: Backend
) -> None:
    store(storage, backend, KEY, CONTENT)
    other_host.erase(KEY)
    assert storage.visible() == set()
    with pytest.raises(NotFound):
        backend.stat(KEY)
    store(storage, backend, KEY, b"new")
    assert storage.plain(KEY) == b"new"


def test_the_spool_is_where_the_driver_says(backend: Backend) -> None:
    directory = backend.spool_directory("0123456789abcdef")
    assert (directory is not None) == backend.traits.spool_on_backend
    if directory is not None:
        assert os.path.isabs(directory)
        assert directory.endswith("0123456789abcdef")
