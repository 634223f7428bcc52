"""The file system without a kernel: what happens when names, handles and ends meet."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.archive import local_backend
from tests.support.faulty import FaultyBackend
from tests.support.inprocess import Host, options
from wormfs.audit import read
from wormfs.backends.base import Reader
from wormfs.errors import Busy, DigestMismatch, NotFound, OutOfSpace, Sealed, Unavailable
from wormfs.fs.attributes import AttributeChange, Caller
from wormfs.fs.inodes import ROOT_INODE
from wormfs.fs.stack import StatePlace
from wormfs.model import Key, ObjectInfo
from wormfs.worm.lifecycle import EntryState


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(**settings: float) -> Host:
        hosts.append(Host(local_backend(tmp_path), settings=options(**settings)).start())  # type: ignore[arg-type]
        return hosts[-1]

    yield make
    for host in hosts:
        if not host._ended.done():
            host.crash()


@pytest.fixture
def host(make: Callable[..., Host]) -> Host:
    return make()


def test_a_removed_file_never_answers_for_its_successor(host: Host) -> None:
    """Regression: the old inode read, opened and changed whatever had the name by then."""
    old = host.open(b"f", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    host.write(old, b"first")
    host.unlink(b"f")
    new = host.create(b"f")
    host.write(new, b"other")
    assert new.inode != old.inode
    host.close(new)
    with pytest.raises(Sealed):
        host.write(old, b"x")
    with pytest.raises(NotFound):
        host.read(old)
    with pytest.raises(NotFound):
        host.call(host.fs.open, old.inode, os.O_RDONLY, host.caller)
    with pytest.raises(NotFound):
        host.call(host.fs.setxattr, old.inode, b"user.x", b"1")
    host.call(host.fs.setattr, old.inode, AttributeChange(mode=0o100777))
    host.close(old)
    assert host.load(b"f") == b"other"
    assert host.stat(b"f").mode & 0o777 == 0o444
    assert b"user.x" not in host.xattrs(b"f")
    assert host.quarantined() == {}


def test_reading_back_works_before_and_after_the_commit(host: Host) -> None:
    file = host.open(b"f", os.O_RDWR | os.O_CREAT)
    host.write(file, b"content")
    assert host.read(file) == b"content"
    host.call(host.fs.flush, file.handle)
    assert host.xattrs(b"f")[b"user.wormfs.state"] == b"committed"
    assert host.read(file, 3) == b"tent"
    with pytest.raises(Sealed):
        host.write(file, b"x")
    host.close(file)


def test_a_second_flush_and_a_late_fsync_do_nothing(host: Host) -> None:
    file = host.create(b"f")
    host.write(file, b"content")
    for _ in range(3):
        host.call(host.fs.flush, file.handle)
    host.fsync(file)
    host.close(file)
    assert host.load(b"f") == b"content"


def test_flushes_at_the_same_moment(host: Host) -> None:
    for number in range(20):
        file = host.create(b"f%d" % number)
        host.write(file, b"content")
        closes = [host.background(host.call, host.fs.flush, file.handle) for _ in range(4)]
        for close in closes:
            close.result(10)
        assert host.xattrs(file.path)[b"user.wormfs.state"] == b"committed"
        host.close(file)


def test_release_alone_commits(host: Host) -> None:
    file = host.create(b"f")
    host.write(file, b"content")
    host.call(host.fs.release, file.handle)
    host.wait_for(lambda: host.stack.spool.get(Key(b"f")) is None, "it is committed")
    assert host.load(b"f") == b"content"


def test_writes_race_with_the_seal(host: Host) -> None:
    """Every byte that was taken is in the record, and its size is that of the file."""
    for number in range(30):
        path = b"race-%d" % number
        file = host.create(path)
        taken = 0
        closing = None
        for at in range(50):
            if at == 25:
                closing = host.background(host.call, host.fs.flush, file.handle)
            try:
                host.write(file, b"x" * 100, at * 100)
            except Sealed:
                break
            taken = (at + 1) * 100
        assert closing is not None
        closing.result(10)
        host.close(file)
        assert host.stat(path).size_bytes == taken == len(host.load(path))


def test_truncating_by_name_is_for_the_writer_alone(host: Host) -> None:
    """Regression: a second program could take away what the first had written."""
    file = host.create(b"f")
    host.write(file, b"content")
    stranger = Caller(uid=1000, gid=1000, pid=os.getpid())
    with pytest.raises(Busy):
        host.call(host.fs.setattr, file.inode, AttributeChange(size_bytes=0), stranger)
    host.call(host.fs.setattr, file.inode, AttributeChange(mode=0o100600), stranger)
    host.call(host.fs.setattr, file.inode, AttributeChange(size_bytes=4), host.caller)
    host.close(file)
    assert host.load(b"f") == b"cont"


def test_a_listing_does_not_end_where_files_were_discarded(host: Host) -> None:
    """Regression: a batch of nothing but discarded files looked like the end of the directory."""
    host.mkdir(b"d")
    host.store(b"d/record", b"content")
    writing = [host.create(b"d/w%d" % number) for number in range(600)]
    with host.inode_of(b"d") as inode:
        handle = host.call(host.fs.opendir, inode)
        listed = host.call(host.fs.readdir, handle, 0)
        assert [item.name for item in listed] == [b".", b".."]
        [*first, last] = host.call(host.fs.readdir, handle, 2)
        assert len(first) + 1 < 300, "a whole batch of discarded files lies ahead"
        for file in writing:
            host.unlink(file.path)
        found, position = [], last.next_position
        while items := host.call(host.fs.readdir, handle, position):
            found += [item.name for item in items]
            position = items[-1].next_position
        assert found == [b"record"]
        host.call(host.fs.releasedir, handle)
    for file in writing:
        host.close(file)
    assert set(host.list(b"d")) == {b"record"}


def test_a_dot_counts_as_a_lookup(host: Host) -> None:
    host.mkdir(b"d")
    found = host.call(host.fs.lookup, ROOT_INODE, b"d")
    assert host.call(host.fs.lookup, found.inode, b".").inode == found.inode
    assert host.call(host.fs.lookup, found.inode, b"..").inode == ROOT_INODE
    host.on_loop(host.fs.forget, found.inode, 1)
    assert host.call(host.fs.getattr, found.inode).inode == found.inode
    host.on_loop(host.fs.forget, found.inode, 1)
    with pytest.raises(NotFound):
        host.call(host.fs.getattr, found.inode)


def test_nothing_is_remembered_that_the_kernel_has_forgotten(host: Host) -> None:
    for number in range(50):
        host.store(b"f%d" % number, b"content")
        host.load(b"f%d" % number)
        file = host.create(b"gone%d" % number)
        host.unlink(file.path)
        host.close(file)
    host.list()
    # A listing counts nothing here: only the kernel takes what is listed.
    assert len(host.fs._inodes) == 1
    assert len(host.fs._handles) == 0
    assert list(host.stack.spool) == []


def test_touch_twice_and_the_one_more_open(make: Callable[..., Host]) -> None:
    host = make(empty_grace_s=60.0)
    host.store(b"f", b"")
    assert host.xattrs(b"f")[b"user.wormfs.state"] == b"settling"
    file = host.open(b"f", os.O_WRONLY | os.O_APPEND)
    with pytest.raises(Busy):
        host.open(b"f", os.O_WRONLY)
    host.write(file, b"now")
    host.close(file)
    assert host.load(b"f") == b"now"
    with pytest.raises(Sealed):
        host.open(b"f", os.O_WRONLY)
    host.store(b"g", b"")
    host.unlink(b"g")
    assert not host.exists(b"g")
    host.store(b"h", b"")
    host.advance(61.0)
    assert host.xattrs(b"h")[b"user.wormfs.state"] == b"committed"


def test_opening_again_that_fails_leaves_the_file_settling(
    make: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it stayed busy for ever, though nobody had it open."""
    host = make(settle_s=10.0)
    host.store(b"f", b"content")

    def fail(*arguments: object) -> None:
        raise OutOfSpace("a full disk")

    with monkeypatch.context() as patch:
        patch.setattr("wormfs.spool.slot.Slot.write_durably", fail)
        with pytest.raises(OutOfSpace):
            host.open(b"f", os.O_WRONLY)
    assert host.xattrs(b"f")[b"user.wormfs.state"] == b"settling"
    host.advance(11.0)
    assert host.load(b"f") == b"content"
    assert host.xattrs(b"f")[b"user.wormfs.state"] == b"committed"


def test_a_rename_that_fails_changes_nothing(
    make: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the caller was told no, and the file had the new name all the same."""
    host = make(settle_s=10.0)
    host.store(b"old", b"content")

    def fail(*arguments: object) -> None:
        raise OutOfSpace("a full disk")

    with monkeypatch.context() as patch:
        patch.setattr("wormfs.spool.slot.Slot.write_durably", fail)
        with pytest.raises(OutOfSpace):
            host.rename(b"old", b"new")
    assert not host.exists(b"new")
    assert host.load(b"old") == b"content"
    host.store(b"new", b"another")
    host.advance(11.0)
    assert (host.load(b"old"), host.load(b"new")) == (b"content", b"another")


def test_a_write_that_fails_fails_for_ever_and_never_becomes_a_record(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = host.create(b"f")
    host.write(file, b"content")

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OutOfSpace):
            host.write(file, b"more", 7)
    with pytest.raises(OutOfSpace):
        host.write(file, b"more", 7)
    with pytest.raises(OutOfSpace):
        host.fsync(file)
    with pytest.raises(OutOfSpace):
        host.close(file)
    assert not host.exists(b"f")
    assert host.quarantined() == {b"f": b"content"}
    host.store(b"f", b"again")


def test_the_writer_dies_before_release(host: Host) -> None:
    """A killed writer whose FLUSH did not come; its pid can still be seen."""
    writer = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    caller = Caller(uid=0, gid=0, pid=writer.pid)
    opened, _ = host.call(host.fs.create, ROOT_INODE, b"f", 0o644, os.O_WRONLY, caller)
    host.call(host.fs.write, opened.handle, 0, b"half")
    writer.kill()
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
    host.call(host.fs.release, opened.handle)
    writer.communicate()
    assert not host.exists(b"f")
    assert host.quarantined() == {b"f": b"half"}


def test_release_all_goes_on_after_one_that_fails(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = [host.create(b"f%d" % number) for number in range(3)]
    for file in files:
        host.write(file, b"content")
    original = host.fs.release

    async def release(number: int) -> None:
        if number == files[0].handle:
            raise ZeroDivisionError
        await original(number)

    monkeypatch.setattr(host.fs, "release", release)
    host.call(host.fs.release_all)
    assert "could not be finished" in caplog.text
    for file in files[1:]:
        host.wait_for(lambda file=file: host.stack.spool.get(Key(file.path)) is None, "it is committed")
        assert host.load(file.path) == b"content"
    entry = host.stack.spool.get(Key(b"f0"))
    assert entry is not None and entry.state is EntryState.WRITING


def test_a_damaged_file_is_refused_to_all_and_read_anew_when_it_is_whole(host: Host) -> None:
    host.store(b"f", b"content")
    host.store(b"other", b"content")
    with host.inode_of(b"f") as inode:
        opened = host.call(host.fs.open, inode, os.O_RDONLY, host.caller)
        assert host.call(host.fs.open, inode, os.O_RDONLY, host.caller).keep_cache
        assert host.on_loop(host.fs.damage.replace, {Key(b"f"), Key(b"unknown/to/the/kernel")}) == [inode]
        with pytest.raises(DigestMismatch):
            host.call(host.fs.read, opened.handle, 0, 10)
        with pytest.raises(DigestMismatch, match=r"/f: ALERT: verification found it damaged"):
            host.call(host.fs.open, inode, os.O_RDONLY, host.caller)
        with pytest.raises(Sealed):
            host.call(host.fs.open, inode, os.O_WRONLY, host.caller)
        assert host.load(b"other") == b"content"
        assert host.on_loop(host.fs.damage.replace, {Key(b"f")}) == []
        host.on_loop(host.fs.damage.replace, frozenset())
        again = host.call(host.fs.open, inode, os.O_RDONLY, host.caller)
        assert not again.keep_cache
        assert host.call(host.fs.read, again.handle, 0, 10) == b"content"
        assert host.call(host.fs.open, inode, os.O_RDONLY, host.caller).keep_cache
        with pytest.raises(DigestMismatch):
            host.call(host.fs.read, opened.handle, 0, 10)


def test_damage_that_is_found_while_a_file_is_being_opened(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.store(b"f", b"content")
    opens = host.backend.open

    def found_meanwhile(info: ObjectInfo) -> Reader:
        reader = opens(info)
        host.fs.damage.replace([info.key])
        return reader

    monkeypatch.setattr(host.backend, "open", found_meanwhile)
    with pytest.raises(DigestMismatch):
        host.load(b"f")


@pytest.mark.parametrize(("can_change", "asked"), [(False, [1, 1, 2]), (True, [1, 2, 3])])
def test_directories_in_which_nothing_can_change_are_remembered_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_change: bool, asked: list[int]
) -> None:
    """The kernel asks for them again before each new file."""
    backend = FaultyBackend(local_backend(tmp_path))
    backend.traits = dataclasses.replace(backend.traits, keeps_directory_attributes=can_change)
    host = Host(backend, settings=options()).start()
    try:
        host.mkdir(b"d")
        host.store(b"f", b"content")
        with host.inode_of(b"d") as inode, host.inode_of(b"f") as file:
            looks: list[Key] = []
            stat = backend.stat
            monkeypatch.setattr(backend, "stat", lambda key: (looks.append(key), stat(key))[1])
            counted = []
            for pause_s in (0.5, 0.6, 0.0):
                host.call(host.fs.getattr, inode)
                counted.append(len(looks))
                host.advance(pause_s)
            assert counted == asked
            looks.clear()
            host.call(host.fs.getattr, file)
            host.call(host.fs.getattr, file)
            assert looks == [b"f", b"f"], "a file may be erased elsewhere"
        host.call(host.fs.rmdir, ROOT_INODE, b"d")
        host.mkdir(b"d")
        looks.clear()
        with host.inode_of(b"d") as inode:
            host.call(host.fs.getattr, inode)
        assert looks == [b"d", b"d"], "what was removed is not remembered"
    finally:
        host.crash()


def test_whoever_is_refused_at_a_file_that_waits_for_its_commit_is_recorded(tmp_path: Path) -> None:
    """Regression: the refusal named no file in the log, and the audit trail had no line of it."""
    backend = FaultyBackend(local_backend(tmp_path))
    state = StatePlace(tmp_path / "state", "boot")
    host = Host(backend, settings=options(commit_timeout_s=1.0), state=state).start()
    try:
        backend.faults.fail("publish", Unavailable("down"))
        file = host.create(b"f")
        host.write(file, b"content")
        closing = host.background(host.close, file)
        host.wait_for(lambda: state_of(host, b"f") is EntryState.SEALED, "it is sealed")
        host.advance(2)
        with pytest.raises(Unavailable):
            closing.result(10)
        attempts: list[Callable[[], object]] = [
            lambda: host.change(b"f", AttributeChange(mode=0o100777)),
            lambda: host.change(b"f", AttributeChange(mtime_ns=1)),
            lambda: host.open(b"f", os.O_WRONLY),
            lambda: host.setxattr(b"f", b"user.x", b"1"),
            lambda: host.setxattr(b"f", b"user.wormfs.retain_until", b"2040-01-01"),
            lambda: host.rename(b"f", b"g"),
            lambda: host.unlink(b"f"),
        ]
        for attempt in attempts:
            with pytest.raises(Sealed) as caught:
                attempt()
            assert caught.value.key == b"f"
            host.on_loop(host.fs.refused, "try", 33, caught.value)
        trail = host.stack.records.trail
        assert trail is not None
        assert len(list(read(trail.path, trail.subject(Key(b"f")).encode()))) == len(attempts)
    finally:
        host.crash()


def state_of(host: Host, path: bytes) -> EntryState | None:
    entry = host.stack.spool.get(Key(path))
    return None if entry is None or entry.closing.locked() else entry.state
