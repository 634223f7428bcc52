"""The audit trail: whole lines from many writers, durable where it must be, never in the way of a file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import re
import resource
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from wormfs import audit, durability
from wormfs.audit import AuditLog, Event
from wormfs.clock import SystemClock
from wormfs.errors import Unavailable
from wormfs.model import Key

KEY = Key(b"exams/mueller-anna.pdf")


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[AuditLog]:
    opened = AuditLog(tmp_path, "exams", SystemClock())
    yield opened
    opened.close()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fail_to_sync(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Returns what makes it work again."""

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    works = durability.sync_data
    monkeypatch.setattr(durability, "sync_data", broken)
    return lambda: monkeypatch.setattr(durability, "sync_data", works)


def test_a_line_says_what_happened_and_no_name(trail: AuditLog) -> None:
    trail.note(Event.COMMITTED, KEY, size=7, uid=33, retain_until=None)
    (line,) = lines(trail.path)
    assert {**line, "at": ""} == {
        "v": 1, "at": "", "event": "committed", "file": trail.subject(KEY), "size": 7, "uid": 33,
        "retain_until": None,
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(line["at"]))
    assert b"mueller" not in trail.path.read_bytes()


def test_only_the_daemons_user_can_read_it(trail: AuditLog) -> None:
    for path in (trail.path, trail.path.parent / "salt"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(trail.path.parent.stat().st_mode) == 0o700


def test_what_root_makes_belongs_to_whom_the_state_directory_does(tmp_path: Path) -> None:
    """A command run by root before the daemon, which runs as somebody else."""
    os.chown(tmp_path, 33, 34)
    AuditLog(tmp_path, "exams", SystemClock()).close()
    made = [tmp_path / "audit", *(tmp_path / "audit").iterdir()]
    assert len(made) == 3
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(33, 34)}


def test_what_root_made_earlier_is_given_back(tmp_path: Path) -> None:
    AuditLog(tmp_path, "exams", SystemClock()).close()
    os.chown(tmp_path, 33, 34)
    trail = AuditLog(tmp_path, "exams", SystemClock())
    trail.note(Event.COMMITTED, KEY)
    trail.path.rename(tmp_path / "rotated")
    trail.close()
    made = [tmp_path / "audit", *(tmp_path / "audit").iterdir()]
    assert len(made) == 3
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(33, 34)}


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("name", ["salt", "exams.jsonl"])
def test_no_link_in_the_state_directory_makes_root_give_away_another_file(
    tmp_path: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    precious, state = tmp_path / "shadow", tmp_path / "state"
    precious.write_text("00" * 32)
    (state / "audit").mkdir(parents=True)
    os.chown(state, 33, 34)
    link(precious, state / "audit" / name)
    with pytest.raises(Unavailable):
        AuditLog(state, "exams", SystemClock())
    assert precious.stat().st_uid == 0


def test_the_salt_stays_and_differs_between_machines(trail: AuditLog, tmp_path: Path) -> None:
    again = AuditLog(tmp_path, "exams", SystemClock())
    other_backend = AuditLog(tmp_path, "forms", SystemClock())
    other_machine = AuditLog(tmp_path / "other", "exams", SystemClock())
    assert again.subject(KEY) == trail.subject(KEY)
    assert len({log.subject(KEY) for log in (trail, other_backend, other_machine)}) == 3
    assert other_backend.content("ab") == trail.content("ab") != other_machine.content("ab")
    for log in (again, other_backend, other_machine):
        log.close()


def test_a_salt_that_was_damaged_is_never_replaced(tmp_path: Path) -> None:
    AuditLog(tmp_path, "exams", SystemClock()).close()
    salt = tmp_path / "audit" / "salt"
    salt.write_text("")
    with pytest.raises(Unavailable, match="restore it"):
        AuditLog(tmp_path, "exams", SystemClock())
    assert salt.read_text() == ""


def write_many(directory: Path, count: int, who: int) -> None:
    log = AuditLog(directory, "exams", SystemClock())
    for number in range(count):
        log.note(Event.COMMITTED, KEY, who=str(who), number=number, filler="x" * (number % 300))
    log.close()


def test_processes_and_threads_write_whole_lines(tmp_path: Path) -> None:
    processes = [
        multiprocessing.get_context("spawn").Process(target=write_many, args=(tmp_path, 500, number))
        for number in range(2)
    ]
    threads = [threading.Thread(target=write_many, args=(tmp_path, 500, 10 + number)) for number in range(2)]
    shared = AuditLog(tmp_path, "exams", SystemClock())

    def note_shared() -> None:
        for _ in range(500):
            shared.note(Event.COMMITTED, KEY, who="shared")

    threads += [threading.Thread(target=note_shared) for _ in range(2)]
    for one in (*processes, *threads):
        one.start()
    for one in (*processes, *threads):
        one.join()
    shared.close()
    found = lines(shared.path)
    assert len(found) == 3000
    for who in ("0", "1", "10", "11"):
        assert [line["number"] for line in found if line["who"] == who] == list(range(500))


@contextlib.contextmanager
def somebody_holds(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def test_a_line_waits_for_another_process_that_mends_the_file(trail: AuditLog) -> None:
    """A torn line is cut off under the lock: a line written meanwhile would be cut with it."""
    with somebody_holds(trail.path):
        noting = threading.Thread(target=trail.note, args=(Event.COMMITTED, KEY))
        noting.start()
        noting.join(0.2)
        assert lines(trail.path) == []
    noting.join(10)
    assert len(lines(trail.path)) == 1


def test_one_salt_for_all_that_start_at_once(tmp_path: Path) -> None:
    """Looked for and made under a lock: with two salts, one backend's lines could not be found again."""
    AuditLog(tmp_path, "exams", SystemClock()).close()
    salt = tmp_path / "audit" / "salt"
    salt.unlink()
    opened: list[AuditLog] = []
    with somebody_holds(salt.parent):
        starting = threading.Thread(target=lambda: opened.append(AuditLog(tmp_path, "exams", SystemClock())))
        starting.start()
        starting.join(0.2)
        assert not salt.exists()
        salt.write_text("ab" * 32)
        salt.chmod(0o600)
    starting.join(10)
    assert salt.read_text() == "ab" * 32
    opened[0].close()


def test_note_does_not_sync_and_note_durably_does(trail: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(durability, "sync_data", synced.append)
    for _ in range(100):
        trail.note(Event.COMMITTED, KEY)
    assert synced == []
    trail.note_durably(Event.ERASING, KEY)
    assert len(synced) == 1
    trail.sync()
    assert len(synced) == 1, "nothing new was written"


def test_what_was_noted_is_synced_within_a_second_or_so(
    trail: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = trio.Event()

    async def scenario() -> None:
        token = trio.lowlevel.current_trio_token()
        monkeypatch.setattr(durability, "sync_data", lambda fd: token.run_sync_soon(synced.set))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trail.run)
            trail.note(Event.COMMITTED, KEY)
            with trio.fail_after(5):
                await synced.wait()
            nursery.cancel_scope.cancel()

    trio.run(scenario)


def test_a_note_does_not_wait_for_a_sync(trail: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(durability, "sync_data", slow)
    syncing = threading.Thread(target=trail.note_durably, args=(Event.HELD, KEY))
    syncing.start()
    assert begun.wait(10)
    trail.note(Event.COMMITTED, KEY)
    assert len(lines(trail.path)) == 2
    go_on.set()
    syncing.join()


def test_a_disk_that_fails_stops_erasures_and_nothing_else(
    trail: AuditLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    repair = fail_to_sync(monkeypatch)
    with pytest.raises(Unavailable, match="must not be done unrecorded"):
        trail.note_durably(Event.ERASING, KEY)
    trail.note(Event.COMMITTED, KEY)
    trail.sync()
    assert trail.problem is not None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    repair()
    trail.sync()
    assert trail.problem is None
    assert "written again" in caplog.text


@pytest.fixture
def full_disk(trail: AuditLog) -> Iterator[Callable[[], None]]:
    """The file cannot grow any more, until what this yields is called."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def more_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    trail.note(Event.COMMITTED, KEY, number=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (trail.path.stat().st_size + 50, before[1]))
    yield more_room
    more_room()
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_lines_in_memory_and_tears_none(
    trail: AuditLog, full_disk: Callable[[], None]
) -> None:
    for number in range(1, 4):
        trail.note(Event.COMMITTED, KEY, number=number)
    assert [line["number"] for line in lines(trail.path)] == [0]
    assert trail.problem is not None
    full_disk()
    trail.note(Event.COMMITTED, KEY, number=4)
    trail.sync()
    assert [line["number"] for line in lines(trail.path)] == [0, 1, 2, 3, 4]
    assert trail.problem is None


def test_lines_that_find_no_room_in_memory_leave_a_gap_that_says_so(
    trail: AuditLog, full_disk: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_MOST_KEPT", 2)
    for number in range(1, 6):
        trail.note(Event.COMMITTED, KEY, number=number)
    full_disk()
    trail.sync()
    found = lines(trail.path)
    assert [line.get("number") for line in found] == [0, 1, 2, None]
    assert (found[-1]["event"], found[-1]["lines"]) == ("gap", 3)


def test_a_line_cut_by_a_power_loss_spoils_no_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, "exams", SystemClock())
    log.note(Event.COMMITTED, KEY, number=1)
    log.close()
    with open(log.path, "ab") as file:
        file.write(b'{"v":1,"event":"comm')
    again = AuditLog(tmp_path, "exams", SystemClock())
    again.note(Event.COMMITTED, KEY, number=2)
    again.close()
    assert [line["number"] for line in audit.read(log.path)] == [1, 2]
    assert log.path.read_bytes().count(b"\n") == 3


def test_a_log_that_was_moved_away_is_begun_again(trail: AuditLog, tmp_path: Path) -> None:
    trail.note(Event.COMMITTED, KEY, number=1)
    os.rename(trail.path, tmp_path / "old")
    trail.sync()
    trail.note(Event.COMMITTED, KEY, number=2)
    assert [line["number"] for line in lines(tmp_path / "old")] == [1]
    assert [line["number"] for line in lines(trail.path)] == [2]


def test_a_closed_log_is_one_that_cannot_be_written(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, "exams", SystemClock())
    log.close()
    log.note(Event.COMMITTED, KEY)
    log.sync()
    with pytest.raises(Unavailable):
        log.note_durably(Event.ERASING, KEY)


def test_reading_finds_the_lines_of_one_file(trail: AuditLog) -> None:
    trail.note(Event.COMMITTED, KEY)
    trail.note(Event.COMMITTED, Key(b"other"))
    trail.note(Event.ERASED, KEY)
    found = audit.read(trail.path, trail.subject(KEY).encode())
    assert [line["event"] for line in found] == ["committed", "erased"]
    assert list(audit.read(trail.path.with_name("none.jsonl"))) == []


def test_a_note_costs_little(trail: AuditLog) -> None:
    """Some 20 µs as a rule; the bound leaves room for a machine that is busy with other things."""
    best = min(timed(trail) for _ in range(20))
    assert best < 100e-6


def timed(trail: AuditLog) -> float:
    began = time.perf_counter()
    for _ in range(100):
        trail.note(Event.COMMITTED, KEY, entry="0" * 32, size=12345, uid=33, retain_until="forever")
    return (time.perf_counter() - began) / 100
