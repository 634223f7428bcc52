"""What an administrator asks of a running spool: the real layers, and a backend that fails as asked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty import FaultyBackend
from tests.support.inprocess import Host, StillClock, options
from wormfs.backends import registry
from wormfs.daemon import spoolrequests
from wormfs.daemon.spoolrequests import SpoolRequests
from wormfs.errors import (
    AlreadyExists,
    Busy,
    DigestMismatch,
    InvalidArgument,
    NotFound,
    Refused,
    Sealed,
    Unavailable,
)
from wormfs.model import Key
from wormfs.spool.administration import Administration, Attempted, Outcome, Promise
from wormfs.spool.committer import RetryPolicy
from wormfs.spool.quarantine import Quarantine
from wormfs.worm.lifecycle import EntryState

# In virtual seconds: longer than any test, so that only a retry explains an attempt.
RARELY = options(commit_timeout_s=1.0, retry=RetryPolicy(first_delay_s=5000.0, last_delay_s=5000.0))


class Office:
    """A host with somebody who administers its spool."""

    def __init__(self, tmp_path: Path):
        self.data = tmp_path / "data"
        self.data.mkdir(exist_ok=True)
        self.backend = FaultyBackend(registry.create("exams", "local", {"path": str(self.data)}))
        # The virtual clock runs as the real one: waiting for an attempt is part of what is tested.
        self.host = Host(self.backend, tmp_path / "spool", RARELY, StillClock(speed=1.0)).start()
        stack = self.host.stack
        self.administration = Administration(self.backend, stack.spool, stack.store, self.host.clock)

    def retry(self, ids: list[str] | None = None) -> list[Attempted]:
        return self.host.call(self.administration.retry, ids, 10.0)

    def restore(self, entry_id: str, promise: Promise = Promise.AS_SEALED) -> Attempted:
        return self.host.call(self.administration.restore, entry_id, promise, "uid 0 (root)", 10.0)

    def seal(self, *names: bytes) -> list[str]:
        """Close files while the backend is away; their ids."""
        self.backend.faults.fail("publish", Unavailable("down", backend="exams"))
        for name in names:
            with pytest.raises(Unavailable):
                self.host.store(name, b"content of " + name)
        self.host.wait_for(lambda: not self.host.stack.spool.committer._in_flight, "they were tried")
        return [facts.entry_id for facts in self.administration.live("", 100)]

    def conflict(self, name: bytes, content: bytes = b"ours") -> str:
        """Another host is faster with other bytes; the id of ours, in quarantine."""
        file = self.host.create(name)
        self.host.write(file, content)
        (self.data / name.decode()).write_bytes(b"theirs")
        with pytest.raises(AlreadyExists):
            self.host.close(file)
        return self.only_quarantined()

    def failed(self, name: bytes, content: bytes = b"half") -> str:
        """A writer that was killed; the id of its bytes."""
        file = self.host.create(name)
        self.host.write(file, content)
        [entry] = [entry for entry in self.host.stack.spool if entry.key == name]

        async def end() -> None:
            async with entry.closing:
                await self.host.stack.spool.quarantine(entry, "killed")

        self.host.call(end)
        self.host.close(file)
        return entry.id

    def only_quarantined(self) -> str:
        [entry] = self.host.stack.quarantine.entries()
        return entry.entry_id


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.backend.faults.clear()
    office.host.stop()


def test_retry_commits_all_at_once_when_the_backend_is_back(office: Office) -> None:
    ids = office.seal(b"a", b"b", b"c")
    still = office.retry()
    assert {one.outcome for one in still} == {Outcome.WAITING}
    assert any("down" in (one.error or "") for one in still)
    office.backend.faults.clear()
    assert {one.entry_id: one.outcome for one in office.retry(ids)} == dict.fromkeys(ids, Outcome.COMMITTED)
    assert (office.data / "b").read_bytes() == b"content of b"
    assert office.retry(ids[:1]) == [Attempted(ids[0], Outcome.GONE)]
    assert office.retry() == []


def test_retry_does_not_wait_for_what_waits_behind_an_outage(office: Office) -> None:
    ids = office.seal(b"a", b"b", b"c")
    begun = time.monotonic()
    assert [one.outcome for one in office.retry(ids[2:])] == [Outcome.WAITING]
    assert time.monotonic() - begun < 5


def test_live_entries_come_in_pages_in_order(office: Office) -> None:
    ids = office.seal(*(b"f%d" % number for number in range(5)))
    assert ids == sorted(ids)
    facts = office.administration.live(ids[1], 2)
    assert [one.entry_id for one in facts] == ids[2:4]
    assert {one.state for one in facts} == {EntryState.SEALED}
    first = office.administration.live("", 1)[0]
    assert (first.attempts, first.size_bytes) == (1, len(b"content of f0"))


def test_a_conflict_is_solved_when_the_other_file_is_gone(office: Office) -> None:
    entry_id = office.conflict(b"f")
    with pytest.raises(AlreadyExists, match="the name is taken"):
        office.restore(entry_id)
    assert office.host.quarantined() == {b"f": b"ours"}
    (office.data / "f").unlink()
    assert office.restore(entry_id) == Attempted(entry_id, Outcome.COMMITTED)
    assert office.host.load(b"f") == b"ours"
    assert office.host.quarantined() == {}


def test_the_same_bytes_at_the_backend_are_not_stored_twice(office: Office) -> None:
    entry_id = office.conflict(b"f")
    (office.data / "f").unlink()
    office.host.store(b"f", b"ours")
    with pytest.raises(AlreadyExists, match="these very bytes; discard"):
        office.restore(entry_id)


def test_damaged_bytes_do_not_come_back_as_what_was_sealed(office: Office) -> None:
    entry_id = office.conflict(b"f")
    (office.data / "f").unlink()
    path = Path(office.host.stack.quarantine.directory) / f"{entry_id}.data"
    with path.open("r+b") as file:
        file.write(b"OURS")
    with pytest.raises(DigestMismatch, match="as they are"):
        office.restore(entry_id)
    assert not (office.data / "f").exists()
    assert office.restore(entry_id, Promise.AS_IS).outcome is Outcome.COMMITTED
    assert office.host.load(b"f") == b"OURS"


def test_never_sealed_bytes_need_a_decision(office: Office) -> None:
    entry_id = office.failed(b"f")
    with pytest.raises(Refused, match=r"never sealed \(killed\).*--as-is"):
        office.restore(entry_id)
    office.backend.faults.fail("publish", Unavailable("down"))
    assert office.restore(entry_id, Promise.AS_IS).outcome is Outcome.WAITING
    assert office.host.load(b"f") == b"half", "served from the spool"
    office.backend.faults.clear()
    assert office.retry([entry_id])[0].outcome is Outcome.COMMITTED
    record = office.backend.record(Key(b"f"))
    assert record is not None and record.size_bytes == 4 and record.entry_id == entry_id


def test_an_unreachable_backend_changes_nothing(office: Office) -> None:
    entry_id = office.failed(b"f")
    office.backend.faults.fail("stat", Unavailable("down"))
    with pytest.raises(Unavailable):
        office.restore(entry_id, Promise.AS_IS)
    assert office.host.quarantined() == {b"f": b"half"}


@contextlib.contextmanager
def slow_restore(office: Office) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The durable part of coming back: tells that it has begun, and waits until it may go on."""
    store, begun, go_on = office.host.stack.store, threading.Event(), threading.Event()
    real = store.restore

    def slowly(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "restore", slowly)
        yield begun, go_on


def test_the_name_is_reserved_while_an_entry_comes_back(office: Office) -> None:
    entry_id = office.failed(b"f")

    async def create() -> Any:
        return await office.host.fs.create(1, b"f", 0o644, 0, office.host.caller)

    with slow_restore(office) as (begun, go_on):
        restoring = office.host.background(office.restore, entry_id, Promise.AS_IS)
        assert begun.wait(30)
        with pytest.raises(Busy):
            office.host.call(create)
        with pytest.raises(AlreadyExists):
            office.restore(entry_id, Promise.AS_IS)
        go_on.set()
        assert restoring.result(30).outcome is Outcome.COMMITTED


def test_a_failed_restore_gives_the_name_back(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_id = office.failed(b"f")

    def fail(*_: object) -> None:
        raise Unavailable("the disk is away")

    monkeypatch.setattr(office.host.stack.store, "restore", fail)
    with pytest.raises(Unavailable):
        office.restore(entry_id, Promise.AS_IS)
    office.host.store(b"f", b"new")
    assert office.host.quarantined() == {b"f": b"half"}


def test_discard_is_for_quarantine_only(office: Office) -> None:
    [sealed] = office.seal(b"s")
    with pytest.raises(Sealed, match="on its way"):
        office.host.call(office.administration.discard, sealed, "me", "why")
    entry_id = office.failed(b"f")
    office.host.call(office.administration.discard, entry_id, "me", "why")
    assert office.host.quarantined() == {}
    with pytest.raises(NotFound):
        office.host.call(office.administration.discard, entry_id, "me", "why")
    with pytest.raises(InvalidArgument):
        office.host.call(office.administration.discard, "../../etc/passwd", "me", "why")


def test_totals_of_the_quarantine_follow_every_change(office: Office) -> None:
    def totals() -> tuple[int, int]:
        found = office.host.call(office.administration.quarantine_totals, 30.0)
        assert found is not None
        return found.entries, found.size_bytes

    assert totals() == (0, 0)
    entry_id = office.failed(b"f", b"12345")
    office.failed(b"g", b"123")
    assert totals() == (2, 8)
    office.host.call(office.administration.discard, entry_id, "me", "why")
    assert totals() == (1, 3)
    looked: list[Quarantine] = []
    quarantine = office.host.stack.quarantine
    office.administration._looked_at = (
        Path(quarantine.directory).stat().st_mtime_ns,
        Path(quarantine.directory).stat().st_mtime_ns + (1 << 40),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Quarantine, "totals", looked.append)
        assert totals() == (1, 3)
    assert looked == [], "nothing changed, nothing was read"


# -- requests on the wire


def ask(office: Office, requests: SpoolRequests, request: dict[str, Any]) -> dict[str, Any]:
    return office.host.call(requests.answer, request)


def test_requests_and_answers(office: Office) -> None:
    requests = SpoolRequests(office.administration)
    ids = office.seal(b"a", b"b")
    reply = ask(office, requests, spoolrequests.live_request(""))
    assert [facts.entry_id for facts in spoolrequests.live_facts(reply)] == ids
    assert reply["next"] is None
    office.backend.faults.clear()
    told, counts = spoolrequests.outcomes(ask(office, requests, spoolrequests.retry_request(None, 5)))
    assert counts == {Outcome.COMMITTED: 2} and len(told) == 2
    entry_id = office.failed(b"f")
    restore = spoolrequests.restore_request(entry_id, Promise.AS_IS, "me", 5)
    assert spoolrequests.outcomes(ask(office, requests, restore))[0] == [
        Attempted(entry_id, Outcome.COMMITTED)
    ]
    other = office.failed(b"g")
    assert ask(office, requests, spoolrequests.discard_request(other, "me", "why")) == {}


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "spool.unknown"},
        {"op": "spool.live"},
        {"op": "spool.retry", "ids": "all"},
        {"op": "spool.retry", "ids": [1]},
        {"op": "spool.retry", "ids": None, "wait_s": 1e9},
        {"op": "spool.restore", "id": "x"},
        {"op": "spool.discard", "id": "x", "who": "me"},
    ],
)
def test_requests_that_make_no_sense(office: Office, request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        ask(office, SpoolRequests(office.administration), request_)


def test_closing_cuts_off_what_only_reads(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = SpoolRequests(office.administration)
    entry_id = office.failed(b"f")
    reading = threading.Event()

    def read_slowly(_: str, progress: Callable[[int], None]) -> str:
        while True:
            reading.set()
            time.sleep(0.01)
            progress(1)

    monkeypatch.setattr(office.host.stack.quarantine, "digest", read_slowly)
    request = spoolrequests.restore_request(entry_id, Promise.AS_IS, "me", 5)
    asked = office.host.background(lambda: ask(office, requests, request))
    assert reading.wait(30)
    office.host.call(requests.aclose)
    with pytest.raises(Unavailable, match="stopping"):
        asked.result(30)
    with pytest.raises(Unavailable, match="stopping"):
        ask(office, requests, request)
    assert office.host.quarantined() == {b"f": b"half"}
    assert office.host.stack.spool.get(Key(b"f")) is None


def test_closing_waits_for_what_changes_something(office: Office) -> None:
    requests = SpoolRequests(office.administration)
    entry_id = office.failed(b"f")
    request = spoolrequests.restore_request(entry_id, Promise.AS_IS, "me", 5)
    with slow_restore(office) as (begun, go_on):
        asked = office.host.background(lambda: ask(office, requests, request))
        assert begun.wait(30)
        closing = office.host.background(lambda: office.host.call(requests.aclose))
        time.sleep(0.05)
        assert not closing.done()
        go_on.set()
        closing.result(30)
    with pytest.raises(Unavailable):
        asked.result(30)
    office.host.wait_for(lambda: office.host.stack.spool.get(Key(b"f")) is None, "it is committed")
    assert office.host.load(b"f") == b"half"
