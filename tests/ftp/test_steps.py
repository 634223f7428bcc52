"""The claim protocol cut off at every step, before the command arrives and after: no file is lost, doubled or
brought back, whichever host goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.conformance import storages_ftp
from tests.conformance.drivers import RETAIN_NS, S, make_record, spooled, store
from tests.conformance.storages_ftp import FtpStorage
from wormfs.backends.base import Backend
from wormfs.backends.ftp.backend import FtpBackend
from wormfs.backends.ftp.claims import Outcome
from wormfs.backends.ftp.replies import Reply
from wormfs.backends.ftp.server import Server
from wormfs.backends.ftp.session import DataStream, Session
from wormfs.clock import SystemClock
from wormfs.errors import AlreadyExists, NotFound, Unavailable, WormfsError
from wormfs.model import FindingKind, Key, Record, RetentionChange

T = TypeVar("T")
KEY = Key(b"job/exam.zip")
CONTENT = b"an archive\n" * 5000
MAX_STEPS = 60
STRIDES = {"vsftpd": 3, "proftpd": 7}
"""The suite cuts at some steps only, soak at each. proftpd lets nobody in for up to 0.4 s after each."""


class Cutter:
    """Breaks the connection at the n-th command or transfer, with the command lost or its reply."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at = 0
        self.arrives = False
        self.reached = False
        command, opened, finish = Session.command, Session._opened, DataStream.finish

        def one_by_one(session: Session, *lines: bytes) -> list[Reply]:
            return [session.command(line) for line in lines]

        def cut_command(session: Session, line: bytes) -> Reply:
            return self._step(session, lambda: command(session, line))

        def cut_opened(session: Session, connect: Callable[[], socket.socket]) -> DataStream | Reply:
            return self._step(session, lambda: opened(session, connect))

        def cut_finish(stream: DataStream) -> Reply:
            return self._step(stream._session, lambda: finish(stream))

        patch.setattr(Session, "command", cut_command)
        # Cut between any two, also of those that are sent at once.
        patch.setattr(Session, "commands", one_by_one)
        patch.setattr(Session, "_opened", cut_opened)
        patch.setattr(DataStream, "finish", cut_finish)

    @property
    def reached_now(self) -> bool:
        """The step where it cuts is over."""
        return bool(self.at) and self.count >= self.at

    def _step(self, session: Session, step: Callable[[], T]) -> T:
        self.count += 1
        if not self.at or self.count < self.at:
            return step()
        # From here on nothing arrives: the host is dead.
        if self.count == self.at and self.arrives:
            step()
        session.settle()
        session.broken = True
        raise Unavailable("cut off by the test")

    @contextlib.contextmanager
    def cutting(self, at: int, *, arrives: bool) -> Iterator[None]:
        self.count, self.at, self.arrives = 0, at, arrives
        self.reached = False
        try:
            yield
        finally:
            self.reached = self.count >= at
            self.at = 0


@pytest.fixture
def cutter() -> Iterator[Cutter]:
    with pytest.MonkeyPatch.context() as patch:
        yield Cutter(patch)


@pytest.fixture(params=sorted(STRIDES))
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FtpStorage]:
    """One server that says little and one that says all; the conformance tests run on four."""
    made = getattr(storages_ftp, request.param)(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def cuts(request: pytest.FixtureRequest) -> range:
    """At which step to cut off, in turn."""
    soak = os.environ.get("WORMFS_SOAK")
    return range(1, MAX_STEPS, 1 if soak else STRIDES[request.node.callspec.params["storage"]])


@pytest.fixture
def hosts(storage: FtpStorage) -> Iterator[tuple[FtpBackend, FtpBackend]]:
    """One that dies, and one that lives."""
    dying, living = storage.backend(patience_s=0.0), storage.backend()
    for host in (dying, living):
        host.start()
    living.make_directory(Key(b"job"), storages_ftp.NO_ATTRIBUTES)
    yield dying, living
    for host in (dying, living):
        host.close()


def cut_publish(
    cutter: Cutter, storage: FtpStorage, host: Backend, record: Record, at: int, arrives: bool
) -> bool:
    """Whether it came through. Nothing is tidied up, as after a crash."""
    with spooled(storage, CONTENT) as file, cutter.cutting(at, arrives=arrives):
        try:
            transfer = host.begin(KEY)
            transfer.advance(file, len(CONTENT))
            transfer.prepare(file, record)
            transfer.publish(file, record)
        except WormfsError:
            return False
    return True


@pytest.mark.parametrize("arrives", [False, True], ids=["request-lost", "reply-lost"])
def test_a_publish_cut_off_anywhere_is_finished_by_its_own_host(
    cutter: Cutter, storage: FtpStorage, hosts: tuple[Backend, Backend], cuts: range, arrives: bool
) -> None:
    dying, living = hosts
    for at in cuts:
        record = make_record(CONTENT)
        done = cut_publish(cutter, storage, dying, record, at, arrives)
        # No half file under the name, whatever happened.
        assert storage.visible() <= {b"job", KEY}
        if KEY in storage.visible():
            assert storage.plain(KEY) == CONTENT
        with spooled(storage, CONTENT) as file:
            again = living.resume(KEY)
            again.advance(file, len(CONTENT))
            info = again.publish(file, record)
        assert info.size_bytes == len(CONTENT)
        assert (storage.plain(KEY), living.record(KEY)) == (CONTENT, record)
        living.erase(KEY)
        assert KEY not in storage.visible()
        if done and not cutter.reached:
            return
    pytest.fail("the publish never came to its end")


@pytest.mark.parametrize("arrives", [False, True], ids=["request-lost", "reply-lost"])
def test_a_publish_cut_off_anywhere_leaves_the_name_to_one(
    cutter: Cutter, storage: FtpStorage, hosts: tuple[Backend, Backend], cuts: range, arrives: bool
) -> None:
    dying, living = hosts
    theirs = b"other bytes" * 100
    finished = 0
    for at in cuts:
        record = make_record(CONTENT)
        done = cut_publish(cutter, storage, dying, record, at, arrives)
        try:
            store(storage, living, KEY, theirs)
            expected = theirs
        except AlreadyExists:
            # The dead host had won: its file is whole, and has its record.
            expected = CONTENT
            finished += 1
            assert living.record(KEY) == record
        assert storage.plain(KEY) == expected
        # The dead host comes back with its spool.
        with spooled(storage, CONTENT) as file:
            if expected == CONTENT:
                living.resume(KEY).publish(file, record)
            else:
                with pytest.raises(AlreadyExists):
                    living.resume(KEY).publish(file, record)
        assert storage.plain(KEY) == expected
        living.erase(KEY)
        if done and not cutter.reached:
            assert finished > 0, "some cuts fall between the claim and the name"
            return
    pytest.fail("the publish never came to its end")


@pytest.mark.parametrize("arrives", [False, True], ids=["request-lost", "reply-lost"])
def test_an_erase_cut_off_anywhere_is_finished_and_brings_nothing_back(
    cutter: Cutter, storage: FtpStorage, hosts: tuple[Backend, Backend], cuts: range, arrives: bool
) -> None:
    dying, living = hosts
    for at in cuts:
        record = make_record(CONTENT)
        store(storage, living, KEY, CONTENT, record)
        living.change_retention(KEY, RetentionChange(extend=True, extend_to_ns=RETAIN_NS + at * S))
        done = True
        with cutter.cutting(at, arrives=arrives):
            try:
                dying.erase(KEY)
            except WormfsError:
                done = False
        if KEY not in storage.visible():
            # Another host may create the name at once, and the erased bytes stay away.
            if at % 2:
                store(storage, living, KEY, b"new")
                assert storage.plain(KEY) == b"new"
                with contextlib.suppress(NotFound):
                    living.erase(KEY)
            else:
                with contextlib.suppress(NotFound):
                    living.erase(KEY)
        else:
            assert storage.plain(KEY) == CONTENT
            living.erase(KEY)
        assert KEY not in storage.visible()
        assert [name for name in storage.hidden() if name.startswith(("e/", "c/"))] == []
        with pytest.raises(NotFound):
            living.stat(KEY)
        if done and not cutter.reached:
            return
    pytest.fail("the erase never came to its end")


@pytest.mark.parametrize("arrives", [False, True], ids=["request-lost", "reply-lost"])
def test_a_change_of_retention_cut_off_anywhere_is_made_whole_or_not_at_all(
    cutter: Cutter, storage: FtpStorage, hosts: tuple[Backend, Backend], cuts: range, arrives: bool
) -> None:
    dying, living = hosts
    record = make_record(CONTENT)
    store(storage, living, KEY, CONTENT, record)
    until_ns = RETAIN_NS
    for at in cuts:
        wanted_ns = until_ns + S
        done = True
        with cutter.cutting(at, arrives=arrives):
            try:
                dying.change_retention(KEY, RetentionChange(extend=True, extend_to_ns=wanted_ns))
            except WormfsError:
                done = False
        now = living.record(KEY)
        assert now is not None
        assert now.retention.retain_until_ns in ({wanted_ns} if done else {until_ns, wanted_ns})
        after = living.change_retention(KEY, RetentionChange(extend=True, extend_to_ns=wanted_ns))
        assert after == dataclasses.replace(record, retention=after.retention)
        assert after.retention.retain_until_ns == wanted_ns
        until_ns = wanted_ns
        if done and not cutter.reached:
            return
    pytest.fail("the change never came to its end")


def test_findings_tell_what_crashed_hosts_left(
    cutter: Cutter, storage: FtpStorage, hosts: tuple[Backend, Backend]
) -> None:
    dying, living = hosts
    assert list(living.findings()) == []
    store(storage, living, Key(b"kept.zip"), CONTENT)
    store(storage, living, Key(b"lost.zip"), CONTENT)
    storage.path_of(Key(b"lost.zip")).unlink()
    store(storage, living, Key(b"longer.zip"), CONTENT)
    storage.place_foreign(Key(b"longer.zip"), CONTENT + b"x")
    found = {finding.name: finding.kind for finding in living.findings()}
    assert found == {b"lost.zip": FindingKind.MISSING, b"longer.zip": FindingKind.ALTERED}
    (storage.root / "link").symlink_to("kept.zip")
    for at in range(12, MAX_STEPS):
        cut_publish(cutter, storage, dying, make_record(CONTENT), at, arrives=True)
        if KEY not in storage.visible() and living_claims(storage) == 4:
            break
    found = {finding.name: finding.kind for finding in living.findings()}
    assert found[KEY] is FindingKind.UNEXPECTED


def living_claims(storage: FtpStorage) -> int:
    return sum(name.startswith("c/") and name.count("/") == 1 for name in storage.hidden())


@pytest.mark.parametrize("late", ["erase", "_remove", "_take_away"])
def test_an_eraser_that_slept_does_not_erase_the_file_that_has_the_name_since(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend], late: str
) -> None:
    sleeping, living = hosts
    store(storage, living, KEY, CONTENT)
    with sleeping.connected().session() as session:
        server = sleeping.server(session)
        claim = sleeping._claims.read(server, KEY)
        assert claim is not None
        # It has looked whose the name is. Now somebody else erases the file, and it is made anew.
        living.erase(KEY)
        record = make_record(b"new")
        store(storage, living, KEY, b"new", record)
        getattr(sleeping._claims, late)(server, claim)
    assert storage.plain(KEY) == b"new"
    assert living.record(KEY) == record
    living.erase(KEY)
    assert KEY not in storage.visible()
    assert [name for name in storage.hidden() if name.startswith(("e/", "c/"))] == []


def test_bytes_that_another_host_gives_their_name_meanwhile_are_not_lost(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]
) -> None:
    """A rename that failed for the moment, and a host that is faster with the same publish."""
    dying, living = hosts
    storage.leave_claim(KEY, CONTENT, make_record(CONTENT))

    class Overtaken(Server):
        """Its own rename is refused; then the other host finishes, between two of its questions."""

        def move_file(self, source: bytes, target: bytes) -> tuple[Reply, int | None]:
            return Reply(450, "450 not now"), None

        def size(self, path: bytes) -> int | None:
            if path.endswith(b"/data"):
                with pytest.raises(AlreadyExists):
                    living.begin(KEY)
            return super().size(path)

    with dying.connected().session() as session:
        server = Overtaken(session, "archive", SystemClock())
        claim = dying._claims.read(server, KEY)
        assert claim is not None
        assert dying._claims.finish(server, claim) is Outcome.PUBLISHED
    assert (storage.plain(KEY), living.record(KEY)) == (CONTENT, claim.record)


def test_an_erase_that_is_repeated_spares_the_file_that_has_the_name_since(
    cutter: Cutter, storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend], cuts: range
) -> None:
    """Its reply was lost, and another host was faster than the second attempt."""
    _, living = hosts
    record, spared = make_record(b"new"), 0
    for at in cuts:
        store(storage, living, KEY, CONTENT)
        with interrupted_erase(cutter, storage, at, record) as (erasing, cut):
            erasing.erase(KEY)
        if not cutter.reached:
            assert spared, "it was never cut off in its middle"
            return
        if not cut:
            continue
        spared += 1
        assert KEY in storage.visible(), f"cut off at step {at}, the new file was erased"
        assert (storage.plain(KEY), living.record(KEY)) == (b"new", record)
        living.erase(KEY)
    pytest.fail("the erase never came to its end")


@contextlib.contextmanager
def interrupted_erase(
    cutter: Cutter, storage: FtpStorage, at: int, record: Record
) -> Iterator[tuple[FtpBackend, list[int]]]:
    """A host whose connection breaks at a step; before it goes on, the name has got a new file."""
    cut: list[int] = []
    host, other = storage.backend(), storage.backend()
    for one in (host, other):
        one.start()
    take = host.connected().take

    def take_again() -> Session:
        if cutter.reached_now:
            cutter.at = 0
            if not erase_begun(storage):
                return take()
            cut.append(at)
            with contextlib.suppress(NotFound):
                other.erase(KEY)
            store(storage, other, KEY, b"new", record)
        return take()

    host.connected().take = take_again  # type: ignore[method-assign]
    with cutter.cutting(at, arrives=True):
        yield host, cut
    for one in (host, other):
        one.close()


def erase_begun(storage: FtpStorage) -> bool:
    """The claim carries the mark, or is on its way out."""
    claim = storage.claim_of(KEY)
    return not claim.exists() or any(path.name.startswith("x-") for path in claim.iterdir())


def test_a_claim_whose_meta_cannot_be_read_for_the_moment_is_put_back(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]
) -> None:
    sleeping, living = hosts

    class Lying(Server):
        """Says that there is nothing, as for everything that goes wrong, where claims go to be deleted."""

        def read_small(self, path: bytes) -> bytes | None:
            return None if b"/.wormfs/e/" in path else super().read_small(path)

    store(storage, living, KEY, CONTENT)
    with sleeping.connected().session() as session:
        server = Lying(session, "archive", SystemClock())
        claim = sleeping._claims.read(server, KEY)
        assert claim is not None
        living.erase(KEY)
        record = make_record(b"new")
        store(storage, living, KEY, b"new", record)
        with pytest.raises(Unavailable):
            sleeping._claims._take_away(server, claim)
    assert (storage.plain(KEY), living.record(KEY)) == (b"new", record)


def test_a_file_that_cannot_be_seen_for_the_moment_keeps_its_claim(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend], tmp_path: Path
) -> None:
    """Its spool file is gone, so nobody could send it again."""
    _, living = hosts
    record = make_record(CONTENT)
    store(storage, living, KEY, CONTENT, record)
    away = storage.root / "away"
    storage.path_of(KEY).rename(away)
    for _ in range(2):
        transfer = living.resume(KEY)
        with pytest.raises(WormfsError, match="verification"):
            transfer.publish(None, record)
        transfer.abort()
    away.rename(storage.path_of(KEY))
    assert living.resume(KEY).publish(None, record).size_bytes == len(CONTENT)
    assert living.record(KEY) == record
