"""Metrics without a mount: what is gathered, how long it takes, who is answered."""

from __future__ import annotations

import errno
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from wormfs import threads
from wormfs.clock import NS_PER_S
from wormfs.config.local import LocalSettings
from wormfs.config.metrics import Listen, MetricsSettings
from wormfs.daemon import measured
from wormfs.daemon.channel import NoAnswer
from wormfs.daemon.measured import Measured
from wormfs.daemon.messages import Message
from wormfs.daemon.metrics import exposition
from wormfs.daemon.metrics.facts import BackendFacts, Snapshot
from wormfs.daemon.metrics.gather import LOOP_S, WORKERS_S, Gatherer, Verified
from wormfs.daemon.metrics.http import MetricsServer
from wormfs.daemon.metrics.offer import Offering, offer
from wormfs.fuse.counters import BOUNDS_NS, FailureKind, OperationCount
from wormfs.model import FindingKind
from wormfs.verify.summary import LastRun, Summary

READY = {
    "state": "ready",
    "restarts": 2,
    "space": {"total_bytes": 1000, "free_bytes": 400, "total_files": None, "free_files": None},
    "spool": {
        "entries": {"sealed": 3}, "bytes": 77, "waiting": 3, "oldest_s": 12.5, "open_writers": 1,
        "quarantine": {"entries": 4, "bytes": 44},
    },
    "check": {"ok": False, "at_ns": 30 * NS_PER_S, "took_s": 0.25},
    "records": {"erase": "never", "clock": {"doubt": None}, "audit_problem": "disk full"},
}  # fmt: skip
COUNTED = Measured(
    {"write": OperationCount((5, 1, *[0] * 10, 2), 3 * NS_PER_S, 8192)},
    {
        FailureKind("open", "sealed", "EPERM", refused=True): 7,
        FailureKind("flush", "unavailable", "EIO", refused=False): 2,
        FailureKind("lookup", "not_found", "ENOENT", refused=False): 9,
    },
    {"warning": 5},
)


def values(snapshot: Snapshot) -> dict[tuple[str, tuple[str, ...]], float]:
    """Name and label values of each sample, labels by name."""
    text = exposition.plain_text(snapshot).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def found() -> dict[tuple[str, tuple[str, ...]], float]:
    last = LastRun(20 * NS_PER_S, 10, 100, True, {FindingKind.ALTERED: 1}, 15 * NS_PER_S)
    return values(
        Snapshot(
            5 * NS_PER_S,
            answering=True,
            backends={"exams": BackendFacts("local", READY, COUNTED), "gone": BackendFacts("s3", {}, None)},
            verified={"exams": Summary(last, 0, 6)},
            log_lines={"error": 1, "info": 1000},
        )
    )


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("wormfs_supervisor_up", (), 1),
        ("wormfs_start_time_seconds", (), 5),
        ("wormfs_backend_up", ("exams",), 1),
        ("wormfs_backend_up", ("gone",), 0),
        ("wormfs_backend_state", ("exams", "ready"), 1),
        ("wormfs_backend_state", ("exams", "hung"), 0),
        ("wormfs_backend_info", ("gone", "s3"), 1),
        ("wormfs_worker_restarts_total", ("exams",), 2),
        ("wormfs_operation_duration_seconds_bucket", ("exams", "2e-05", "write"), 5),
        ("wormfs_operation_duration_seconds_bucket", ("exams", "60.0", "write"), 6),
        ("wormfs_operation_duration_seconds_bucket", ("exams", "+Inf", "write"), 8),
        ("wormfs_operation_duration_seconds_count", ("exams", "write"), 8),
        ("wormfs_operation_duration_seconds_sum", ("exams", "write"), 3),
        ("wormfs_written_bytes_total", ("exams",), 8192),
        ("wormfs_read_bytes_total", ("exams",), 0),
        ("wormfs_refusals_total", ("exams", "EPERM", "open", "sealed"), 7),
        ("wormfs_operation_errors_total", ("exams", "EIO", "flush", "unavailable"), 2),
        ("wormfs_io_errors_total", ("exams",), 2),
        ("wormfs_spool_entries", ("exams", "sealed"), 3),
        ("wormfs_spool_entries", ("exams", "writing"), 0),
        ("wormfs_spool_bytes", ("exams",), 77),
        ("wormfs_spool_waiting_entries", ("exams",), 3),
        ("wormfs_spool_oldest_waiting_seconds", ("exams",), 12.5),
        ("wormfs_open_writers", ("exams",), 1),
        ("wormfs_quarantine_entries", ("exams",), 4),
        ("wormfs_quarantine_bytes", ("exams",), 44),
        ("wormfs_space_total_bytes", ("exams",), 1000),
        ("wormfs_space_free_bytes", ("exams",), 400),
        ("wormfs_check_ok", ("exams",), 0),
        ("wormfs_check_timestamp_seconds", ("exams",), 30),
        ("wormfs_check_duration_seconds", ("exams",), 0.25),
        ("wormfs_clock_doubtful", ("exams",), 0),
        ("wormfs_audit_trail_writable", ("exams",), 0),
        ("wormfs_verification_end_timestamp_seconds", ("exams",), 20),
        ("wormfs_verification_oldest_file_timestamp_seconds", ("exams",), 15),
        ("wormfs_verification_files", ("exams",), 10),
        ("wormfs_verification_findings", ("exams", "altered"), 1),
        ("wormfs_verification_findings", ("exams", "missing"), 0),
        ("wormfs_damaged_files", ("exams",), 6),
        ("wormfs_log_messages_total", ("", "error"), 1),
        ("wormfs_log_messages_total", ("exams", "warning"), 5),
    ],
)
def test_every_fact_is_there(
    found: dict[tuple[str, tuple[str, ...]], float], name: str, labels: tuple[str, ...], value: float
) -> None:
    assert found[name, labels] == value


def test_what_is_not_known_is_not_made_up(found: dict[tuple[str, tuple[str, ...]], float]) -> None:
    told = {name for name, labels in found if labels[:1] == ("gone",)}
    assert told == {
        "wormfs_backend_up",
        "wormfs_backend_state",
        "wormfs_backend_info",
        "wormfs_worker_restarts_total",
    }
    assert not any(name == "wormfs_space_total_files" for name, _ in found)


def test_a_supervisor_that_does_not_answer_is_told_and_nothing_else() -> None:
    found = values(Snapshot(5 * NS_PER_S, answering=False))
    assert found["wormfs_supervisor_up", ()] == 0
    assert not any(name.startswith("wormfs_backend") for name, _ in found)


def test_buckets_are_those_that_are_counted() -> None:
    assert len(COUNTED.operations["write"].buckets) == len(BOUNDS_NS) + 1


# -- gathering


class Worker:
    """Answers, does not answer, or is not there."""

    def __init__(self, pid: int | None, answers: bool = True):
        self.pid = pid
        self._answers = answers

    async def request(self, request: Message, *, timeout_s: float) -> Message:
        if not self._answers:
            await trio.sleep(timeout_s)
            raise NoAnswer("hung")
        assert request == {"op": measured.METRICS}
        return {"operations": {}, "failures": [], "log_lines": {}}


async def _status() -> Message:
    return {"backends": {name: {"state": "ready"} for name in ("good", "hung", "gone")}}


@pytest.fixture
def gatherer(tmp_path: Path) -> Gatherer:
    return gatherer_of(tmp_path, good=Worker(1), gone=Worker(None))


def gatherer_of(tmp_path: Path, **workers: Worker) -> Gatherer:
    return Gatherer(
        workers=workers,
        settings=lambda: {name: LocalSettings(name=name, path=tmp_path / name) for name in workers},
        status=_status,
        verified=Verified(tmp_path, ["good"]),
        log_lines=dict,
        started_ns=1,
    )


def test_a_hung_worker_is_not_waited_for_and_the_others_are_answered(tmp_path: Path) -> None:
    gatherer = gatherer_of(tmp_path, good=Worker(1), hung=Worker(2, answers=False), gone=Worker(None))
    begun = time.monotonic()
    snapshot = trio.run(gatherer.now)
    assert WORKERS_S <= time.monotonic() - begun < 1
    found = values(snapshot)
    assert [found["wormfs_backend_up", (name,)] for name in ("good", "hung", "gone")] == [1, 0, 0]


def in_a_loop(meanwhile: Callable[[threads.Doorway], object]) -> None:
    """Run ``meanwhile`` in a thread beside an event loop."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await threads.run(meanwhile, threads.Doorway(nursery))

    trio.run(main)


def test_a_thread_is_answered_by_the_loop(gatherer: Gatherer) -> None:
    snapshots: list[Snapshot] = []
    in_a_loop(lambda doorway: snapshots.append(gatherer.from_thread(doorway)))
    assert snapshots[0].answering and set(snapshots[0].backends) == {"good", "gone"}


def test_a_loop_that_is_stuck_is_not_waited_for(gatherer: Gatherer) -> None:
    go_on = threading.Event()
    took_s: list[float] = []

    def ask(doorway: threads.Doorway) -> None:
        # Whatever the loop does now: it does it until we have our answer.
        trio.from_thread.run_sync(trio.lowlevel.spawn_system_task, stop_the_loop)
        begun = time.monotonic()
        assert not gatherer.from_thread(doorway).answering
        took_s.append(time.monotonic() - begun)
        go_on.set()

    async def stop_the_loop() -> None:
        assert go_on.wait(20)

    in_a_loop(ask)
    assert LOOP_S <= took_s[0] < 1


def test_a_loop_that_has_ended_is_not_waited_for_long() -> None:
    doorways: list[threads.Doorway] = []
    in_a_loop(doorways.append)
    with pytest.raises(TimeoutError):
        doorways[0].ask(_status, 0.05)


def test_what_goes_wrong_in_the_loop_is_told_to_the_thread() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    def ask(doorway: threads.Doorway) -> None:
        with pytest.raises(ZeroDivisionError):
            doorway.ask(fail, 5)

    in_a_loop(ask)


def test_a_disk_that_hangs_is_asked_by_one_thread_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked = threading.Event(), []

    def hang(directory: Path, backend: str) -> None:
        asked.append(backend)
        assert go_on.wait(20)

    monkeypatch.setattr("wormfs.daemon.metrics.gather.summarize", hang)
    verified = Verified(tmp_path, ["exams"])
    begun = time.monotonic()
    for _ in range(5):
        assert verified.look() == {}
    assert time.monotonic() - begun < 0.9
    assert asked == ["exams"]
    go_on.set()


# -- HTTP


@pytest.fixture
def port() -> int:
    return free_port()


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


class Serving:
    """A server in a thread, answering with a text; may be made to hang."""

    def __init__(self, port: int):
        self.port = port
        self.go_on = threading.Event()
        self.go_on.set()
        self.server = MetricsServer(Listen("127.0.0.1", port), self._answer)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    def _answer(self, accept: str) -> tuple[bytes, str]:
        assert self.go_on.wait(20)
        return b"wormfs_up 1\n", "text/plain"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def stop(self) -> float:
        begun = time.monotonic()
        self.go_on.set()
        self.server.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return time.monotonic() - begun


@pytest.fixture
def serving(port: int) -> Iterator[Serving]:
    made = Serving(port)
    yield made
    made.stop()


def answer(serving: Serving, method: str = "GET", path: str = "/metrics") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_only_get_metrics_is_answered(serving: Serving) -> None:
    assert answer(serving) == (200, b"wormfs_up 1\n")
    assert answer(serving, path="/metrics?x=y")[0] == 200
    for path in ("/", "/metrics/", "/favicon.ico", "/../etc/passwd"):
        assert answer(serving, path=path)[0] == 404, path
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"):
        assert answer(serving, method)[0] == 501, method


def test_nonsense_does_not_end_the_server(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    for nonsense in (
        b"\0\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 70_000,
        b"GET /metrics\r\n" * 300,
    ):
        with serving.connect() as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    with serving.connect():
        pass  # and nothing said at all
    assert answer(serving)[0] == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_many_who_say_nothing_are_turned_away_and_cut_off(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wormfs.daemon.metrics.http._CONNECTION_S", 0.5)
    monkeypatch.setattr(serving.server, "timeout", 0.05)
    silent = [serving.connect() for _ in range(40)]
    try:
        assert all(_ended(one) for one in silent)
        assert answer(serving)[0] == 200
    finally:
        for one in silent:
            one.close()


def _ended(connection: socket.socket) -> bool:
    """Whether the other side ends the connection, though we send a byte now and then."""
    connection.settimeout(0.02)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            connection.send(b"G")
            if not connection.recv(1024):
                return True
        except TimeoutError:
            continue
        except OSError as error:
            return error.errno in (errno.ECONNRESET, errno.EPIPE)
    return False


def test_a_stop_waits_for_nobody(port: int) -> None:
    serving = Serving(port)
    with serving.connect():
        assert serving.stop() < 0.9
    # The port can be had again at once.
    Serving(port).stop()


def test_a_scrape_that_fails_is_told_and_the_next_one_answered(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    serving = Serving(port)
    try:
        monkeypatch.setattr(serving.server, "answer", lambda accept: 1 / 0)
        with pytest.raises((http.client.HTTPException, OSError)):
            answer(serving)
        monkeypatch.undo()
        assert answer(serving)[0] == 200
        assert "a scrape failed" in caplog.text
    finally:
        serving.stop()


# -- where the settings say


def offered(settings: MetricsSettings, gatherer: Gatherer, meanwhile: Callable[[], object]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(offer, settings, gatherer)
            await threads.run(meanwhile)
            nursery.cancel_scope.cancel()

    trio.run(main)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_taken_port_is_told_once_and_had_when_it_is_free(
    gatherer: Gatherer, port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wormfs.daemon.metrics.offer._AGAIN_S", 0.05)
    caplog.set_level(logging.INFO)
    other = socket.create_server(("127.0.0.1", port))

    def meanwhile() -> None:
        wait_for(lambda: "another program listens" in caplog.text)
        time.sleep(0.3)
        other.close()
        wait_for(lambda: "metrics at http" in caplog.text)
        serving = cast("Serving", SimpleNamespace(port=port))
        status, body = answer(serving)
        assert status == 200 and b'wormfs_backend_up{backend="good"} 1.0' in body

    offered(MetricsSettings(listen=Listen("127.0.0.1", port)), gatherer, meanwhile)
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    [message] = [record.getMessage() for record in told]
    assert message == (
        f"metrics are not offered: another program listens at 127.0.0.1:{port} ('ss -ltnp' shows which); "
        "end it or change 'metrics'; the mount is not affected, tried again every 0.05 s"
    )


@pytest.mark.parametrize(
    ("listen", "message"), [(Listen("192.0.2.77", 9477), "this host has no address 192.0.2.77")]
)
def test_an_address_of_another_host(
    gatherer: Gatherer, listen: Listen, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = MetricsSettings(public=True, listen=listen)
    offered(settings, gatherer, lambda: wait_for(lambda: message in caplog.text))


def test_an_address_that_others_reach_is_warned_of(
    gatherer: Gatherer, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = MetricsSettings(public=True, listen=Listen("0.0.0.0", port))
    offered(settings, gatherer, lambda: wait_for(lambda: "other hosts can read them" in caplog.text))


def test_a_text_file_is_written_again_and_again_whole_and_taken_away_at_the_end(
    gatherer: Gatherer, tmp_path: Path
) -> None:
    path = tmp_path / "wormfs.prom"
    read: list[str] = []

    def meanwhile() -> None:
        wait_for(path.exists)
        inodes: set[int] = set()
        until = time.monotonic() + 10
        while len(inodes) < 3 and time.monotonic() < until:
            inodes.add(path.stat().st_ino)
            read.append(path.read_text())
            time.sleep(0.05)
        assert len(inodes) >= 2, "it is written only once"
        assert path.stat().st_mode & 0o777 == 0o644

    offered(MetricsSettings(textfile=path, every_s=0.01), gatherer, meanwhile)
    assert read and all(text.endswith("\n") and "wormfs_log_messages_total" in text for text in read)
    assert list(tmp_path.iterdir()) == []


def test_a_text_file_that_cannot_be_written_is_told_once(
    gatherer: Gatherer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "missing" / "wormfs.prom"

    def meanwhile() -> None:
        wait_for(lambda: "metrics cannot be written" in caplog.text)
        path.parent.mkdir()
        wait_for(path.exists)

    offered(MetricsSettings(textfile=path, every_s=0.01), gatherer, meanwhile)
    assert caplog.text.count("metrics cannot be written") == 1


def test_whatever_goes_wrong_with_metrics_the_daemon_goes_on(
    gatherer: Gatherer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise KeyError("nobody foresaw this")

    path = tmp_path / "wormfs.prom"

    async def main() -> None:
        offering = Offering(MetricsSettings(textfile=path, every_s=0.01), gatherer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(offering.run)
            await threads.run(wait_for, lambda: "metrics are not offered any more" in caplog.text)
            monkeypatch.undo()
            offering.change(MetricsSettings(textfile=path, every_s=0.02))
            await threads.run(wait_for, path.exists)
            nursery.cancel_scope.cancel()

    monkeypatch.setattr(gatherer, "now", fail)
    trio.run(main)


def test_nothing_is_offered_unless_asked_for(gatherer: Gatherer) -> None:
    async def main() -> None:
        await offer(MetricsSettings(), gatherer)

    trio.run(main)


def test_formats_are_negotiated() -> None:
    snapshot = Snapshot(1, answering=True)
    plain: Any = exposition.negotiated(snapshot, "")
    modern: Any = exposition.negotiated(snapshot, "application/openmetrics-text; version=1.0.0")
    assert plain[1].startswith("text/plain") and not plain[0].endswith(b"# EOF\n")
    assert modern[1].startswith("application/openmetrics-text") and modern[0].endswith(b"# EOF\n")
