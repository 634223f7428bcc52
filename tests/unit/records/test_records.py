"""Holds, dates and erasing against a backend and a disk that fail in the middle."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.drivers import LocalStorage, make_record, store
from tests.support.faulty import FaultyBackend
from wormfs import audit, durability
from wormfs.audit import AuditLog
from wormfs.clock import SystemClock
from wormfs.errors import BackendFault, NotFound, Refused, Retained, Sealed, Unavailable, Unsupported
from wormfs.model import FOREVER, Key, Period, Retention, RetentionChange
from wormfs.records.records import Asker, RecordOptions, Records
from wormfs.records.trustedclock import TrustedClock
from wormfs.worm.erasing import EraseMode, Verdict
from wormfs.worm.policy import RetentionPolicy, RetentionRule

KEY = Key(b"exam.pdf")
CONTENT = b"record"
ROOT, OTHER = Asker(0, "root at the console"), Asker(1000)
EXPIRED = RecordOptions(
    policy=RetentionPolicy(RetentionRule(Period(years=1)), maximum=Period(years=90)), mode=EraseMode.EXPIRED
)


@dataclass
class Archive:
    """One backend with its records, and what lies where."""

    storage: LocalStorage
    backend: FaultyBackend
    state: Path
    trail: AuditLog

    def records(self, options: RecordOptions = EXPIRED) -> Records:
        clock = TrustedClock("archive", SystemClock(), "boot", path=None, backend_time_ns=lambda: None)
        return Records(self.backend, options, clock, self.trail, self.state / "erasing" / "archive")

    def store(self, until_ns: int | None = 1, *holds: str) -> None:
        record = make_record(CONTENT, retention=Retention(until_ns, holds))
        store(self.storage, self.backend, KEY, CONTENT, record)

    def there(self) -> bool:
        return self.storage.path_of(KEY).exists()

    def events(self) -> list[str]:
        return [str(line["event"]) for line in audit.read(self.trail.path)]

    def intents(self) -> int:
        directory = self.state / "erasing" / "archive"
        return len(list(directory.iterdir())) if directory.exists() else 0


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    storage = LocalStorage(tmp_path)
    backend = FaultyBackend(storage.backend())
    backend.start()
    trail = AuditLog(tmp_path / "state", "archive", SystemClock())
    yield Archive(storage, backend, tmp_path / "state", trail)
    trail.close()
    backend.close()


def failing_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durability, "sync_data", broken)


# Erasing


def test_erased_with_a_tombstone_that_names_nobody(archive: Archive) -> None:
    archive.store()
    info = archive.records().erase(KEY, OTHER)
    assert info.size_bytes == len(CONTENT)
    assert not archive.there()
    assert archive.events() == ["erasing", "erased"]
    assert archive.intents() == 0
    tombstone = list(audit.read(archive.trail.path))[-1]
    record = make_record(CONTENT)
    assert tombstone["file"] == archive.trail.subject(KEY)
    assert tombstone["content"] == archive.trail.content(record.sha256)
    assert record.sha256 not in archive.trail.path.read_text()
    with pytest.raises(NotFound):
        archive.records().erase(KEY, OTHER)


@pytest.mark.parametrize(("until_ns", "holds"), [(FOREVER, ()), (1 << 62, ()), (1, ("AZ 1",))])
def test_what_is_retained_or_held_stays(
    archive: Archive, until_ns: int | None, holds: tuple[str, ...]
) -> None:
    archive.store(until_ns, *holds)
    with pytest.raises(Retained) as caught:
        archive.records().erase(KEY, ROOT)
    assert (caught.value.backend, caught.value.key) == ("archive", KEY)
    with pytest.raises(Sealed):
        archive.records(RecordOptions()).erase(KEY, ROOT)
    assert archive.there()
    assert archive.backend.faults.calls["erase"] == 0


def test_unrecorded_nothing_is_erased(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.store()
    failing_syncs(monkeypatch)
    with pytest.raises(Unavailable, match="unrecorded"):
        archive.records().erase(KEY, ROOT)
    assert archive.there()
    assert archive.intents() == 0
    without = Records(archive.backend, EXPIRED, archive.records().clock)
    with pytest.raises(Refused, match="could not be recorded"):
        without.erase(KEY, ROOT)
    assert archive.there()


def test_without_room_for_the_intent_nothing_is_erased(archive: Archive) -> None:
    archive.store()
    (archive.state / "erasing").write_text("in the way")
    with pytest.raises(Unavailable, match="nothing was erased"):
        archive.records().erase(KEY, ROOT)
    assert archive.there()
    assert archive.events() == []


def test_an_outage_in_the_middle_is_made_up_for(archive: Archive) -> None:
    archive.store()
    records = archive.records()
    archive.backend.faults.fail("erase", Unavailable("down"), times=2)
    with pytest.raises(Unavailable):
        records.erase(KEY, ROOT)
    assert archive.there()
    records.finish()
    assert archive.there()
    records.finish()
    assert not archive.there()
    assert archive.events() == ["erasing", "erased"]
    records.finish()
    assert archive.events().count("erased") == 1


def test_one_that_cannot_be_finished_holds_up_no_other(archive: Archive) -> None:
    other = Key(b"other.pdf")
    archive.store()
    record = make_record(b"x", retention=Retention(1))
    store(archive.storage, archive.backend, other, b"x", record)
    archive.backend.faults.fail("erase", Unavailable("down"), times=3)
    for key in (KEY, other):
        with pytest.raises(Unavailable):
            archive.records().erase(key, ROOT)
    archive.records().finish()  # the third failure is that of the first of the two
    assert archive.events().count("erased") == 1
    archive.records().finish()
    assert archive.events().count("erased") == 2


def test_a_lost_reply_is_made_up_for(archive: Archive) -> None:
    archive.store()
    archive.backend.faults.lose_reply("erase", Unavailable("timed out"))
    with pytest.raises(Unavailable):
        archive.records().erase(KEY, ROOT)
    assert not archive.there()
    archive.records().finish()
    assert archive.events() == ["erasing", "erased"]


def test_a_lost_reply_and_then_a_new_file_of_that_name(archive: Archive) -> None:
    archive.store()
    archive.backend.faults.lose_reply("erase", Unavailable("timed out"))
    with pytest.raises(Unavailable):
        archive.records().erase(KEY, ROOT)
    archive.store(FOREVER)
    archive.records().finish()
    assert archive.there()
    assert archive.events() == ["erasing", "erased"]
    assert archive.intents() == 0


def test_what_the_backend_refuses_is_given_up(archive: Archive) -> None:
    archive.store()
    archive.backend.faults.fail("erase", Retained("object lock"), times=1)
    with pytest.raises(Retained, match="object lock"):
        archive.records().erase(KEY, ROOT)
    assert archive.events() == ["erasing", "not-erased"]
    archive.records().finish()
    assert archive.there()
    assert archive.intents() == 0


def test_another_name_of_the_bytes_is_told_of(archive: Archive) -> None:
    archive.store()
    os.link(archive.storage.path_of(KEY), archive.storage.root / "second")
    with pytest.raises(BackendFault, match="hard links"):
        archive.records().erase(KEY, ROOT)
    assert archive.there()
    assert archive.events() == ["erasing", "not-erased"]


def test_a_hold_that_comes_between_a_crash_and_the_next_start_counts(archive: Archive) -> None:
    archive.store()
    archive.backend.faults.fail("erase", Unavailable("down"), times=1)
    with pytest.raises(Unavailable):
        archive.records().erase(KEY, ROOT)
    archive.backend.change_retention(KEY, RetentionChange(add_holds=("AZ 1",)))
    archive.records().finish()
    assert archive.there()
    assert archive.events() == ["erasing", "not-erased"]
    assert archive.intents() == 0


def test_a_backend_that_only_says_that_it_erased(archive: Archive) -> None:
    archive.store()
    archive.backend.erase = lambda key, early=False: None  # type: ignore[method-assign]
    with pytest.raises(BackendFault, match="still shows it"):
        archive.records().erase(KEY, ROOT)
    assert "erased" not in archive.events()


def test_a_tombstone_that_could_not_be_written_follows(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.store()
    syncs = durability.sync_data
    count = iter(range(100))

    def second_fails(fd: int) -> None:
        if next(count):
            raise OSError(28, "No space left on device")
        syncs(fd)

    monkeypatch.setattr(durability, "sync_data", second_fails)
    with pytest.raises(Unavailable):
        archive.records().erase(KEY, ROOT)
    assert not archive.there()
    assert archive.intents() == 1
    monkeypatch.setattr(durability, "sync_data", syncs)
    archive.records().finish()
    assert archive.intents() == 0
    assert archive.events().count("erased") == 1


def test_an_intent_that_cannot_be_read_stays_and_stops_no_other(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    archive.store()
    archive.backend.faults.fail("erase", Unavailable("down"), times=1)
    with pytest.raises(Unavailable):
        archive.records().erase(KEY, ROOT)
    odd = archive.state / "erasing" / "archive" / "00.json"
    odd.write_text("{}")
    archive.records().finish()
    assert not archive.there()
    assert odd.exists()
    assert "cannot be understood" in caplog.text


def test_early(archive: Archive) -> None:
    archive.store(FOREVER, "AZ 1")
    records = archive.records(RecordOptions())
    with pytest.raises(Refused, match="root"):
        records.erase_early(KEY, "3 K 12/26", OTHER)
    with pytest.raises(Retained, match="AZ 1"):
        records.erase_early(KEY, "3 K 12/26", ROOT)
    records.release(KEY, None, ROOT)
    with pytest.raises(Refused, match="compliance"):
        archive.records(RecordOptions(compliance=True)).erase_early(KEY, "3 K 12/26", ROOT)
    records.erase_early(KEY, "3 K 12/26", ROOT)
    assert not archive.there()
    assert list(audit.read(archive.trail.path))[-1]["who"] == ROOT.who


# Holds and dates


def test_changes_are_recorded_and_repetitions_are_not(archive: Archive) -> None:
    archive.store()
    records = archive.records()
    for _ in range(2):
        records.hold(KEY, ("AZ 1",), ROOT)
        records.extend(KEY, 4_000_000_000 * 10**9, OTHER)
    for _ in range(2):
        records.release(KEY, ("AZ 1",), ROOT)
    assert archive.events() == ["held", "retained", "released"]


def test_only_root_changes_holds(archive: Archive) -> None:
    archive.store(1, "AZ 1")
    for call in (
        lambda: archive.records().hold(KEY, ("AZ 2",), OTHER),
        lambda: archive.records().release(KEY, ("AZ 1",), OTHER),
        lambda: archive.records().release(KEY, None, OTHER),
    ):
        with pytest.raises(Refused, match="root"):
            call()
    record = archive.backend.record(KEY)
    assert record is not None
    assert record.retention.holds == ("AZ 1",)


def test_a_hold_is_not_taken_off_unrecorded(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.store(1, "AZ 1")
    failing_syncs(monkeypatch)
    with pytest.raises(Unavailable):
        archive.records().release(KEY, ("AZ 1",), ROOT)
    with pytest.raises(Retained, match="AZ 1"):
        archive.records().erase(KEY, ROOT)


def test_beyond_max_only_a_hold_keeps(archive: Archive) -> None:
    archive.store()
    with pytest.raises(Retained, match="max"):
        archive.records().extend(KEY, FOREVER, ROOT)


def test_foreign_files(archive: Archive) -> None:
    archive.storage.place_foreign(KEY, b"theirs")
    records = archive.records()
    assert records.look(KEY).judged.verdict is Verdict.UNRECORDED
    with pytest.raises(Retained):
        records.erase(KEY, ROOT)
    for call in (records.hold, records.release):
        with pytest.raises(Unsupported):
            call(KEY, ("AZ 1",), ROOT)
    assert archive.events() == []
    archive.records(RecordOptions(mode=EraseMode.ALWAYS)).erase(KEY, ROOT)
    assert not archive.there()


@pytest.mark.parametrize("number", range(20))
def test_a_hold_and_an_erasure_at_the_same_time(archive: Archive, number: int) -> None:
    """One of them comes first: held and there, or gone and never held."""
    archive.store()
    records = archive.records()
    outcomes: dict[str, BaseException | None] = {}

    def trying(name: str, call: Callable[[], object]) -> threading.Thread:
        def work() -> None:
            try:
                call()
                outcomes[name] = None
            except (Retained, NotFound) as error:
                outcomes[name] = error

        return threading.Thread(target=work)

    both = [
        trying("hold", lambda: records.hold(KEY, ("AZ 1",), ROOT)),
        trying("erase", lambda: records.erase(KEY, ROOT)),
    ]
    for thread in both if number % 2 else reversed(both):
        thread.start()
    for thread in both:
        thread.join()
    held = outcomes["hold"] is None
    assert held == archive.there() == (outcomes["erase"] is not None)


def test_who_remembers_a_file_is_told_that_it_is_gone(archive: Archive) -> None:
    archive.store()
    records = archive.records()
    told: list[Key] = []
    records.erased = told.append
    records.erase(KEY, ROOT)
    assert told == [KEY]
