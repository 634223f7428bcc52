"""What the supervisor says of a backend, from settings, from what it was told, from the answer now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from wormfs.config import BackendSettings, LocalSettings
from wormfs.config.load import parse
from wormfs.daemon import backendstatus
from wormfs.daemon.backendstatus import Answer, retention_to_message
from wormfs.daemon.orders import Orders
from wormfs.daemon.workers import BackendWorker, WorkerState


def backend(text: str) -> BackendSettings:
    return parse(f"mountpoint: /mnt/worm\nbackends:\n  one: {{{text}}}\n", "settings").backends["one"]


LOCAL = "type: local, path: /srv/one"
S3 = "type: s3, bucket: one"


@pytest.mark.parametrize(
    ("text", "mode", "period", "rules"),
    [
        (LOCAL, "standard", "forever", 0),
        (
            f"{LOCAL}, retention: {{period: 10y, rules: [{{match: 'a/**', period: 5y}}]}}",
            "standard",
            "10y",
            1,
        ),
        (f"{LOCAL}, erase: always", "scratch", "none", 0),
        (f"{LOCAL}, retention: {{period: 5y, compliance: true}}", "compliance", "5y", 0),
        (f"{S3}, retention: {{period: 5y}}, object_lock: governance", "governance", "5y", 0),
        (f"{S3}, retention: {{period: 5y}}, object_lock: compliance", "compliance", "5y", 0),
    ],
)
def test_the_mode_of_retention_says_who_can_erase_early(
    text: str, mode: str, period: str, rules: int
) -> None:
    settings = backend(text)
    assert retention_to_message(settings) == {
        "mode": mode,
        "period": period,
        "rules": rules,
        "erase": settings.erase,
    }


@pytest.fixture
def worker() -> BackendWorker:
    settings = LocalSettings(name="one", path=Path("/srv/one"))
    orders = Orders("one", settings, "/mnt/worm/one", "wormfs#one", "/s", "/s/spool", "0" * 16, "info", 30.0)
    return BackendWorker(orders, lambda: None, hang_timeout_s=30.0, own_session=True)


def told(worker: BackendWorker, spool: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = Answer(worker.state, worker.reason, {} if spool is None else {"spool": spool})
    return backendstatus.to_message(worker, backend(LOCAL), answer)


def note(worker: BackendWorker, **event: object) -> None:
    """An event of the worker arrives."""

    async def arrive() -> None:
        worker._note(event)

    trio.run(arrive)


CHECK: dict[str, object] = {
    "ok": False,
    "at_ns": 2 << 60,
    "failed": [{"name": "write", "detail": "one: full"}],
}


def test_what_the_worker_told_is_known_when_it_does_not_answer(worker: BackendWorker) -> None:
    note(worker, event="ready", guarantee="exclusive_writer")
    note(worker, event="check", **CHECK)
    found = told(worker)
    assert (found["state"], found["guarantee"], found["check"]) == ("ready", "exclusive_writer", CHECK)
    assert (found["spool"], found["throughput"], found["records"]) == (None, None, None)
    note(worker, event="ready", guarantee="atomic")
    found = told(worker)
    assert (found["guarantee"], found["check"]) == ("atomic", None), "the old check was of another process"


def test_the_last_error_is_the_latest_of_all(worker: BackendWorker) -> None:
    assert told(worker)["last_error"] is None
    note(worker, event="waiting", reason="one: no route to host")
    assert told(worker)["last_error"]["text"] == "no route to host"
    note(worker, event="ready", guarantee="atomic")
    assert told(worker)["last_error"]["text"] == "no route to host", "it stays when it is over"
    note(worker, event="check", **CHECK)
    assert told(worker)["last_error"] == {"at_ns": 2 << 60, "text": "check failed at 'write': one: full"}
    spool = {"entries": {}, "latest_error": [3 << 60, "one: reset by peer"]}
    found = told(worker, spool)
    assert found["last_error"] == {"at_ns": 3 << 60, "text": "reset by peer"}
    assert found["spool"] == {"entries": {}}
    assert told(worker, {"entries": {}, "latest_error": [1, "old"]})["last_error"]["at_ns"] == 2 << 60


def test_every_state_can_be_told(worker: BackendWorker) -> None:
    for state in WorkerState:
        worker.state = state
        assert told(worker)["state"] == state.value
