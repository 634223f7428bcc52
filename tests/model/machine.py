"""Random operations on the file system without FUSE and on the model; the whole tree compared after each."""

from __future__ import annotations

import datetime
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.crash.archive import local_backend, visible
from tests.model.rules import GRACE_S, Model, ModelFile, State
from tests.support.faulty import FaultyBackend
from tests.support.inprocess import Host, OpenFile, StillClock, options
from tests.support.powerloss import syncing_nothing
from wormfs.backends.base import Backend
from wormfs.clock import NS_PER_S
from wormfs.errors import Unavailable, WormfsError
from wormfs.fs.attributes import AttributeChange
from wormfs.fs.stack import StatePlace
from wormfs.model import Key, Period
from wormfs.records.records import RecordOptions
from wormfs.records.trustedclock import TrustedClock
from wormfs.spool.committer import RetryPolicy
from wormfs.worm import dates
from wormfs.worm.erasing import EraseMode
from wormfs.worm.lifecycle import EntryState
from wormfs.worm.patterns import Pattern
from wormfs.worm.policy import RetentionPolicy, RetentionRule

COMMIT_TIMEOUT_S = 10.0
# No sum of these meets the end of a window exactly.
STEPS_S = (3.5, 11.25, 61.0)

DIRECTORIES = (b"d", b"e", b"d/f")
NAMES = (b"a", b"b", b"c", b"d")
PATHS = tuple(
    folder + b"/" + name if folder else name for folder in (b"", b"d", b"e", b"d/f") for name in NAMES
)
ALL_PATHS = tuple(sorted({*PATHS, *DIRECTORIES}))


@dataclass(frozen=True)
class Pick:
    """Which path an operation takes: mostly one with which it can succeed, now and then any."""

    wild: bool
    number: int

    def of(self, likely: Iterable[bytes], possible: Sequence[bytes] = ALL_PATHS) -> bytes:
        choice = possible if self.wild else sorted(likely) or possible
        return choice[self.number % len(choice)]


picks = st.builds(Pick, st.integers(0, 7).map(lambda number: number == 7), st.integers(0, 999))
data = st.binary(min_size=1, max_size=40)
offsets = st.sampled_from((0, 0, 1, 7, 30, 5000))
modes = st.sampled_from((0o644, 0o600, 0o444, 0o640))
xattr_names = st.sampled_from((b"user.one", b"user.two"))

NEEDS_SERVER = (
    "begin",
    "resume",
    "publish",
    "make_directory",
    "remove_directory",
    "set_directory_attributes",
)


RECORDS = RecordOptions(
    policy=RetentionPolicy(
        otherwise=RetentionRule(Period()),
        rules=(RetentionRule(Period(seconds=30), match=Pattern("d/**")),),
    ),
    mode=EraseMode.EXPIRED,
)
"""A file below ``d`` stays for thirty seconds, others may go at once."""

MARGIN_S = 2.0
"""What seconds that are whole and clocks that go on at each look may come to."""


class WrongClock:
    """The wall clock that somebody sets; the boot clock goes on."""

    def __init__(self, clock: StillClock, model: Model) -> None:
        self._clock = clock
        self._model = model

    def now_ns(self) -> int:
        return self._clock.now_ns() + int(self._model.wall_off_s * NS_PER_S)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def boot_s(self) -> float:
        return self._clock.monotonic()


class FileSystemMachine(RuleBasedStateMachine):
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="wormfs-model-"))
        self.root = self.base / "root"
        self.root.mkdir()
        self.cleanup = ExitStack()
        self.cleanup.callback(shutil.rmtree, self.base)
        self.cleanup.enter_context(syncing_nothing())
        self.handles: list[tuple[OpenFile, ModelFile]] = []
        self.host: Host | None = None
        self.host_clock: StillClock | None = None
        self.start_s = 0.0
        self.boots = 0

    @initialize(settle_s=st.sampled_from((0.0, 10.0)))
    def begin(self, settle_s: float) -> None:
        self.model = Model(settle_s)
        self.host = self._new_host(StillClock().now_ns())

    def _trusted(self, backend: Backend) -> TrustedClock:
        """A clock that the test can set wrong. Each host is a boot of its own."""
        assert self.host_clock is not None
        self.boots += 1
        wrong = WrongClock(self.host_clock, self.model)
        path = self.base / "state" / "wrong-clock"
        return TrustedClock("archive", wrong, str(self.boots), path=path, backend_time_ns=lambda: None)

    def _new_host(self, start_ns: int) -> Host:
        backend = FaultyBackend(self.new_backend())
        if self.model.down:
            self._take_down(backend)
        settings = options(
            settle_s=self.model.settle_s,
            empty_grace_s=GRACE_S,
            commit_timeout_s=COMMIT_TIMEOUT_S,
            retry=RetryPolicy(first_delay_s=0.5, last_delay_s=2.0),
            records=RECORDS,
        )
        self.host_clock = StillClock(start_ns)
        self.start_s = start_ns / NS_PER_S - self.model.now
        state = StatePlace(self.base / "state", "boot")
        host = Host(
            backend,
            self.base / "spool",
            settings=settings,
            clock=self.host_clock,
            state=state,
            trusted=self._trusted,
        ).start()
        host.quiet()
        return host

    def new_backend(self) -> Backend:
        """Another storage is a subclass."""
        return local_backend(self.root)

    def visible(self) -> dict[bytes, bytes | None]:
        """Every path at the backend with its bytes, directories with None."""
        return visible(self.root)

    def _take_down(self, backend: FaultyBackend) -> None:
        for call in NEEDS_SERVER:
            backend.faults.fail(call, Unavailable("down"))

    def teardown(self) -> None:
        if self.host is not None:
            self.host.crash()
        self.cleanup.close()

    @property
    def real(self) -> Host:
        assert self.host is not None
        return self.host

    def both(self, model: Callable[[], object], real: Callable[[], object]) -> tuple[object, object] | None:
        """The same operation on both; the results, or None if both failed in the same way."""
        try:
            expected = model()
        except WormfsError as error:
            try:
                real()
            except WormfsError as found:
                assert type(found) is type(error), f"{found!r} instead of {error!r}"
                return None
            raise AssertionError(f"no {error!r}") from error
        return expected, real()

    def some_file(self, pick: Pick) -> bytes:
        return pick.of(self.model.files)

    def some_changeable(self, pick: Pick) -> bytes:
        return pick.of(path for path, file in self.model.files.items() if file.changeable)

    def some_free(self, pick: Pick, possible: Sequence[bytes] = PATHS) -> bytes:
        return pick.of((path for path in possible if self.model.may_be_made(path)), possible)

    # Files

    @rule(pick=picks, mode=modes)
    def create(self, pick: Pick, mode: int) -> None:
        path = self.some_free(pick)
        made = self.both(lambda: self.model.create(path, mode), lambda: self.real.create(path, mode))
        self._opened(made)

    @rule(pick=picks, content=data, mode=modes)
    def store(self, pick: Pick, content: bytes, mode: int) -> None:
        path = self.some_free(pick)
        made = self.both(lambda: self.model.create(path, mode), lambda: self.real.create(path, mode))
        self._opened(made)
        if made is not None:
            file, model = self.handles[-1]
            self.model.write(model, 0, content)
            self.real.write(file, content)
            self._close(len(self.handles) - 1)

    @precondition(lambda self: self.model.files)
    @rule(pick=picks, truncate=st.booleans())
    def open_to_write(self, pick: Pick, truncate: bool) -> None:
        settling = (path for path, file in self.model.files.items() if file.state is State.SETTLING)
        path = pick.of(settling)
        if path in self.model.directories:
            return  # the kernel answers that itself
        flags = os.O_WRONLY | (os.O_TRUNC if truncate else 0)
        made = self.both(lambda: self.model.reopen(path, truncate), lambda: self.real.open(path, flags))
        self._opened(made)

    def _opened(self, made: tuple[object, object] | None) -> None:
        if made is not None:
            model, file = made
            assert isinstance(model, ModelFile)
            assert isinstance(file, OpenFile)
            self.handles.append((file, model))

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 99), offset=offsets, content=data)
    def write(self, which: int, offset: int, content: bytes) -> None:
        file, model = self.handles[which % len(self.handles)]
        self.both(
            lambda: self.model.write(model, offset, content), lambda: self.real.write(file, content, offset)
        )

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 99), size=offsets)
    def truncate(self, which: int, size: int) -> None:
        file, model = self.handles[which % len(self.handles)]
        if model.state is not State.GONE:
            self.both(lambda: self.model.truncate(model, size), lambda: self.real.truncate(file, size))

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 99))
    def sync(self, which: int) -> None:
        file, _ = self.handles[which % len(self.handles)]
        self.real.fsync(file)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 99))
    def close(self, which: int) -> None:
        self._close(which % len(self.handles))

    def _close(self, which: int) -> None:
        file, model = self.handles.pop(which)
        if not self.model.close(model):
            self.real.close(file)
            return
        # Down: it is sealed, and the program gives up waiting.
        closing = self.real.background(self.real.close, file)
        self.real.wait_for(lambda: self._is_sealed(model.path), "it is sealed")
        self._advance(11.25)
        try:
            closing.result(10)
        except Unavailable:
            return
        raise AssertionError("close reported success though the backend is down")

    def _is_sealed(self, path: bytes) -> bool:
        entry = self.real.stack.spool.get(Key(path))
        return entry is not None and entry.state is EntryState.SEALED and not entry.closing.locked()

    # Names and attributes

    @precondition(lambda self: self.model.files)
    @rule(pick=picks)
    def unlink(self, pick: Pick) -> None:
        path = self.some_changeable(pick)
        self.both(lambda: self.model.unlink(path), lambda: self.real.unlink(path))

    @precondition(lambda self: self.model.files)
    @rule(pick=picks, new=picks)
    def rename(self, pick: Pick, new: Pick) -> None:
        self._rename(self.some_changeable(pick), self.some_free(new))

    @precondition(lambda self: self.model.directories)
    @rule(pick=picks, new=picks)
    def rename_directory(self, pick: Pick, new: Pick) -> None:
        self._rename(pick.of(self.model.directories), self.some_free(new, DIRECTORIES))

    def _rename(self, path: bytes, new_path: bytes) -> None:
        if not new_path.startswith(path + b"/"):  # EINVAL, says the kernel
            self.both(lambda: self.model.rename(path, new_path), lambda: self.real.rename(path, new_path))

    @precondition(lambda self: self.model.files)
    @rule(pick=picks, mode=modes)
    def chmod(self, pick: Pick, mode: int) -> None:
        path = self.some_file(pick)
        change = AttributeChange(mode=stat.S_IFREG | mode)
        self.both(lambda: self.model.chmod(path, mode), lambda: self.real.change(path, change))

    @precondition(lambda self: self.model.files)
    @rule(pick=picks, mtime_s=st.integers(-10, 2_000_000_000))
    def utime(self, pick: Pick, mtime_s: int) -> None:
        path = self.some_file(pick)
        mtime_ns = mtime_s * 1_000_000_000 + 1
        change = AttributeChange(mtime_ns=mtime_ns)
        self.both(lambda: self.model.utime(path, mtime_ns), lambda: self.real.change(path, change))

    @precondition(lambda self: self.model.files)
    @rule(pick=picks, name=xattr_names, value=data)
    def setxattr(self, pick: Pick, name: bytes, value: bytes) -> None:
        path = self.some_changeable(pick)
        self.both(
            lambda: self.model.setxattr(path, name, value), lambda: self.real.setxattr(path, name, value)
        )

    @precondition(lambda self: self.model.files)
    @rule(pick=picks, name=xattr_names)
    def removexattr(self, pick: Pick, name: bytes) -> None:
        path = self.some_file(pick)
        self.both(lambda: self.model.removexattr(path, name), lambda: self.real.removexattr(path, name))

    # Records

    def some_record(self, pick: Pick) -> bytes:
        return pick.of(p for p, file in self.model.files.items() if file.state is State.COMMITTED)

    @precondition(lambda self: self.model.files)
    @rule(pick=picks)
    def erase(self, pick: Pick) -> None:
        held = (path for path, file in self.model.files.items() if file.holds)
        path = pick.of(held) if pick.number % 3 == 0 else self.some_record(pick)
        file = self.model.files.get(path)
        until_s = file.until_s if file is not None else None
        left_s = 0.0 if until_s is None else until_s - self.model.trusted_s
        if 0 < abs(left_s) < MARGIN_S:
            self._advance(3.5)  # the model's clock is not that exact
        self.both(lambda: self.model.unlink(path), lambda: self.real.unlink(path))

    @precondition(lambda self: self.host is not None and self.model.clock_in_doubt and self.model.files)
    @rule(pick=picks)
    def erase_in_doubt(self, pick: Pick) -> None:
        path = self.some_record(pick)
        self.both(lambda: self.model.unlink(path), lambda: self.real.unlink(path))

    @precondition(lambda self: self.model.files)
    @rule(pick=picks, days=st.sampled_from((-400, 0, 1, 400, None)))
    def extend(self, pick: Pick, days: int | None) -> None:
        path = self.some_record(pick)
        until_s = None if days is None else float(int(self.model.now) + days * 86400)
        at_ns = None if until_s is None else int(until_s + round(self.start_s)) * NS_PER_S
        value = dates.show(at_ns).encode()
        self.both(
            lambda: self.model.extend(path, until_s),
            lambda: self.real.setxattr(path, b"user.wormfs.retain_until", value, self.real.root),
        )

    @precondition(lambda self: self.model.files)
    @rule(pick=picks, case=st.sampled_from(("AZ 1", "AZ 2")), root=st.integers(0, 3).map(bool))
    def hold(self, pick: Pick, case: str, root: bool) -> None:
        path = self.some_record(pick)
        who = self.real.root if root else self.real.caller
        self.both(
            lambda: self.model.hold(path, case, root),
            lambda: self.real.setxattr(path, b"user.wormfs.hold", case.encode(), who),
        )

    @precondition(lambda self: self.model.files)
    @rule(pick=picks, root=st.integers(0, 3).map(bool))
    def release(self, pick: Pick, root: bool) -> None:
        path = self.some_record(pick)
        who = self.real.root if root else self.real.caller
        self.both(
            lambda: self.model.release(path, root),
            lambda: self.real.removexattr(path, b"user.wormfs.hold", who),
        )

    @rule(days=st.sampled_from((-3, 0, 0, 3)))
    def set_clock(self, days: int) -> None:
        """Of the machine: what is believed must not follow."""
        self.model.wall_off_s = days * 86400.0
        self.real.stack.records.clock.judged()

    @precondition(lambda self: self.host is not None and self.model.clock_in_doubt)
    @rule()
    def accept_clock(self) -> None:
        self.model.accepted_off_s = self.model.wall_off_s
        self.real.stack.records.clock.accept("the test")

    # Directories

    @rule(pick=picks)
    def mkdir(self, pick: Pick) -> None:
        path = self.some_free(pick, DIRECTORIES)
        if not (self.model.down and self.model.exists(path)):  # the kernel looks it up first
            self.both(lambda: self.model.mkdir(path), lambda: self.real.mkdir(path))

    @precondition(lambda self: self.model.directories)
    @rule(pick=picks)
    def rmdir(self, pick: Pick) -> None:
        path = pick.of(self.model.directories)
        self.both(lambda: self.model.rmdir(path), lambda: self.real.rmdir(path))

    # Time and trouble

    @rule(seconds=st.sampled_from(STEPS_S))
    def time_goes_by(self, seconds: float) -> None:
        self._advance(seconds)

    def _advance(self, seconds: float) -> None:
        self.model.advance(seconds)
        self.real.advance(seconds)

    @rule()
    def outage(self) -> None:
        self.model.down = True
        assert isinstance(self.real.backend, FaultyBackend)
        self._take_down(self.real.backend)

    @precondition(lambda self: self.host is not None and self.model.down)
    @rule()
    def recovery(self) -> None:
        self.model.down = False
        assert isinstance(self.real.backend, FaultyBackend)
        self.real.backend.faults.clear()
        self._advance(3.5)

    @rule(orderly=st.booleans())
    def restart(self, orderly: bool) -> None:
        old = self.real
        if orderly:
            old.stop()
        else:
            old.crash()
        self.handles.clear()
        self.model.restart()
        self.host = self._new_host(old.clock.now_ns())

    # What must hold

    @invariant()
    def same_tree(self) -> None:
        if self.host is None:
            return
        tree = self.real.tree()
        assert set(tree) == self.model.files.keys() | self.model.directories
        for path in self.model.directories:
            assert stat.S_ISDIR(tree[path].mode), path
        for path, file in self.model.files.items():
            shown = self.real.stat(path)
            assert shown.size_bytes == tree[path].size_bytes, path
            # What the kernel may not keep, it asks for again: a bucket's listing tells no modes.
            assert shown.mode == tree[path].mode or not tree[path].cache_s, path
            assert shown.mode == stat.S_IFREG | file.shown_mode, f"{path!r}: {shown.mode:o}, {file}"
            assert shown.size_bytes == len(file.content), path
            if file.mtime_ns is not None:
                assert shown.mtime_ns == file.mtime_ns, path
            assert self.real.load(path) == file.content, path
            xattrs = self.real.xattrs(path)
            own = {name: value for name, value in xattrs.items() if not name.startswith(b"user.wormfs.")}
            assert own == file.xattrs, path
            assert xattrs[b"user.wormfs.state"].decode() == file.state.value, path
            if file.state is State.COMMITTED:
                self._same_retention(path, file, xattrs)

    def _same_retention(self, path: bytes, file: ModelFile, xattrs: dict[bytes, bytes]) -> None:
        until = dates.parse(xattrs[b"user.wormfs.retain_until"].decode(), datetime.UTC)
        until_s = None if until is None else until / NS_PER_S - round(self.start_s)
        if not file.dated:
            # When exactly it was sealed only the real one knows; from here on it must be as the model says.
            file.until_s, file.dated = until_s, True
            period_s = 30.0 if path.startswith((b"d/", b"d")) and b"/" in path else 0.0
            assert until_s is not None
            assert until_s <= self.model.now + period_s + abs(self.model.wall_off_s) + 4 * 86400
        assert until_s == file.until_s, path
        assert xattrs[b"user.wormfs.hold"].decode() == ",".join(sorted(file.holds)), path

    @invariant()
    def only_records_on_the_disk(self) -> None:
        if self.host is None:
            return
        records = {p: f.content for p, f in self.model.files.items() if f.state is State.COMMITTED}
        assert self.visible() == records | dict.fromkeys(self.model.directories)
        kept = []
        for entry in self.real.stack.quarantine.entries():
            assert entry.record is not None
            with self.real.stack.quarantine.open_data(entry.entry_id) as content:
                kept.append((bytes(entry.record.key), content.read()))
        assert sorted(kept) == sorted(self.model.quarantine)
