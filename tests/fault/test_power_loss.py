"""The power fails at every durable call of a host whose backend is a server: nothing accepted is lost.

The disk under the spool is one that forgets what was not synced (``tests.support.powerloss``); the server is
a real one and keeps what it had been given by then. ``tests/crash/test_power_loss.py`` is the same for the
local backend, whose spool and archive share a disk, ``tests/moodle/test_power_loss.py`` for Moodle's pool.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.conformance.drivers import STORAGES, Storage, store
from tests.fault.conftest import OPTIONS
from tests.fault.test_outages import DOWN, fail_close, write_new
from tests.support.faulty import FaultyBackend
from tests.support.inprocess import Host, StillClock
from tests.support.powerloss import Moment, PowerLoss, syncing_nothing
from wormfs.backends.base import Transfer
from wormfs.model import Key, ObjectInfo, Record

_SOAK = bool(os.environ.get("WORMFS_SOAK"))
_ONE_OF_EACH = ("moodle-postgresql", "seaweedfs", "vsftpd")
SERVERS = sorted(STORAGES.keys() - {"local", "local-immutable"}) if _SOAK else _ONE_OF_EACH
LARGE = random.Random(5).randbytes(6_000_003)
"""More than one part."""
NEEDED = (
    "spool.recordfile.write_durably:sync_data",
    "spool.sealing._sync_data:sync_file",
    "spool.store._prepare:sync_directory",
)
"""Syncs without which something accepted is lost."""


@dataclass(frozen=True)
class Published:
    """What the server was given, and between which moments."""

    key: Key
    content: bytes
    record: Record
    begun: int
    ended: int


@dataclass
class Run:
    """One run of a host, by the moments of its disk."""

    disk: PowerLoss
    published: list[Published] = field(default_factory=list)
    promised: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """What was acknowledged, or accepted with an error that says so, and since when."""
    kept: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """What is in quarantine for good, since when."""

    def promise(self, path: bytes, content: bytes) -> None:
        self.promised[path] = (self.disk.now, content)


class _Watched:
    """A transfer that writes down what it published."""

    def __init__(self, inner: Transfer, key: Key, run: Run) -> None:
        self._inner = inner
        self._key = key
        self._run = run
        self.advance, self.prepare, self.abort = inner.advance, inner.prepare, inner.abort

    def publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        assert spooled is not None
        content = os.pread(spooled.fileno(), record.size_bytes, 0)
        begun = self._run.disk.now
        info = self._inner.publish(spooled, record)
        self._run.published.append(Published(self._key, content, record, begun, self._run.disk.now))
        return info


class WatchedBackend(FaultyBackend):
    """As its base; ``run`` is told what was published."""

    run: Run

    def begin(self, key: Key) -> Transfer:
        return _Watched(super().begin(key), key, self.run)

    def resume(self, key: Key) -> Transfer:
        return _Watched(super().resume(key), key, self.run)


def record(top: Path, storage: Storage, forget: str | None = None) -> Run:
    """Files that go to the server at once, one that waits through an outage, one that is never finished."""
    spool = top / "disk" / "spool"
    spool.parent.mkdir(parents=True)
    run = Run(PowerLoss(spool.parent, forget))
    backend = WatchedBackend(storage.backend())
    backend.run = run
    with run.disk.recording():
        host = Host(backend, spool, OPTIONS).start()
        try:
            act(host, backend, run)
        finally:
            host.stop()
    return run


def act(host: Host, backend: WatchedBackend, run: Run) -> None:
    for path, content in ((b"small", b"small" * 99), (b"large", LARGE), (b"again", b"a slot used again")):
        host.store(path, content)
        run.promise(path, content)
    unfinished = write_new(host, b"half", b"half of it")
    host.fsync(unfinished)
    run.kept[b"half"] = (run.disk.now, b"half of it")
    waiting = write_new(host, b"waiting", b"accepted while the server is down")
    for call in ("publish", "resume"):
        backend.faults.fail(call, DOWN)
    fail_close(host, waiting)
    run.promise(b"waiting", b"accepted while the server is down")
    backend.faults.clear()
    host.advance(20.0)
    host.advance(20.0)
    host.store(b"last", b"last")
    run.promise(b"last", b"last")


def examine(
    run: Run, moment: Moment, given: list[Published], top: Path, make: Callable[[Path], Storage]
) -> None:
    """Lay out what disk and server held, start again, let everything finish, and compare."""
    top.mkdir()
    run.disk.rebuild(moment, top / "disk")
    storage = make(top)
    try:
        backend = storage.backend()
        backend.start()
        for each in given:
            store(storage, backend, each.key, each.content, each.record)
        backend.close()
        later = StillClock(StillClock().now_ns() + int(1e12))
        host = Host(FaultyBackend(storage.backend()), top / "disk" / "spool", OPTIONS, later)
        host.start()
        try:
            compare(run, moment, host, storage)
        finally:
            host.stop()
    finally:
        storage.remove()


def compare(run: Run, moment: Moment, host: Host, storage: Storage) -> None:
    host.advance(20.0)
    waiting = {entry.key: entry.last_error for entry in host.stack.spool}
    assert not waiting, f"not committed by itself: {waiting}"
    finished = {bytes(each.key): each.content for each in run.published}
    seen = set(host.tree())
    assert seen <= set(finished), "something is there that nobody finished"
    for path in seen:
        assert storage.plain(Key(path)) == host.load(path) == finished[path], f"{path!r} has other bytes"
    for path, (since, content) in run.promised.items():
        assert since > moment.number or finished[path] == content
        assert since > moment.number or path in seen, f"{path!r} was accepted and is not there"
    for path, (since, content) in run.kept.items():
        assert since > moment.number or host.quarantined().get(path) == content, f"{path!r} was not kept"


def moments(run: Run) -> Iterator[tuple[Moment, list[Published]]]:
    """Every state of the disk, with what the server has: without and with what was just on its way."""
    for _, group in itertools.groupby(run.disk.moments, key=lambda moment: list(moment.durable.items())):
        moment = list(group)[-1]
        certain = [each for each in run.published if each.ended <= moment.number]
        possible = [each for each in run.published if each.begun <= moment.number]
        yield moment, certain
        if possible != certain:
            yield moment, possible


def survive(run: Run, top: Path, make: Callable[[Path], Storage], every: int = 1) -> None:
    top.mkdir()
    for number, (moment, given) in list(enumerate(moments(run)))[::every]:
        try:
            with syncing_nothing():
                examine(run, moment, given, top / str(number), make)
        except BaseException as error:
            error.add_note(f"power lost at moment {moment.number}, {moment.after}; {len(given)} files stored")
            raise


@pytest.mark.parametrize("server", SERVERS)
def test_what_was_accepted_is_there_afterwards(server: str, tmp_path: Path) -> None:
    make = STORAGES[server]
    (tmp_path / "first").mkdir()
    storage = make(tmp_path / "first")
    try:
        run = record(tmp_path / "run", storage)
    finally:
        storage.remove()
    assert {bytes(each.key) for each in run.published} == run.promised.keys()
    survive(run, tmp_path / "after", make, every=1 if _SOAK else 3)


@pytest.mark.parametrize("forget", NEEDED)
def test_each_sync_taken_out_is_noticed(forget: str, tmp_path: Path) -> None:
    make = STORAGES["vsftpd"]
    storage = make(tmp_path)
    try:
        run = record(tmp_path / "run", storage, forget)
    finally:
        storage.remove()
    assert forget in run.disk.sites
    with pytest.raises(AssertionError, match=r"is not there|was not kept|other bytes|not committed"):
        # Backwards: what it shows in comes late.
        survive(run, tmp_path / "after", make, every=-1)
