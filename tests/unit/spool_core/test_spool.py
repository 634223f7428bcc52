"""Threads and the event loop at one entry: descriptors, sizes, and what is sent ahead."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, cast

import pytest

from tests.crash.archive import local_backend
from tests.support.faulty import FaultyBackend, FaultyTransfer
from tests.support.inprocess import Host, OpenFile, options
from wormfs.errors import Unavailable
from wormfs.model import Key
from wormfs.spool.committer import Published
from wormfs.spool.digest import AHEAD_BYTES, StreamingDigest
from wormfs.spool.entry import Entry
from wormfs.spool.spool import Closed
from wormfs.worm.lifecycle import EntryState

MIB = 1 << 20


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(**settings: float) -> Host:
        backend = FaultyBackend(local_backend(tmp_path), inline=True)
        hosts.append(Host(backend, settings=options(**settings)).start())  # type: ignore[arg-type]
        return hosts[-1]

    yield make
    for host in hosts:
        if not host._ended.done():
            host.crash()


@pytest.fixture
def host(make: Callable[..., Host]) -> Host:
    return make()


def entry_of(host: Host, file: OpenFile) -> Entry:
    entry = host.stack.spool.get(Key(file.path))
    assert entry is not None
    return entry


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_writers_that_wait_for_a_hashing_thread_take_no_descriptors(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: each write beyond 4 MiB queued one more task with a descriptor of its own."""
    go_on = threading.Event()
    original = StreamingDigest.absorb
    calls: list[int] = []

    def absorb(self: StreamingDigest, fd: int) -> int:
        calls.append(fd)
        assert go_on.wait(30)
        return original(self, fd)

    monkeypatch.setattr("wormfs.spool.digest.StreamingDigest.absorb", absorb)
    files = [host.create(b"f%d" % number) for number in range(6)]
    before = descriptors()
    try:
        for at in range(5):
            for file in files:
                host.write(file, bytes(MIB), at * MIB)
        for at in range(100):
            for file in files:
                host.write(file, b"x", 5 * MIB + at)
        assert 5 * MIB > AHEAD_BYTES
        assert descriptors() <= before + (os.cpu_count() or 1)
        assert len(calls) <= (os.cpu_count() or 1)
        tasks = host.on_loop(lambda: len(host.stack.spool._nursery.child_tasks))
        assert tasks <= len(files) + 4, "one for each file, beside those that are always there"
    finally:
        go_on.set()
    for file in files:
        host.close(file)
        assert host.stat(file.path).size_bytes == 5 * MIB + 100
    host.wait_for(lambda: descriptors() <= before + 16, "all are given back")


def test_reading_while_it_is_committed_always_finds_this_file(host: Host) -> None:
    """The spool's descriptor goes, and its number is soon that of another file."""
    over = threading.Event()
    wrong: list[bytes] = []

    def noise() -> None:
        # Takes every number that becomes free.
        while not over.is_set():
            os.close(os.open("/dev/zero", os.O_RDONLY))

    thread = threading.Thread(target=noise)
    thread.start()
    try:
        for number in range(150):
            path = b"f%d" % number
            file = host.create(path)
            host.write(file, path)
            closing = host.background(host.call, host.fs.flush, file.handle)
            while not closing.done():
                if host.read(file) != path:
                    wrong.append(path)
            closing.result(10)
            host.close(file)
    finally:
        over.set()
        thread.join()
    assert wrong == []


def test_an_ended_entry_gives_no_descriptor(host: Host) -> None:
    file = host.create(b"f")
    host.write(file, b"content")
    entry = entry_of(host, file)
    assert entry.read_data(3, 99) == b"tent"
    fd = entry.duplicate_data()
    assert fd is not None
    host.close(file)
    assert os.pread(fd, 99, 0) == b"content"
    os.close(fd)
    assert entry.duplicate_data() is None
    assert entry.read_data(0, 9) is None
    assert entry.part_from_slot() is None


def test_a_write_behind_the_drivers_back_begins_the_transfer_anew(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: asked before the write, the driver could have read the old bytes in between."""
    sent: list[bytes] = []

    def advance(self: FaultyTransfer, spooled: BinaryIO, ready_bytes: int) -> None:
        sent.append(os.pread(spooled.fileno(), 1, 0))

    monkeypatch.setattr(FaultyTransfer, "advance", advance)
    file = host.create(b"f")
    host.write(file, b"a" * (5 * MIB))
    host.wait_for(lambda: bool(sent), "something is sent ahead")
    entry = entry_of(host, file)
    assert entry.sent_bytes == 5 * MIB and not entry.went_back
    first = entry.transfer

    original = os.pwrite

    def write_and_look(fd: int, data: bytes, offset: int) -> int:
        assert not entry.went_back, "the bytes come first"
        return original(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", write_and_look)
        host.write(file, b"b", 0)
    assert entry.went_back
    host.close(file)
    assert entry.transfer is not first
    assert host.load(b"f") == b"b" + b"a" * (5 * MIB - 1)


def test_the_store_is_closed_only_when_nobody_works_with_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a stop closed the spool's descriptors under a commit that was under way."""
    backend = host.backend
    assert isinstance(backend, FaultyBackend)
    file = host.create(b"f")
    host.write(file, b"content")
    backend.faults.fail("publish", Unavailable("down"), times=1)
    closing = host.background(host.close, file)
    host.wait_for(lambda: host.stack.spool.committer.waiting == 1, "it waits")
    release = backend.faults.hang("publish", times=1)
    host.on_loop(host.stack.spool.committer.retry_now)
    host.wait_for(lambda: backend.faults.calls["publish"] == 2, "an attempt hangs")
    closed: list[bool] = []
    original = host.stack.store.close

    def close() -> None:
        closed.append(not host.stack.spool.committer._in_flight)
        original()

    monkeypatch.setattr(host.stack.store, "close", close)
    stopping = host.background(host.call, host.stack.stop, 0.0)
    host.wait_for(lambda: host.stack._working.cancel_called, "the stop has begun")
    assert not closed
    release.set()
    stopping.result(10)
    assert closed == [True]
    host.on_loop(host.clock.trio.jump, 100.0)
    closing.exception(10)


def test_two_entries_that_claim_one_name_do_not_stop_the_start(
    tmp_path: Path, make: Callable[..., Host], caplog: pytest.LogCaptureFixture
) -> None:
    host = make(settle_s=100.0)
    host.store(b"a", b"first")
    host.clock.trio.jump(1.0)
    host.store(b"b", b"second")

    def claim_the_same() -> None:
        entry = host.stack.spool.get(Key(b"b"))
        assert entry is not None and entry.slot is not None
        entry.key = Key(b"a")
        entry.slot.write_durably(entry.journal())

    host.on_loop(claim_the_same)
    host.crash()
    again = make(settle_s=100.0)
    assert again.load(b"a") == b"first"
    assert "two entries of the spool claim a" in caplog.text
    again.stop()
    # The other is still there, for the next start.
    assert (
        len([name for name in os.listdir(again.spool_directory / "entries") if name.endswith(".data")]) == 2
    )


def test_a_thread_that_is_late_leaves_what_settled_to_the_committer(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: if the settle window was over before the closing thread looked, both published it."""
    spool = host.stack.spool
    attempts: list[Entry] = []

    def attempt(entry: Entry) -> Published:
        attempts.append(entry)
        return Published.OURS

    monkeypatch.setattr(spool.committer, "attempt", attempt)
    monkeypatch.setattr(spool.committer, "attempted", lambda entry, outcome: None)
    # Somebody else has settled and sealed it since.
    entry = cast("Entry", SimpleNamespace(id="late", state=EntryState.SEALED))
    publish = host.on_loop(lambda: spool._publisher(entry))
    publish(Closed(settling=True))
    publish(None)
    assert attempts == []
    publish(Closed())
    assert attempts == [entry]


class Sealing:
    """Keeps chosen files where they are hashed and synced until they are let go."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        sealer = host.stack.spool._sealer
        for name in ("seal", "seal_to_publish"):
            monkeypatch.setattr(sealer, name, partial(self._slowly, getattr(sealer, name)))

    def _slowly(self, seal: Callable[[Entry], None], entry: Entry) -> None:
        if entry.key.startswith(b"large"):
            self.begun.release()
            assert self.go_on.wait(30), "the test never let it go on"
        seal(entry)

    def wait_begun(self, files: int) -> None:
        for _ in range(files):
            assert self.begun.acquire(timeout=30), "it is not being sealed"


@pytest.fixture(params=[False, True], ids=["server", "local"])
def any_host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    backend = FaultyBackend(local_backend(tmp_path), inline=request.param)
    backend.traits = replace(backend.traits, connections=2)
    host = Host(backend, settings=options()).start()
    yield host
    host.crash()


def begin_large(host: Host, sealing: Sealing, files: int) -> list[Future[None]]:
    closing = []
    for number in range(files):
        file = host.create(b"large%d" % number)
        host.write(file, b"x" * 100)
        closing.append(host.background(host.close, file))
    sealing.wait_begun(files)
    return closing


def test_files_that_are_being_sealed_hold_up_no_small_one(
    any_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a large file took one of the places at the backend while it was still hashed and synced."""
    sealing = Sealing(any_host, monkeypatch)
    closing = begin_large(any_host, sealing, 2)  # as many as there are places
    small = any_host.background(any_host.store, b"small", b"y")
    try:
        small.result(10)
        assert any_host.getxattr(b"small", b"user.wormfs.state") == b"committed"
        assert not any(one.done() for one in closing)
    finally:
        sealing.go_on.set()
    for number, one in enumerate(closing):
        one.result(10)
        assert any_host.load(b"large%d" % number) == b"x" * 100


def test_files_sealed_at_once_share_the_places(any_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads have sealed, no more publish than there are places; the others come in their turn,
    as sealed durably as any that waits."""
    sealing = Sealing(any_host, monkeypatch)
    committer = any_host.stack.spool.committer
    attempt, lock, let_publish = committer.attempt, threading.Lock(), threading.Event()
    at_once, most, promised = 0, 0, []

    def slow_attempt(entry: Entry) -> object:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        assert let_publish.wait(30)
        try:
            return attempt(entry)
        finally:
            with lock:
                at_once -= 1

    sealer = any_host.stack.spool._sealer
    durably = sealer._journal_durably

    def journal(entry: Entry) -> None:
        durably(entry)
        promised.append(entry.id)

    monkeypatch.setattr(sealer, "_journal_durably", journal)
    monkeypatch.setattr(committer, "attempt", slow_attempt)
    closing = begin_large(any_host, sealing, 4)
    try:
        sealing.go_on.set()
        any_host.wait_for(lambda: committer.waiting == 2, "two wait for a place")
        waiting = set(any_host.on_loop(lambda: list(committer._backlog)))
        assert most == 2
        assert waiting <= set(promised)
    finally:
        sealing.go_on.set()
        let_publish.set()
    for one in closing:
        one.result(10)
    assert most == 2
    assert any_host.on_loop(lambda: (committer.waiting, committer._in_flight, committer._elsewhere)) == (
        0,
        set(),
        set(),
    )
