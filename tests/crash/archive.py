"""A run of several files against one host, and what must be true after it was cut off anywhere.

``Promise`` says what a caller was told. ``run`` makes a host do all kinds of things; ``examine`` starts a new
host over what is left, lets it finish, and compares.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.inprocess import INSTANCE_ID, Host, OpenFile, StillClock, options
from wormfs.backends import registry
from wormfs.backends.base import Backend
from wormfs.errors import OutOfSpace
from wormfs.fs.attributes import AttributeChange
from wormfs.model import Key

SETTLE_S = 10.0
GRACE_S = 60.0
LARGE = bytes(itertools.islice(itertools.cycle(range(251)), 5_000_003))

FOREVER = 1 << 60


class Fate(enum.Enum):
    """Where a promise says that something is."""

    STORED = "visible, whole, with its record, or soon to be"
    KEPT = "never visible, its bytes in quarantine"
    GONE = "not there at all, not even in quarantine"
    DISCARDED = "so, and discarded.log says who did it"


@dataclass(slots=True)
class Promise:
    """The caller was told that ``content`` is stored under one of ``paths``."""

    paths: tuple[bytes, ...]
    content: bytes | None
    """None: a directory."""
    since: int
    until: int = FOREVER
    mode: int | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    fate: Fate = Fate.STORED


@dataclass
class Ledger:
    """What was tried and what was promised, by the moments of the run."""

    now: Callable[[], int]
    promises: list[Promise] = field(default_factory=list)
    tried: dict[bytes, set[bytes | None]] = field(default_factory=dict)
    """Every content that may ever stand under a path; None for a directory."""

    def try_(self, path: bytes, content: bytes | None) -> None:
        self.tried.setdefault(path, set()).add(content)

    def promise(
        self,
        path: bytes,
        content: bytes | None,
        mode: int | None = None,
        xattrs: dict[bytes, bytes] | None = None,
        fate: Fate = Fate.STORED,
    ) -> Promise:
        promise = Promise((path,), content, self.now(), mode=mode, xattrs=xattrs or {}, fate=fate)
        self.promises.append(promise)
        return promise

    def withdraw(self, promise: Promise) -> None:
        promise.until = self.now()

    def between(self, first: int, last: int) -> list[Promise]:
        """What holds when the power fails at any of these moments: all of it, if the disk is the same."""
        return [promise for promise in self.promises if promise.since <= last and first < promise.until]

    def frozen(self) -> Ledger:
        """The same promises, all of them from the beginning and for ever."""
        promises = [replace(promise, since=0, until=FOREVER) for promise in self.promises]
        return Ledger(self.now, promises, self.tried)


def local_backend(root: Path) -> Backend:
    return registry.create("archive", "local", {"path": str(root)})


def make_host(root: Path, settle_s: float, start_ns: int | None = None) -> Host:
    clock = StillClock() if start_ns is None else StillClock(start_ns)
    settings = options(settle_s=settle_s, empty_grace_s=GRACE_S)
    return Host(local_backend(root), settings=settings, clock=clock)


class Actor:
    """Does things and writes down what was promised."""

    def __init__(self, host: Host, ledger: Ledger) -> None:
        self.host = host
        self.ledger = ledger

    def store(self, path: bytes, content: bytes, mode: int = 0o640) -> Promise:
        self.ledger.try_(path, content)
        file = self.host.create(path, mode)
        for start in range(0, len(content), 1 << 20):
            self.host.write(file, content[start : start + (1 << 20)], start)
        self.host.close(file)
        # The umask and the rule that records are read-only.
        return self.ledger.promise(path, content, mode=mode & 0o555 & ~0o022)

    def make_directories(self, path: bytes) -> None:
        parts = path.split(b"/")
        for count in range(1, len(parts) + 1):
            below = b"/".join(parts[:count])
            self.ledger.try_(below, None)
            self.host.mkdir(below, 0o750)
            self.ledger.promise(below, None, 0o750)

    def rename(self, promise: Promise, target: bytes) -> Promise:
        (path,) = promise.paths
        self.ledger.try_(target, promise.content)
        between = Promise((path, target), promise.content, self.ledger.now())
        self.ledger.withdraw(promise)
        self.ledger.promises.append(between)
        self.host.rename(path, target)
        after = self.ledger.promise(target, promise.content, promise.mode, promise.xattrs)
        self.ledger.withdraw(between)
        return after

    def replace_empty(self, promise: Promise, content: bytes) -> Promise:
        """Open a file in its window again, give it content."""
        (path,) = promise.paths
        self.ledger.try_(path, content)
        self.ledger.withdraw(promise)
        file = self.host.open(path, os.O_WRONLY | os.O_TRUNC)
        self.host.write(file, content)
        self.host.close(file)
        return self.ledger.promise(path, content, promise.mode)


def run_at_once(actor: Actor) -> None:
    """Without a settle window: each close is a commit."""
    host = actor.host
    actor.store(b"small", b"small content")
    actor.make_directories(b"job-1/deep/er")
    actor.store(b"job-1/deep/er/exam.zip", b"exam" * 5000)
    actor.ledger.try_(b"attributes", b"with attributes")
    file = host.create(b"attributes", 0o644)
    host.setxattr(b"attributes", b"user.origin", b"exam 7")
    host.write(file, b"with attributes")
    host.change(b"attributes", AttributeChange(mode=stat.S_IFREG | 0o600, mtime_ns=123_000_000_456))
    host.fsync(file)
    host.close(file)
    actor.ledger.promise(b"attributes", b"with attributes", 0o400, {b"user.origin": b"exam 7"})
    empty = actor.store(b"empty", b"")
    filled = actor.store(b"filled later", b"")
    actor.replace_empty(filled, b"here it is")
    _quarantine(host, b"failed")
    actor.ledger.promise(b"failed", b"not all of it", fate=Fate.KEPT)
    # An administrator decides: what was thrown away must not come back.
    _quarantine(host, b"thrown away")
    (entry,) = [e for e in host.stack.quarantine.entries() if e.record and e.record.key == b"thrown away"]
    host.stack.quarantine.discard(entry.entry_id, "the test", "to see it gone")
    actor.ledger.promise(b"thrown away", None, fate=Fate.DISCARDED)
    unlinked = host.create(b"unlinked")
    host.write(unlinked, b"unlinked" * 99)
    host.unlink(b"unlinked")
    host.close(unlinked)
    actor.store(b"large", LARGE)
    host.advance(GRACE_S + 1)
    assert host.getxattr(empty.paths[0], b"user.wormfs.state") == b"committed"
    host.mkdir(b"gone")
    actor.ledger.try_(b"gone", None)
    host.rmdir(b"gone")
    actor.ledger.promise(b"gone", None, fate=Fate.GONE)
    open_file: OpenFile = host.create(b"half")
    host.write(open_file, b"half" * 1000)
    host.fsync(open_file)
    actor.ledger.promise(b"half", b"half" * 1000, fate=Fate.KEPT)
    # Enough of them that slots and record files are used again.
    for number in range(20):
        actor.store(b"job-1/%d" % number, b"number %d " % number * (number * 40))


def run_settling(actor: Actor) -> None:
    """With a settle window: rsync, editors."""
    host = actor.host
    first = actor.store(b".first.XYZ123", b"first" * 3000)
    host.change(b".first.XYZ123", AttributeChange(mode=stat.S_IFREG | 0o604))
    first.mode = None
    actor.rename(first, b"first")
    second = actor.store(b"second", b"second")
    host.setxattr(b"second", b"user.origin", b"rsync")
    actor.ledger.withdraw(second)
    second = actor.ledger.promise(b"second", b"second", 0o440 & ~0o022, {b"user.origin": b"rsync"})
    actor.make_directories(b"new")
    actor.rename(second, b"new/second")
    again = actor.store(b"again", b"version one, longer than the other")
    actor.replace_empty(again, b"version two")
    host.advance(SETTLE_S + 1)
    actor.store(b"third", b"third")
    actor.store(b"zero", b"")
    host.advance(GRACE_S + 1)
    actor.store(b"late", b"late")


def _quarantine(host: Host, path: bytes) -> None:
    """A writer that failed on a write."""
    file = host.create(path)
    host.write(file, b"not all of it")
    entry = host.stack.spool.get(Key(path))
    assert entry is not None
    entry.write_error = OutOfSpace("as if the disk were full")
    with pytest.raises(OutOfSpace):
        host.close(file)


RUNS = {"at once": (run_at_once, 0.0), "settling": (run_settling, SETTLE_S)}


def examine(root: Path, promises: Iterable[Promise], tried: dict[bytes, set[bytes | None]]) -> None:
    """Start again over ``root``, let everything finish, and compare. Raises AssertionError."""
    # Long enough after the run that every window has ended.
    host = make_host(root, SETTLE_S, StillClock().now_ns() + int(1e12)).start()
    try:
        host.quiet()
        waiting = {entry.key: entry.last_error for entry in host.stack.spool}
        assert not waiting, f"not committed by itself: {waiting}"
        seen = visible(root)
        for promise in promises:
            _check_promise(host, promise, seen)
        for path, content in seen.items():
            assert path in tried, f"{path!r} is there, and nobody made it"
            assert content in tried[path], f"{path!r} holds {len(content or b'')} bytes that nobody finished"
            if content is not None:
                record = host.backend.record(Key(path))
                assert record is not None, f"{path!r} has no record"
                assert record.sha256 == hashlib.sha256(content).hexdigest(), path
                assert record.size_bytes == len(content), path
        assert set(host.tree()) == set(seen), "the mount shows something else than the disk"
    finally:
        host.stop()
    assert os.listdir(root / ".wormfs/spool" / INSTANCE_ID / "entries") == [], "staging files are left"


def _check_promise(host: Host, promise: Promise, seen: dict[bytes, bytes | None]) -> None:
    there = [path for path in promise.paths if path in seen]
    if promise.fate is not Fate.STORED:
        assert not there, f"{there} is visible"
        kept = [host.quarantined().get(path) for path in promise.paths]
        if promise.fate is Fate.KEPT:
            assert all(content == promise.content for content in kept), f"{promise.paths} was not kept"
        else:
            assert not any(kept), f"{promise.paths} has come back to quarantine"
        if promise.fate is Fate.DISCARDED:
            log = Path(host.stack.quarantine.directory, "discarded.log").read_bytes()
            assert promise.paths[0] in log, f"nobody knows who discarded {promise.paths}"
        return
    assert len(there) == 1, f"{promise.paths} was promised; there is {there}"
    (path,) = there
    if promise.content is None:
        assert seen[path] is None, f"{path!r} is no directory"
        shown = host.stat(path)
        assert stat.S_IMODE(shown.mode) == promise.mode, f"{path!r}: mode {shown.mode:o}"
        return
    assert seen[path] == promise.content, f"{path!r} has other bytes"
    assert host.load(path) == promise.content, f"{path!r} is read with other bytes"
    shown = host.stat(path)
    assert shown.size_bytes == len(promise.content), path
    if promise.mode is not None:
        assert stat.S_IMODE(shown.mode) == promise.mode, f"{path!r}: mode {shown.mode:o}"
    xattrs = host.xattrs(path)
    assert xattrs.get(b"user.wormfs.sha256") == hashlib.sha256(promise.content).hexdigest().encode(), path
    for name, value in promise.xattrs.items():
        assert xattrs.get(name) == value, f"{path!r}: {name!r}"


def visible(root: Path) -> dict[bytes, bytes | None]:
    """Everything under a backend's directory, hidden names left out; None for directories."""
    found: dict[bytes, bytes | None] = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(b".wormfs")]
        for name in folders:
            found[os.path.relpath(os.path.join(folder, name), top)] = None
        for name in files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = Path(os.fsdecode(path)).read_bytes()
    return found
