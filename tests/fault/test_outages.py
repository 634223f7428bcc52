"""A backend that is down, hangs, is slow, loses replies or is full: no accepted byte is lost."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading

import pytest

from tests.fault.conftest import Place
from tests.support.inprocess import Host, OpenFile, options
from wormfs.backends.base import Transfer
from wormfs.errors import (
    AlreadyExists,
    BackendFault,
    Busy,
    DirectoryNotEmpty,
    OutOfSpace,
    Sealed,
    Unavailable,
)
from wormfs.fs.attributes import AttributeChange
from wormfs.model import Key
from wormfs.spool.committer import RetryPolicy
from wormfs.worm.lifecycle import EntryState

DOWN = Unavailable("the server does not answer")


def take_down(place: Place) -> None:
    place.faults.fail("*", DOWN)


def write_new(host: Host, path: bytes, content: bytes = b"content") -> OpenFile:
    """A file that has its bytes and is still open."""
    file = host.create(path)
    host.write(file, content)
    return file


def close_too_late(host: Host, path: bytes, content: bytes, seconds: float = 11.0) -> None:
    """A program whose close ends with the error because the backend stays away."""
    file = host.create(path)
    host.write(file, content)
    fail_close(host, file, seconds)


def fail_close(host: Host, file: OpenFile, seconds: float = 11.0) -> None:
    closing = host.background(host.close, file)
    wait_sealed(host, file.path)
    with pytest.raises(concurrent.futures.TimeoutError):
        closing.result(0.05)
    host.advance(seconds)
    with pytest.raises(Unavailable, match="safe in the spool"):
        closing.result(10)


def wait_sealed(host: Host, path: bytes) -> None:
    def sealed() -> bool:
        entry = host.stack.spool.get(Key(path))
        return entry is not None and entry.state is EntryState.SEALED and not entry.closing.locked()

    host.wait_for(sealed, f"{path!r} is sealed")


def recover(place: Place, host: Host) -> None:
    """The backend is back, and everything that waited is there."""
    place.faults.clear()
    host.advance(20.0)
    host.advance(20.0)
    assert not list(host.stack.spool), "something still waits"


def test_create_on_a_backend_that_is_down_fails_at_once(place: Place, host: Host) -> None:
    take_down(place)
    with pytest.raises(Unavailable):
        host.create(b"file")
    place.faults.clear()
    assert not host.exists(b"file")
    host.store(b"file", b"now it works")
    assert place.storage.plain(Key(b"file")) == b"now it works"


def test_down_at_begin_alone_leaves_no_reservation(place: Place, host: Host) -> None:
    place.faults.fail("begin", DOWN, times=1)
    with pytest.raises(Unavailable):
        host.create(b"file")
    assert list(host.stack.spool) == []
    host.store(b"file", b"content")


def test_outage_longer_than_commit_timeout(place: Place, host: Host) -> None:
    file = host.create(b"file", 0o640)
    host.write(file, b"content")
    host.setxattr(b"file", b"user.origin", b"here")
    place.faults.fail("publish", DOWN)
    place.faults.fail("resume", DOWN)
    fail_close(host, file)
    # The name is taken, and everything is served from the spool.
    assert host.stat(b"file").size_bytes == 7
    assert host.stat(b"file").mode & 0o777 == 0o440
    assert host.load(b"file") == b"content"
    assert host.xattrs(b"file")[b"user.wormfs.state"] == b"sealed"
    assert host.xattrs(b"file")[b"user.origin"] == b"here"
    assert set(host.list()) == {b"file"}
    assert place.storage.visible() == set() or not any(p.endswith(b"/file") for p in place.storage.visible())
    with pytest.raises(Sealed):
        host.unlink(b"file")
    with pytest.raises(Sealed):
        host.rename(b"file", b"other")
    with pytest.raises(AlreadyExists):
        host.create(b"file")
    with pytest.raises(Sealed):
        host.open(b"file", os.O_WRONLY)
    with pytest.raises(Sealed):
        host.open(b"file", os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
    with pytest.raises(Sealed):
        host.change(b"file", AttributeChange(mode=0o100777))
    with pytest.raises(AlreadyExists):
        host.mkdir(b"file")
    recover(place, host)
    assert place.storage.plain(Key(b"file")) == b"content"
    assert host.load(b"file") == b"content"
    assert host.xattrs(b"file")[b"user.wormfs.state"] == b"committed"
    assert host.quarantined() == {}


def test_outage_shorter_than_commit_timeout_only_makes_writers_wait(place: Place, host: Host) -> None:
    files = [write_new(host, b"file-%d" % number) for number in range(5)]
    place.faults.fail("publish", DOWN)
    closing = [host.background(host.close, file) for file in files]
    for file in files:
        wait_sealed(host, file.path)
    host.advance(4.0)
    assert not any(close.done() for close in closing)
    place.faults.clear()
    host.advance(5.0)
    for close in closing:
        close.result(10)
    assert not list(host.stack.spool)


def test_a_publish_that_hangs_lets_the_writer_go_after_commit_timeout(place: Place, host: Host) -> None:
    file = write_new(host, b"file", b"content")
    place.faults.hang("publish")
    closing = host.background(host.close, file)
    host.wait_for(lambda: place.faults.calls["publish"] > 0, "publish hangs")
    # Whoever asks meanwhile gets an answer, and neighbours go on.
    assert host.stat(b"file").size_bytes == 7
    assert host.load(b"file") == b"content"
    with pytest.raises(Sealed):
        host.change(b"file", AttributeChange(mode=0o100600))
    host.on_loop(host.clock.trio.jump, 11.0)
    with pytest.raises(Unavailable):
        closing.result(10)
    assert host.stack.spool.get(Key(b"file")) is not None
    place.faults.clear()
    host.wait_for(lambda: host.stack.spool.get(Key(b"file")) is None, "it is committed")
    assert place.storage.plain(Key(b"file")) == b"content"


def test_a_slow_backend_is_waited_for(place: Place, host: Host) -> None:
    place.faults.delay("publish", 0.2)
    host.store(b"file", b"content")
    assert place.storage.plain(Key(b"file")) == b"content"


def test_a_lost_reply_does_not_become_already_exists(place: Place, host: Host) -> None:
    place.faults.lose_reply("publish", Unavailable("the connection broke"))
    file = write_new(host, b"file", b"content")
    closing = host.background(host.close, file)
    host.wait_for(lambda: place.faults.calls["publish"] > 0, "the first attempt")
    host.wait_for(lambda: host.stack.spool.committer.last_error is not None, "it failed")
    host.advance(5.0)
    closing.result(10)
    assert host.load(b"file") == b"content"
    assert host.quarantined() == {}


def test_a_lost_reply_before_a_restart(place: Place, host: Host) -> None:
    place.faults.lose_reply("publish", Unavailable("the connection broke"), times=None)
    close_too_late(host, b"file", b"content")
    host.crash()
    host = place.host()
    host.quiet()
    assert host.xattrs(b"file")[b"user.wormfs.state"] == b"committed"
    assert host.quarantined() == {}
    host.stop()
    assert host.entry_files() == set()


def test_a_backend_that_fills_up_keeps_what_was_accepted(place: Place, host: Host) -> None:
    place.faults.fill_up(after_bytes=150)
    host.store(b"fits", b"x" * 100)
    file = write_new(host, b"too much", b"y" * 100)
    closing = host.background(host.close, file)
    wait_sealed(host, b"too much")
    # It concerns this file alone.
    host.store(b"small", b"z" * 10)
    host.advance(11.0)
    with pytest.raises(Unavailable):
        closing.result(10)
    assert host.load(b"too much") == b"y" * 100
    place.faults.fill_up(after_bytes=1000)
    host.advance(20.0)
    assert place.storage.plain(Key(b"too much")) == b"y" * 100
    assert not list(host.stack.spool)


def order_of_publishes(place: Place) -> list[Key]:
    """Notes which key is published when, for transfers that begin from now on."""
    order: list[Key] = []
    backend = place.hosts[-1].backend
    lock = threading.Lock()
    for name in ("begin", "resume"):
        original = getattr(backend, name)

        def begin(key: Key, original: object = original) -> Transfer:
            transfer: Transfer = original(key)  # type: ignore[operator]
            publish = transfer.publish

            def noted(*arguments: object) -> object:
                info = publish(*arguments)  # type: ignore[arg-type]
                with lock:
                    order.append(key)
                return info

            transfer.publish = noted  # type: ignore[method-assign, assignment]
            return transfer

        setattr(backend, name, begin)
    return order


def close_in_other_order(place: Place, host: Host) -> list[Key]:
    """Create 0, 1, 2 …, close them otherwise while the backend is down; the order of the closes."""
    files = [host.create(b"file-%d" % number) for number in range(6)]
    for file in files:
        host.write(file, file.path)
    place.faults.fail("publish", DOWN)
    place.faults.fail("resume", DOWN)
    closed = [files[number] for number in (3, 0, 5, 1, 4, 2)]
    closing = []
    for file in closed:
        closing.append(host.background(host.close, file))
        wait_sealed(host, file.path)
        host.quiet()
    host.advance(11.0)
    for close in closing:
        with pytest.raises(Unavailable):
            close.result(10)
    return [Key(file.path) for file in closed]


def test_after_an_outage_commits_come_in_the_order_of_the_closes(place: Place, host: Host) -> None:
    order = order_of_publishes(place)
    closed = close_in_other_order(place, host)
    # One at a time, or threads would race each other to the note.
    host.stack.spool.committer._limit = 1
    place.faults.clear()
    host.advance(20.0)
    assert order == closed
    assert not list(host.stack.spool)


def test_entries_are_taken_up_in_the_order_of_the_closes(place: Place, host: Host) -> None:
    closed = close_in_other_order(place, host)
    host.crash()
    other = place.storage.backend()
    other.start()
    other.close()
    from wormfs.spool.committer import Committer  # the order in which it was handed the entries

    handed: list[Key] = []
    original = Committer.enqueue

    def noted(self: Committer, entry: object) -> None:
        handed.append(entry.key)  # type: ignore[attr-defined]
        original(self, entry)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Committer, "enqueue", noted)
        host = place.host()
        host.quiet()
    assert handed == closed


def test_after_an_outage_several_go_at_once(place: Place) -> None:
    host = place.host(options(commit_timeout_s=100.0))
    files = [write_new(host, b"file-%d" % number) for number in range(6)]
    place.faults.fail("publish", DOWN)
    place.faults.fail("resume", DOWN)
    closing = [host.background(host.close, file) for file in files]
    for file in files:
        wait_sealed(host, file.path)
    host.advance(3.0)
    place.faults.clear()
    at_once = min(4, host.backend.traits.connections)
    together = threading.Barrier(at_once)
    place.faults.delay("publish", 0.0, times=1)  # the one that asks whether it is back
    original = place.faults.take_room
    asked = threading.Event()

    def meet(size_bytes: int) -> None:
        if not asked.is_set():
            asked.set()
        elif not together.broken:
            try:
                together.wait(3.0)
            except threading.BrokenBarrierError:
                met.append(False)
            else:
                met.append(True)
                together.abort()
        original(size_bytes)

    met: list[bool] = []
    place.faults.take_room = meet  # type: ignore[method-assign]
    host.advance(10.0)
    for close in closing:
        close.result(10)
    assert True in met, "they went one after the other"


def test_waiting_entries_survive_restart_and_crash(place: Place, host: Host) -> None:
    place.faults.fail("publish", DOWN)
    close_too_late(host, b"file", b"content")
    host.stop()
    for end in ("crash", "stop"):
        host = place.host()
        place.faults.fail("resume", DOWN)
        host.advance(1.0)
        if host.stack.spool.get(Key(b"file")) is not None:
            assert host.load(b"file") == b"content"
        getattr(host, end)()
    host = place.host()
    host.quiet()
    assert place.storage.plain(Key(b"file")) == b"content"
    assert host.load(b"file") == b"content"
    host.stop()
    assert host.entry_files() == set()


def test_restart_while_the_backend_is_down(place: Place, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    place.faults.fail("publish", DOWN)
    close_too_late(host, b"file", b"content")
    host.crash()
    monkeypatch.setattr("tests.support.faulty.FaultyBackend.resume", lambda self, key: _raise_down())
    host = place.host()
    host.advance(100.0)
    assert host.load(b"file") == b"content"
    assert host.xattrs(b"file")[b"user.wormfs.state"] == b"sealed"
    with pytest.raises(AlreadyExists):
        host.create(b"file")
    monkeypatch.undo()
    host.advance(20.0)
    assert place.storage.plain(Key(b"file")) == b"content"


def _raise_down() -> Transfer:
    raise Unavailable("down")


def test_another_host_wins_with_identical_bytes(place: Place, host: Host) -> None:
    file = host.open(b"file", os.O_WRONLY | os.O_CREAT)
    host.write(file, b"the same")
    place.storage.place_foreign(Key(b"file"), b"the same")
    host.close(file)
    assert host.load(b"file") == b"the same"
    assert host.quarantined() == {}
    assert not list(host.stack.spool)


def test_another_host_wins_with_identical_bytes_against_o_excl(place: Place, host: Host) -> None:
    file = write_new(host, b"file", b"the same")
    place.storage.place_foreign(Key(b"file"), b"the same")
    with pytest.raises(AlreadyExists):
        host.close(file)
    assert place.storage.plain(Key(b"file")) == b"the same"


def test_another_host_wins_with_different_bytes(
    place: Place, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    file = host.open(b"file", os.O_WRONLY | os.O_CREAT)
    host.write(file, b"ours")
    place.storage.place_foreign(Key(b"file"), b"theirs, and other")
    with pytest.raises(AlreadyExists):
        host.close(file)
    assert place.storage.plain(Key(b"file")) == b"theirs, and other"
    assert host.load(b"file") == b"theirs, and other"
    assert host.quarantined() == {b"file": b"ours"}
    assert any("ALERT" in record.message for record in caplog.records if record.levelno >= logging.ERROR)


def test_another_host_wins_during_an_outage(place: Place, host: Host) -> None:
    place.faults.fail("publish", DOWN)
    close_too_late(host, b"different", b"ours")
    close_too_late(host, b"identical", b"the same")
    place.storage.place_foreign(Key(b"different"), b"theirs")
    place.storage.place_foreign(Key(b"identical"), b"the same")
    recover(place, host)
    assert host.load(b"different") == b"theirs"
    assert host.load(b"identical") == b"the same"
    assert host.quarantined() == {b"different": b"ours"}


def test_another_host_makes_a_directory_of_that_name(place: Place, host: Host) -> None:
    # As long as a directory of ext4 is, so that nobody takes it for the same bytes.
    file = host.open(b"file", os.O_WRONLY | os.O_CREAT)
    host.write(file, b"x" * 4096)
    other = place.storage.backend()
    other.start()
    from wormfs.model import DirectoryAttributes

    other.make_directory(Key(b"file"), DirectoryAttributes())
    other.close()
    with pytest.raises(AlreadyExists):
        host.close(file)
    assert host.quarantined() == {b"file": b"x" * 4096}


def test_another_host_removes_the_directory_meanwhile(place: Place, host: Host) -> None:
    host.mkdir(b"a")
    host.mkdir(b"a/b")
    file = write_new(host, b"a/b/file", b"content")
    with pytest.raises(DirectoryNotEmpty):
        host.rmdir(b"a/b")
    other = place.storage.backend()
    other.start()
    other.remove_directory(Key(b"a/b"))
    other.remove_directory(Key(b"a"))
    other.close()
    host.close(file)
    assert place.storage.plain(Key(b"a/b/file")) == b"content"


def test_another_host_removes_the_directory_of_a_waiting_entry(place: Place, host: Host) -> None:
    host.mkdir(b"a")
    place.faults.fail("publish", DOWN)
    close_too_late(host, b"a/file", b"content")
    other = place.storage.backend()
    other.start()
    other.remove_directory(Key(b"a"))
    other.close()
    recover(place, host)
    assert place.storage.plain(Key(b"a/file")) == b"content"


class Surprise(Exception):
    """What no driver should raise."""


@pytest.mark.parametrize("call", ["publish", "resume"])
def test_an_unforeseen_exception_in_a_driver_costs_nothing(
    call: str, place: Place, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_new(host, b"file", b"content")
    place.faults.fail("publish", DOWN, times=1 if call == "resume" else 0)

    def surprise() -> None:
        raise Surprise

    place.faults._add(call, 2, before=surprise)
    closing = host.background(host.close, file)
    wait_sealed(host, b"file")
    # Others are not concerned.
    assert host.load(b"file") == b"content"
    host.quiet()  # the first attempt is over: at a server it takes a while to take back what was sent ahead
    for _ in range(3):
        host.advance(3.0)
    closing.result(10)
    assert place.storage.plain(Key(b"file")) == b"content"
    host.store(b"next", b"goes on")


def test_a_file_that_is_refused_waits_alone(place: Place, host: Host) -> None:
    file = write_new(host, b"refused")
    place.faults.fail("publish", BackendFault("it makes no sense"), times=1)
    closing = host.background(host.close, file)
    wait_sealed(host, b"refused")
    host.store(b"neighbour", b"content")
    assert place.storage.plain(Key(b"neighbour")) == b"content"
    host.advance(5.0)
    closing.result(10)


def test_delays_between_attempts_grow_and_have_jitter() -> None:
    policy = RetryPolicy(first_delay_s=1.0, last_delay_s=16.0)
    for attempts, full in ((1, 1.0), (2, 2.0), (3, 4.0), (5, 16.0), (500, 16.0)):
        delays = {policy.delay_s(attempts) for _ in range(50)}
        assert all(full / 2 <= delay <= full for delay in delays)
        assert len(delays) > 10


def test_a_second_writer_is_refused_while_the_first_waits_for_the_backend(place: Place, host: Host) -> None:
    released = place.faults.hang("begin", times=1)
    creating = host.background(host.create, b"file")
    host.wait_for(lambda: host.stack.spool.get(Key(b"file")) is not None, "it is reserved")
    with pytest.raises((Busy, AlreadyExists)):
        host.create(b"file")
    released.set()
    file = creating.result(10)
    host.write(file, b"first")
    host.close(file)
    assert place.storage.plain(Key(b"file")) == b"first"


def test_no_room_at_begin_is_told_at_create(place: Place, host: Host) -> None:
    place.faults.fail("begin", OutOfSpace("full"), times=1)
    with pytest.raises(OutOfSpace):
        host.create(b"file")
    assert not host.exists(b"file")
