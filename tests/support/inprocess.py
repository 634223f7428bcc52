"""One daemon's layers below FUSE in this process, driven by plain test code.

``Host`` runs the real ``Stack`` on an event loop in a thread of its own and answers calls by path, the way
the kernel would: it looks names up component by component, keeps references and forgets them, sends FLUSH
and RELEASE. Its clock stands still until a test advances it, so nothing here sleeps.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import stat
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing

from wormfs.backends.base import Backend
from wormfs.clock import NS_PER_S
from wormfs.errors import AlreadyExists, NotADirectory, NotFound
from wormfs.fs.attributes import AttributeChange, Attributes, Caller
from wormfs.fs.filesystem import FileSystem
from wormfs.fs.inodes import ROOT_INODE
from wormfs.fs.stack import Stack, StackOptions, StatePlace
from wormfs.records.records import RecordOptions
from wormfs.records.trustedclock import TrustedClock
from wormfs.spool.committer import RetryPolicy
from wormfs.spool.spool import SpoolOptions
from wormfs.worm.lifecycle import EntryState

T = TypeVar("T")

INSTANCE_ID = "0123456789abcdef"
QUIET_S = 15.0
"""Real seconds after which a host that should have come to rest fails its test."""
START_NS = 1_700_000_000 * NS_PER_S


class StillClock:
    """Wall clock, monotonic clock and trio's own, all moved by the test alone.

    The wall clock goes one microsecond ahead at each look, so that no two events have the same time.
    """

    def __init__(self, start_ns: int = START_NS, speed: float = 0.0) -> None:
        """``speed``: virtual seconds for each real one; 0 stands still."""
        self.trio = trio.testing.MockClock(rate=speed)
        self._start_ns = start_ns
        self._looks = itertools.count()

    def now_ns(self) -> int:
        return self._start_ns + int(self.monotonic() * NS_PER_S) + next(self._looks) * 1000

    def monotonic(self) -> float:
        return self.trio.current_time()

    def boot_s(self) -> float:
        # Compared with the start times of real processes.
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def options(
    *,
    settle_s: float = 0.0,
    empty_grace_s: float = 60.0,
    commit_timeout_s: float = 60.0,
    retry: RetryPolicy | None = None,
    records: RecordOptions | None = None,
) -> StackOptions:
    """Settings for a host in virtual seconds; no reserve, so that a full machine does not fail tests."""
    spool = SpoolOptions(
        settle_s=settle_s,
        empty_grace_s=empty_grace_s,
        commit_timeout_s=commit_timeout_s,
        retry=retry or RetryPolicy(first_delay_s=1.0, last_delay_s=8.0),
    )
    return StackOptions(
        spool=spool,
        reserve=lambda total_bytes: 0,
        space_cache_s=0.0,
        records=records or RecordOptions(),
    )


@dataclass(slots=True)
class OpenFile:
    """A file that a test has open: what the kernel would keep for it."""

    handle: int
    inode: int
    path: bytes


class Host:
    """See the module's text. ``start`` it, and end it by ``stop`` or ``crash``; then start another."""

    def __init__(
        self,
        backend: Backend,
        spool_directory: str | Path | None = None,
        settings: StackOptions | None = None,
        clock: StillClock | None = None,
        state: StatePlace | None = None,
        trusted: Callable[[Backend], TrustedClock] | None = None,
    ) -> None:
        """``backend`` is not started. ``spool_directory``: where the driver leaves the choice.

        ``trusted`` makes the clock that retention believes, in the place of the one that runs with ``clock``.
        """
        directory = backend.spool_directory(INSTANCE_ID) or spool_directory
        assert directory is not None, "this driver needs a spool directory"
        self.backend = backend
        self.clock = clock or StillClock()
        self.stack: Stack
        self.spool_directory = Path(directory)
        self._settings = settings or options()
        self._state = state
        self._trusted = trusted
        self._scope: trio.CancelScope
        self._token: trio.lowlevel.TrioToken
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._stop_timeout_s: float | None = None
        self._kept: list[int] = []
        self._open_files = 0
        self._pool = concurrent.futures.ThreadPoolExecutor(16)
        # A program without sockets and without the file: its closes are last ones, told at FLUSH.
        self.writer = subprocess.Popen(
            ["sleep", "infinity"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.root = Caller(uid=0, gid=0, pid=self.writer.pid)
        self.caller = Caller(uid=1000, gid=1000, pid=self.writer.pid, umask=0o022)

    # Life

    def start(self) -> Host:
        """Start the backend, recover, begin the work behind. Raises what the daemon would meet."""
        try:
            self.backend.start()
            threading.Thread(target=self._run, name="host", daemon=True).start()
            self._ready.result(QUIET_S)
        except BaseException:
            self._reap()
            raise
        return self

    def stop(self, timeout_s: float = 0.0) -> None:
        """In order: drain for so many virtual seconds, tidy up, leave the rest."""
        self._stop_timeout_s = timeout_s
        self._end()

    def crash(self) -> None:
        """As kill -9 between two system calls: nothing is tidied up, nothing is finished."""
        self._stop_timeout_s = None
        self._end()
        self.stack.spool.end()
        self.stack.store._let_go()
        if self.stack.records.trail is not None:
            os.close(self.stack.records.trail._fd)

    def _end(self) -> None:
        self.on_loop(self._scope.cancel)
        try:
            self._ended.result(QUIET_S)
        finally:
            self._reap()

    def _reap(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.backend.close()
        self.writer.kill()
        self.writer.wait()

    def _run(self) -> None:
        try:
            trio.run(self._main, clock=self.clock.trio)
        except BaseException as error:  # noqa: BLE001 (told to whoever waits)
            if not self._ready.done():
                self._ready.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.stack = Stack(self.backend, self._settings, str(self.spool_directory), self.clock, self._state)
        if self._trusted is not None:
            self.stack.records.clock = self._trusted(self.backend)
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(self.stack.store._let_go)
                await self.stack.start(nursery)
                on_failure.pop_all()
            self._ready.set_result(None)
            await trio.sleep(float("inf"))
        if self._stop_timeout_s is not None:
            with trio.CancelScope(shield=True):
                await self.stack.stop(self._stop_timeout_s)

    # Calls into the loop

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run an async function on the host's loop; its result or error."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def on_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a plain function on the host's loop."""
        return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)

    def background(self, function: Callable[..., T], *arguments: Any) -> concurrent.futures.Future[T]:
        """A second program: ``function`` (a method of this host) in a thread."""
        return self._pool.submit(function, *arguments)

    def advance(self, seconds: float) -> None:
        """Let so much time go by, and what it sets off come to rest."""
        self.on_loop(self.clock.trio.jump, seconds)
        self.quiet()

    def quiet(self) -> None:
        """Wait until nothing more happens by itself at this point in time."""
        self.wait_for(self.is_quiet, "the host comes to rest")

    def is_quiet(self) -> bool:
        """Nothing is due now and nobody is at work."""
        committer = self.stack.spool.committer
        now = self.clock.now_ns()
        for entry in self.stack.spool:
            if entry.closing.locked():
                return False
            if entry.state is EntryState.SETTLING and (entry.settle_until_ns or 0) <= now:
                return False
        return not committer._in_flight and committer._next() is None

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Ask on the loop, again and again, for at most ``QUIET_S`` real seconds."""
        until = time.monotonic() + QUIET_S
        while not self.on_loop(condition):
            assert not self._ended.done(), f"waiting until {what}: the host has ended"
            assert time.monotonic() < until, f"not within {QUIET_S} s: {what}"
            time.sleep(0.001)

    @property
    def fs(self) -> FileSystem:
        return self.stack.filesystem

    # Names, as the kernel resolves them

    @contextlib.contextmanager
    def inode_of(self, path: bytes) -> Iterator[int]:
        """Look ``path`` up; the references are given back at the end."""
        held: list[int] = []
        inode = ROOT_INODE
        try:
            is_directory = True
            for name in path.split(b"/") if path else ():
                if not is_directory:
                    raise NotADirectory("not a directory", key=path)
                found = self.call(self.fs.lookup, inode, name)
                is_directory = stat.S_ISDIR(found.mode)
                held.append(found.inode)
                inode = found.inode
            yield inode
        finally:
            self._kept.extend(held)
            self._forget()

    def _forget(self) -> None:
        """Give references back: not while a file is open, whose directories the kernel remembers as well."""
        if not self._open_files:
            kept, self._kept = self._kept, []
            for number in kept:
                self.on_loop(self.fs.forget, number, 1)

    @contextlib.contextmanager
    def place_of(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The directory of ``path`` and the name in it."""
        folder, _, name = path.rpartition(b"/")
        with self.inode_of(folder) as parent:
            if not stat.S_ISDIR(self.call(self.fs.getattr, parent).mode):
                raise NotADirectory("not a directory", key=folder)
            yield parent, name

    def stat(self, path: bytes) -> Attributes:
        with self.inode_of(path) as inode:
            return self.call(self.fs.getattr, inode)

    def exists(self, path: bytes) -> bool:
        try:
            self.stat(path)
        except NotFound:
            return False
        return True

    # Files

    def open(self, path: bytes, flags: int = os.O_RDONLY, mode: int = 0o666) -> OpenFile:
        """open(2): also what the kernel decides itself about O_CREAT and O_EXCL."""
        with self.place_of(path) as (parent, name):
            try:
                found = self.call(self.fs.lookup, parent, name)
            except NotFound:
                if not flags & os.O_CREAT:
                    raise
                opened, found = self.call(self.fs.create, parent, name, mode, flags, self.caller)
                self._open_files += 1
                return OpenFile(opened.handle, found.inode, path)
            try:
                if flags & os.O_CREAT and flags & os.O_EXCL:
                    raise AlreadyExists("O_EXCL", key=path)
                opened = self.call(self.fs.open, found.inode, flags, self.caller)
            except BaseException:
                self.on_loop(self.fs.forget, found.inode, 1)
                raise
            self._open_files += 1
            return OpenFile(opened.handle, found.inode, path)

    def create(self, path: bytes, mode: int = 0o666) -> OpenFile:
        return self.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)

    def write(self, file: OpenFile, data: bytes, offset: int = 0) -> None:
        assert self.call(self.fs.write, file.handle, offset, data) == len(data)

    def truncate(self, file: OpenFile, size_bytes: int) -> None:
        self.call(self.fs.setattr, file.inode, AttributeChange(size_bytes=size_bytes))

    def fsync(self, file: OpenFile) -> None:
        self.call(self.fs.fsync, file.handle)

    def read(self, file: OpenFile, offset: int = 0, size: int = 1 << 30) -> bytes:
        return self.call(self.fs.read, file.handle, offset, size)

    def close(self, file: OpenFile) -> None:
        """close(2) of the last descriptor; RELEASE follows, whatever FLUSH says."""
        try:
            self.call(self.fs.flush, file.handle)
        finally:
            self.call(self.fs.release, file.handle)
            self._open_files -= 1
            self._kept.append(file.inode)
            self._forget()

    def store(self, path: bytes, content: bytes, mode: int = 0o666) -> None:
        """What ``cp`` does: create, write, close."""
        file = self.create(path, mode)
        try:
            if content:
                self.write(file, content)
        finally:
            self.close(file)

    def load(self, path: bytes) -> bytes:
        """The whole content."""
        file = self.open(path)
        try:
            content = bytearray()
            while part := self.read(file, len(content), 1 << 20):
                content += part
            return bytes(content)
        finally:
            self.close(file)

    def unlink(self, path: bytes) -> None:
        with self.place_of(path) as (parent, name):
            self.call(self.fs.unlink, parent, name, self.caller)

    def rename(self, path: bytes, target: bytes, flags: int = 0) -> None:
        with (
            self.place_of(path) as (parent, name),
            self.inode_of(path),
            self.place_of(target) as (new_parent, new_name),
        ):
            self.call(self.fs.rename, parent, name, new_parent, new_name, flags)

    def change(self, path: bytes, change: AttributeChange) -> Attributes:
        with self.inode_of(path) as inode:
            return self.call(self.fs.setattr, inode, change)

    def setxattr(self, path: bytes, name: bytes, value: bytes, caller: Caller | None = None) -> None:
        with self.inode_of(path) as inode:
            self.call(self.fs.setxattr, inode, name, value, caller or self.caller)

    def removexattr(self, path: bytes, name: bytes, caller: Caller | None = None) -> None:
        with self.inode_of(path) as inode:
            self.call(self.fs.removexattr, inode, name, caller or self.caller)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        with self.inode_of(path) as inode:
            return self.call(self.fs.getxattr, inode, name)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        with self.inode_of(path) as inode:
            names = self.call(self.fs.listxattr, inode)
            return {name: self.call(self.fs.getxattr, inode, name) for name in names}

    # Directories

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        with self.place_of(path) as (parent, name):
            found = self.call(self.fs.mkdir, parent, name, mode, self.caller)
            self.on_loop(self.fs.forget, found.inode, 1)

    def rmdir(self, path: bytes) -> None:
        with self.place_of(path) as (parent, name), self.inode_of(path):
            self.call(self.fs.rmdir, parent, name)

    def list(self, path: bytes = b"") -> dict[bytes, Attributes]:
        """The names in a directory, each with what readdir says of it."""
        with self.inode_of(path) as inode:
            handle = self.call(self.fs.opendir, inode)
            try:
                found: dict[bytes, Attributes] = {}
                position = 0
                while listed := self.call(self.fs.readdir, handle, position):
                    for item in listed:
                        position = item.next_position
                        if item.name not in (b".", b".."):
                            assert item.name not in found, f"{item.name!r} is listed twice"
                            found[item.name] = item.attributes
                return found
            finally:
                self.call(self.fs.releasedir, handle)

    def tree(self, path: bytes = b"") -> dict[bytes, Attributes]:
        """Every path below a directory."""
        found: dict[bytes, Attributes] = {}
        for name, attributes in self.list(path).items():
            below = path + b"/" + name if path else name
            found[below] = attributes
            if stat.S_ISDIR(attributes.mode):
                found |= self.tree(below)
        return found

    # The spool from outside

    def entry_files(self) -> set[str]:
        """What lies in ``entries/`` now."""
        return set(os.listdir(self.spool_directory / "entries"))

    def quarantined(self) -> dict[bytes, bytes]:
        """Key and bytes of everything in quarantine."""
        found = {}
        for entry in self.stack.quarantine.entries():
            if entry.size_bytes is None:
                continue  # half discarded when the machine stopped
            with self.stack.quarantine.open_data(entry.entry_id) as data:
                found[entry.record.key if entry.record else b""] = data.read()
        return found
