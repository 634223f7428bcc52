"""What every driver keeps of retention, beyond the order of two changes: see test_files for these."""

from __future__ import annotations

import pytest

from tests.conformance.drivers import RETAIN_NS, S, Storage, make_record, removing, store
from wormfs.backends.base import Backend
from wormfs.errors import NotFound
from wormfs.model import FOREVER, NO_RETENTION, Key, Retention, RetentionChange

KEY = Key(b"exam.pdf")
CONTENT = b"record"


@pytest.mark.parametrize("until_ns", [NO_RETENTION, RETAIN_NS, FOREVER])
def test_a_date_is_given_back_as_it_was_stored(
    storage: Storage, backend: Backend, other_host: Backend, until_ns: int | None
) -> None:
    """A date in the past, or none at all, is a date: a scratch directory's files have none."""
    record = make_record(CONTENT, retention=Retention(until_ns))
    store(storage, backend, KEY, CONTENT, record)
    assert other_host.record(KEY) == record


def test_a_file_without_retention_can_be_given_one_and_be_held(storage: Storage, backend: Backend) -> None:
    store(storage, backend, KEY, CONTENT, make_record(CONTENT, retention=Retention(NO_RETENTION)))
    change = RetentionChange(extend=True, extend_to_ns=RETAIN_NS, add_holds=("AZ 1",))
    assert backend.change_retention(KEY, change).retention == Retention(RETAIN_NS, ("AZ 1",))
    found = backend.record(KEY)
    assert found is not None
    assert found.retention == Retention(RETAIN_NS, ("AZ 1",))


def test_a_change_leaves_bytes_and_everything_else_alone(storage: Storage, backend: Backend) -> None:
    store(storage, backend, KEY, CONTENT, make_record(CONTENT, retention=Retention(RETAIN_NS)))
    before = backend.stat(KEY)
    backend.change_retention(KEY, RetentionChange(extend=True, extend_to_ns=RETAIN_NS + S))
    after = backend.stat(KEY)
    assert (after.size_bytes, after.mode, after.mtime_ns) == (before.size_bytes, before.mode, before.mtime_ns)
    assert storage.plain(KEY) == CONTENT
    reader = backend.open(after)
    assert reader.read(0, 100) == CONTENT
    reader.close()


@removing
def test_erasing_leaves_nothing_and_can_be_done_again(
    storage: Storage, backend: Backend, other_host: Backend
) -> None:
    neighbour = Key(b"exam.pdf2")
    store(storage, backend, neighbour, b"other", make_record(b"other"))
    before = storage.visible()
    store(storage, backend, KEY, CONTENT, make_record(CONTENT, retention=Retention(RETAIN_NS)))
    assert storage.visible() != before
    backend.erase(KEY)
    assert storage.visible() == before
    for host in (backend, other_host):
        with pytest.raises(NotFound):
            host.stat(KEY)
        with pytest.raises(NotFound):
            host.erase(KEY)
    assert list(backend.findings()) == []
    record = make_record(b"new", retention=Retention(FOREVER))
    store(storage, backend, KEY, b"new", record)
    assert other_host.record(KEY) == record
    assert storage.plain(neighbour) == b"other"


def test_the_clock_of_a_backend_is_a_time_or_none(backend: Backend) -> None:
    now_ns = backend.time_ns()
    assert now_ns is None or now_ns > RETAIN_NS
