"""Order, delay and ends of the committer, in virtual time with a backend that does as it is told."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import trio
import trio.testing

from wormfs.backends.base import Backend, Guarantee, Traits
from wormfs.errors import AlreadyExists, BackendFault, NotFound, OutOfSpace, Unavailable, WormfsError
from wormfs.model import FileAttributes, Key, Kind, ObjectInfo, Record
from wormfs.spool.committer import Committer, Conflict, Published, RetryPolicy
from wormfs.spool.entry import Entry, Writer
from wormfs.worm.lifecycle import EntryState

POLICY = RetryPolicy(first_delay_s=1.0, last_delay_s=8.0)


class Clock:
    def now_ns(self) -> int:
        return int(trio.current_time() * 1e9)

    def monotonic(self) -> float:
        return trio.current_time()

    def boot_s(self) -> float:
        return trio.current_time()


OURS, THEIRS = b"ours" * 1024, b"them" * 1024


class ToldBackend:
    """Publishes nothing, notes everything, raises what it is told for a key (once for each in the list)."""

    name = "told"

    def __init__(self, connections: int = 1) -> None:
        self.traits = Traits(guarantee=Guarantee.ATOMIC, connections=connections)
        self.errors: dict[bytes, list[Exception]] = {}
        self.always: Exception | None = None
        self.attempts: list[bytes] = []
        self.aborted: list[bytes] = []
        self.there: ObjectInfo | None = None
        self.there_sha256 = ""
        self.there_bytes = OURS

    def resume(self, key: Key) -> ToldTransfer:
        return ToldTransfer(self, key)

    def stat(self, key: Key) -> ObjectInfo:
        if self.there is None:
            raise NotFound("nothing there")
        return self.there

    def record(self, key: Key) -> Record | None:
        assert self.there is not None and self.there.kind is Kind.FILE, "asked for a directory's record"
        return record(key, self.there_sha256)

    def open(self, info: ObjectInfo) -> ToldReader:
        return ToldReader(self.there_bytes)


class ToldReader:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]

    def close(self) -> None:
        pass


class ToldTransfer:
    def __init__(self, backend: ToldBackend, key: Key) -> None:
        self._backend, self._key = backend, key

    def publish(self, spooled: object, record: Record) -> None:
        self._backend.attempts.append(self._key)
        if self._backend.always is not None:
            raise self._backend.always
        if errors := self._backend.errors.get(self._key):
            raise errors.pop(0)

    def abort(self) -> None:
        self._backend.aborted.append(self._key)


def record(key: bytes, sha256: str = hashlib.sha256(OURS).hexdigest()) -> Record:
    return Record(key.decode(), sha256, 4096, FileAttributes(0o444, 0, 0, 0, 0), 0, 0, "1")


def sealed(key: bytes) -> Entry:
    return Entry(
        id=key.decode(), key=Key(key), state=EntryState.SEALED, mode=0o644, uid=0, gid=0,
        atime_ns=0, mtime_ns=0, ctime_ns=0, created_at_ns=0, writer=Writer(0, 0, 0.0),
        size_bytes=4096, record=record(key),
    )  # fmt: skip


class Desk:
    """A committer at work, with notes of what ended how and when."""

    def __init__(self, backend: ToldBackend) -> None:
        self.backend = backend
        self.ended: list[tuple[bytes, object, float]] = []
        self.committer = Committer(
            cast("Backend", backend), Clock(), ended=self._ended, release=lambda entry: None, policy=POLICY
        )

    def _ended(self, entry: Entry, outcome: Published | Conflict) -> None:
        self.ended.append((entry.key, outcome, trio.current_time()))
        entry.ended.set()

    @property
    def keys(self) -> list[bytes]:
        return [key for key, _, _ in self.ended]


def run(backend: ToldBackend, story: Callable[[Desk], Awaitable[None]]) -> Desk:
    desk = Desk(backend)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.committer.run)
            await story(desk)
            nursery.cancel_scope.cancel()

    # Threads finish long before the clock jumps.
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))
    return desk


def enqueue(desk: Desk, *keys: bytes) -> None:
    for key in keys:
        desk.committer.enqueue(sealed(key))


def test_in_the_order_in_which_they_were_closed() -> None:
    async def story(desk: Desk) -> None:
        enqueue(desk, b"b", b"c", b"a")
        await desk.committer.drained()

    desk = run(ToldBackend(), story)
    assert desk.keys == [b"b", b"c", b"a"]
    assert desk.committer.waiting == 0


def test_an_outage_is_asked_after_by_one_with_growing_delay_and_ends_in_order() -> None:
    backend = ToldBackend(connections=3)

    async def story(desk: Desk) -> None:
        backend.always = Unavailable("down")
        enqueue(desk, b"a", b"b", b"c", b"d")
        await trio.sleep(60)
        # Three at once at the beginning, then one at a time, the oldest.
        assert sorted(backend.attempts[:3]) == [b"a", b"b", b"c"]
        assert set(backend.attempts[3:]) == {b"a"}
        assert 60 / 8 <= len(backend.attempts) - 3 <= 20
        assert desk.committer.may_publish_now() is False
        assert "down" in (desk.committer.last_error or "")
        backend.always = None
        await desk.committer.drained()

    desk = run(backend, story)
    assert desk.keys[0] == b"a" and sorted(desk.keys) == [b"a", b"b", b"c", b"d"]
    assert max(at for _, _, at in desk.ended) <= 60 + 8.5


def test_a_short_outage_under_load_costs_a_short_delay() -> None:
    """Regression: each of many attempts that failed together doubled the delay."""
    backend = ToldBackend(connections=8)

    async def story(desk: Desk) -> None:
        backend.always = Unavailable("a blip")
        enqueue(desk, *(b"%d" % at for at in range(8)))
        await trio.sleep(0.3)
        assert len(backend.attempts) == 8
        backend.always = None
        await desk.committer.drained()

    desk = run(backend, story)
    assert max(at for _, _, at in desk.ended) < 1.5


def test_a_failure_of_one_does_not_hold_up_the_others() -> None:
    backend = ToldBackend()
    backend.errors[b"a"] = [OutOfSpace("too big"), BackendFault("odd")]

    async def story(desk: Desk) -> None:
        enqueue(desk, b"a", b"b", b"c")
        await desk.committer.drained()

    desk = run(backend, story)
    assert desk.keys == [b"b", b"c", b"a"]
    assert backend.attempts == [b"a", b"b", b"c", b"a", b"a"]
    assert 1.4 <= desk.ended[-1][2] <= 3.1
    assert backend.aborted == [b"a", b"a"], "each failed attempt leaves nothing behind"


def test_retry_now_forgets_the_delays() -> None:
    backend = ToldBackend()

    async def story(desk: Desk) -> None:
        backend.always = Unavailable("down")
        enqueue(desk, b"a")
        await trio.sleep(60)
        backend.always = None
        began = trio.current_time()
        desk.committer.retry_now()
        await desk.committer.drained()
        assert trio.current_time() - began < 0.5

    run(backend, story)


def test_a_bug_in_a_driver_costs_nothing_but_time(caplog: pytest.LogCaptureFixture) -> None:
    backend = ToldBackend()
    backend.errors[b"a"] = [ZeroDivisionError()]

    async def story(desk: Desk) -> None:
        enqueue(desk, b"a")
        await desk.committer.drained()

    assert run(backend, story).ended[0][1] is Published.OURS
    assert "unforeseen failure while committing a" in caplog.text


@pytest.mark.parametrize(
    ("kind", "size_bytes", "told", "content", "outcome"),
    [
        (Kind.FILE, 4096, OURS, OURS, Published.IDENTICAL),
        (Kind.FILE, 4096, THEIRS, OURS, Conflict),
        (Kind.FILE, 4096, OURS, THEIRS, Conflict),
        (Kind.FILE, 1, OURS, OURS, Conflict),
        (Kind.DIRECTORY, 4096, b"", b"", Conflict),
    ],
    ids=["the same", "by their record", "in spite of their record", "another size", "a directory"],
)
def test_somebody_else_has_the_name(
    kind: Kind, size_bytes: int, told: bytes, content: bytes, outcome: object
) -> None:
    backend = ToldBackend()
    backend.errors[b"a"] = [AlreadyExists("taken")]
    backend.there, backend.there_bytes = ObjectInfo(Key(b"a"), kind, size_bytes), content
    backend.there_sha256 = hashlib.sha256(told).hexdigest()

    async def story(desk: Desk) -> None:
        enqueue(desk, b"a")
        await desk.committer.drained()

    [(_, found, _)] = run(backend, story).ended
    assert found is outcome or (outcome is Conflict and isinstance(found, Conflict))


def test_delays_grow_to_their_end_and_are_spread() -> None:
    for attempts, full in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (10_000, 8.0)]:
        delays = {POLICY.delay_s(attempts) for _ in range(50)}
        assert full / 2 <= min(delays) <= max(delays) <= full
        assert len(delays) > 10


def test_errors_are_wormfs_errors() -> None:
    assert issubclass(Conflict, WormfsError)
