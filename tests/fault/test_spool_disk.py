"""The disk under the spool: it does not sync, it is full, it turns read-only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.archive import local_backend, visible
from tests.support.daemon import Daemon, daemons
from tests.support.faulty import FaultyBackend
from tests.support.inprocess import Host, options
from wormfs import durability
from wormfs.errors import BackendFault, OutOfSpace, Unavailable, WormfsError
from wormfs.fs.stack import StackOptions
from wormfs.model import Key

__all__ = ["daemons"]


@contextlib.contextmanager
def hosted(root: Path, settings: StackOptions | None = None) -> Iterator[Host]:
    host = Host(local_backend(root), settings=settings or options()).start()
    try:
        yield host
    finally:
        if not host._ended.done():
            host.crash()


class FailingSync:
    """Lets some syncs of regular files fail."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.times = 0
        for name in ("sync_file", "sync_data"):
            patch.setattr(durability, name, self._around(name, getattr(durability, name)))
        self.only: set[str] = {"sync_file", "sync_data"}

    def _around(self, name: str, original: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            if self.times > 0 and name in self.only and stat.S_ISREG(os.fstat(fd).st_mode):
                self.times -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            original(fd)

        return sync


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> FailingSync:
    return FailingSync(monkeypatch)


@pytest.mark.parametrize(("what", "settle_s"), [("sync_file", 0.0), ("sync_file", 10.0), ("sync_data", 10.0)])
def test_a_sync_that_fails_at_close_is_told_and_the_file_never_published(
    what: str, settle_s: float, failing: FailingSync, tmp_path: Path
) -> None:
    with hosted(tmp_path, options(settle_s=settle_s)) as host:
        file = host.create(b"file")
        host.write(file, b"content")
        failing.only, failing.times = {what}, 1
        with pytest.raises(BackendFault):
            host.close(file)
        # RELEASE came after FLUSH and must not have tried again: a second sync would prove nothing.
        assert failing.times == 0
        assert not host.exists(b"file")
        assert host.quarantined() == {b"file": b"content"}
        host.advance(100.0)
        assert visible(tmp_path) == {}
        host.store(b"file", b"the name is free")
        host.advance(100.0)
        host.stop()
    with hosted(tmp_path) as host:
        assert visible(tmp_path) == {b"file": b"the name is free"}
        assert host.quarantined() == {b"file": b"content"}


def test_a_journal_that_does_not_sync_when_the_backend_is_down_too_is_told(
    failing: FailingSync, tmp_path: Path
) -> None:
    """What is published at once needs no durable promise; what is not gets none here."""
    backend = FaultyBackend(local_backend(tmp_path), inline=True)
    host = Host(backend, settings=options()).start()
    file = host.create(b"file")
    host.write(file, b"content")
    backend.faults.fail("publish", Unavailable("down"), times=1)
    failing.only, failing.times = {"sync_data"}, 1
    with pytest.raises(BackendFault):
        host.close(file)
    assert failing.times == 0
    assert host.quarantined() == {b"file": b"content"}
    host.store(b"file", b"the name is free")
    assert visible(tmp_path) == {b"file": b"the name is free"}
    host.stop()


def test_a_disk_that_fails_for_good_frees_the_name_and_publishes_nothing(
    failing: FailingSync, tmp_path: Path
) -> None:
    with hosted(tmp_path) as host:
        file = host.create(b"file")
        host.write(file, b"content")
        failing.times = 1000
        with pytest.raises(WormfsError):
            host.close(file)
        assert not host.exists(b"file")
        host.advance(100.0)
        assert visible(tmp_path) == {}
        failing.times = 0
        host.crash()
    with hosted(tmp_path) as host:
        host.quiet()
        # What the writer was told is that it failed: the bytes are kept, or the whole file is there.
        assert host.quarantined() == {b"file": b"content"} or visible(tmp_path) == {b"file": b"content"}


def test_a_failed_fsync_of_the_application_spoils_the_file(failing: FailingSync, tmp_path: Path) -> None:
    with hosted(tmp_path) as host:
        file = host.create(b"file")
        host.write(file, b"content")
        failing.only, failing.times = {"sync_file"}, 1
        with pytest.raises(BackendFault):
            host.fsync(file)
        with pytest.raises(BackendFault):
            host.fsync(file)
        with pytest.raises(BackendFault):
            host.write(file, b"more", 7)
        with pytest.raises(BackendFault):
            host.close(file)
        assert not host.exists(b"file")
        assert visible(tmp_path) == {}
        assert host.quarantined() == {b"file": b"content"}


def test_a_settled_file_that_cannot_be_sealed_is_kept(failing: FailingSync, tmp_path: Path) -> None:
    with hosted(tmp_path, options(settle_s=10.0)) as host:
        host.store(b"file", b"content")
        failing.only, failing.times = {"sync_file"}, 1
        host.advance(11.0)
        assert visible(tmp_path) == {}
        assert host.quarantined() == {b"file": b"content"}
        host.store(b"next", b"goes on")
        host.advance(11.0)
        assert visible(tmp_path) == {b"next": b"goes on"}


def test_a_write_that_fails_fails_for_ever_and_spoils_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hosted(tmp_path) as host:
        file = host.create(b"file")
        host.write(file, b"first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", _no_space)
            with pytest.raises(OutOfSpace):
                host.write(file, b"second", 5)
        with pytest.raises(OutOfSpace):
            host.write(file, b"third", 5)
        with pytest.raises(OutOfSpace):
            host.close(file)
        assert not host.exists(b"file")
        assert visible(tmp_path) == {}
        assert host.quarantined() == {b"file": b"first"}
        host.store(b"file", b"again")
        assert host.load(b"file") == b"again"


def _no_space(*arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_shrinking_needs_no_room(tmp_path: Path) -> None:
    kept = [0]
    settings = StackOptions(spool=options(settle_s=10.0).spool, reserve=lambda total: kept[0])
    with hosted(tmp_path, settings) as host:
        host.store(b"file", b"content")
        kept[0] = 1 << 60
        file = host.open(b"file", os.O_WRONLY | os.O_TRUNC)
        host.close(file)
        assert host.stat(b"file").size_bytes == 0


def test_below_the_reserve_create_and_write_say_so(tmp_path: Path) -> None:
    kept = [0]
    settings = StackOptions(spool=options().spool, reserve=lambda total: kept[0])
    with hosted(tmp_path, settings) as host:
        file = host.create(b"begun")
        host.write(file, b"x" * 100)
        done = host.create(b"done")
        host.write(done, b"content")
        kept[0] = 1 << 60
        host.on_loop(host.clock.trio.jump, 2.0)
        with pytest.raises(OutOfSpace):
            host.create(b"late")
        with pytest.raises(OutOfSpace):
            host.write(file, b"y" * 100, 100)
        # What was accepted comes to its end: the journal and the commit need no room.
        host.close(done)
        assert visible(tmp_path) == {b"done": b"content"}
        with pytest.raises(OutOfSpace):
            host.close(file)
        assert not host.exists(b"begun")
        kept[0] = 0
        host.store(b"begun", b"room again")


# On real small disks


@contextlib.contextmanager
def small_disk(base: Path, size_mib: int) -> Iterator[Path]:
    """A small ext4 in a file, mounted."""
    image, mountpoint = base / "image", base / "data" / "archive"
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", str(image)], check=True, capture_output=True
    )
    mountpoint.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mountpoint)], check=True)
    try:
        (mountpoint / "lost+found").rmdir()
        yield mountpoint
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=True)


PHP_COPY = r"""
error_reporting(0);
$ok = copy($argv[1], $argv[2]);
echo $ok ? "copied" : "failed";
"""


def php_copy(source: Path, target: Path) -> str:
    done = subprocess.run(
        ["php", "-r", PHP_COPY, "--", str(source), str(target)], capture_output=True, check=True
    )
    return done.stdout.decode()


@pytest.mark.parametrize("reserve", ["0", "8MiB"])
def test_php_copy_onto_a_full_disk_fails_and_leaves_nothing(
    reserve: str, daemons: Callable[..., Daemon]
) -> None:
    daemon = daemons()
    with small_disk(daemon.base, 64) as disk:
        daemon.write_config({"archive": daemon.local("archive", spool_reserve=reserve)})
        # Hidden from the mount like every name that begins so.
        ballast = disk / ".wormfs-ballast"
        ballast.write_bytes(bytes(4 << 20))
        daemon.start()
        mount = daemon.mountpoint / "archive"
        small, big = daemon.base / "small", daemon.base / "big"
        small.write_bytes(b"small" * 1000)
        big.write_bytes(os.urandom(100 << 20))
        try:
            assert php_copy(small, mount / "before") == "copied"
            assert php_copy(big, mount / "big") == "failed"
            assert not (mount / "big").exists()
            assert sorted(os.listdir(mount)) == ["before"]
            assert sorted(visible(disk)) == [b".wormfs-ballast", b"before"]
            assert (mount / "before").read_bytes() == small.read_bytes()
            if reserve != "0":
                left = os.statvfs(disk)
                # The metadata of the file system itself may take a little of it.
                assert left.f_bavail * left.f_frsize > (7 << 20), "the reserve was not respected"
            # The name is free; only room is missing.
            ballast.unlink()
            assert php_copy(small, mount / "big") == "copied"
            assert (mount / "big").read_bytes() == small.read_bytes()
            # With no room at all for its description, the bytes may wait for the next start.
            assert daemon.stop() == 0
            daemon.start()
            assert daemon.stop() == 0
            (spool,) = disk.glob(".wormfs/spool/*")
            (kept,) = (spool / "quarantine").glob("*.data")
            (description,) = (spool / "quarantine").glob("*.json")
            assert json.loads(description.read_text())["entry"]["size_bytes"] == kept.stat().st_size
            assert big.read_bytes().startswith(kept.read_bytes())
            assert os.listdir(spool / "entries") == []
        finally:
            daemon.clean_up()


def read_or_errno(path: Path) -> bytes | int | None:
    """The content, or why there is none."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error.errno


def test_a_disk_that_turns_read_only_is_told_at_create(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons()
    with small_disk(daemon.base, 64) as disk:
        daemon.write_config({"archive": daemon.local("archive", spool_reserve="0")})
        daemon.start()
        mount = daemon.mountpoint / "archive"
        (mount / "before").write_bytes(b"content")
        try:
            # The daemon has it open for writing all the time, so force it as the kernel does after an error.
            subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=False)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=False)
            with pytest.raises(OSError) as raised:
                (mount / "late").write_bytes(b"content")
            assert raised.value.errno in (errno.EIO, errno.EACCES, errno.EROFS, errno.ENOSPC), raised.value
            assert not (mount / "late").exists()
            # What the disk can still read, the mount can.
            assert read_or_errno(mount / "before") == read_or_errno(disk / "before")
            assert daemon.status()["backends"]["archive"]["state"] == "ready"
        finally:
            daemon.clean_up()


def test_key_of_an_entry_that_waits_in_quarantine_is_free(failing: FailingSync, tmp_path: Path) -> None:
    with hosted(tmp_path) as host:
        file = host.create(b"file")
        host.write(file, b"content")
        failing.only, failing.times = {"sync_file"}, 2  # the seal, and the quarantine's own
        with pytest.raises(WormfsError):
            host.close(file)
        assert host.stack.spool.get(Key(b"file")) is None
        host.crash()
    with hosted(tmp_path) as host:
        assert host.quarantined() == {b"file": b"content"}
        assert visible(tmp_path) == {}
