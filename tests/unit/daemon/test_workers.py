"""What a worker does, says or suffers ends no other worker, and it is started again."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.support.orders import ORDERS
from wormfs.daemon.workers import BackendWorker, WorkerState

Program = Callable[[str], None]

_ANSWER_PINGS = """
import json
answered = 0
for line in open(fd, "rb"):
    # The first one begins with the orders.
    if b'"stop"' in line:
        break
    if b'{"id"' in line:
        message = json.loads(line[line.index(b'{"id"'):])
        os.write(fd, json.dumps({"id": message["id"], "error": "no"}).encode() + b"\\n")
        answered += 1
        os.write(fd, json.dumps({"event": "waiting", "reason": str(answered)}).encode() + b"\\n")
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Takes the worker's place: ``fd`` is its end of the channel."""

    def take_place(code: str) -> None:
        path = tmp_path / "program"
        path.write_text(f"#!{sys.executable}\nimport os, signal, sys\nfd = int(sys.argv[3])\n{code}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return take_place


def watched(condition: Callable[[BackendWorker], bool], hang_timeout_s: float = 30) -> BackendWorker:
    """A worker that ran until the condition was true, or 20 s; then it was stopped."""
    found: list[BackendWorker] = []

    async def main() -> None:
        changed = [trio.Event()]

        def note() -> None:
            changed[0].set()
            changed[0] = trio.Event()

        worker = BackendWorker(ORDERS, note, hang_timeout_s=hang_timeout_s)
        found.append(worker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            with trio.fail_after(20):
                while not condition(worker):
                    await changed[0].wait()
            await stopped(worker.stop(0.1))

    async def stopped(stopping: Awaitable[None]) -> None:
        with trio.fail_after(20):
            await stopping

    trio.run(main)
    assert found[0].state is WorkerState.STOPPED
    return found[0]


def troubled(text: str) -> Callable[[BackendWorker], bool]:
    """Down for this reason, and started again afterwards."""

    def condition(worker: BackendWorker) -> bool:
        return worker.restarts > 0 and worker.trouble is not None and text in worker.trouble[1]

    return condition


@pytest.mark.parametrize(
    "said", ['{"event": "check"}', '{"id": [], "reply": {}}', '{"event": "drained", "unfinished": "x"}']
)
def test_nonsense_ends_only_the_worker_that_talks_it(program: Program, tmp_path: Path, said: str) -> None:
    pids = tmp_path / "pids"
    program(
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        f"os.write(fd, {said.encode()!r} + b'\\n')\nsignal.pause()"
    )
    watched(troubled("the worker could not be followed and was killed"))
    for pid in pids.read_text().split():
        assert not os.path.exists(f"/proc/{pid}")


def test_any_signal_may_kill_it(program: Program) -> None:
    program("os.kill(os.getpid(), 40)")
    watched(troubled("the worker was killed by signal 40"))


def test_a_refusal_is_an_answer(program: Program) -> None:
    program(_ANSWER_PINGS)
    worker = watched(lambda worker: worker.reason == "6", hang_timeout_s=0.4)
    assert worker.restarts == 0


def test_one_that_cannot_be_started_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        watched(troubled("the worker cannot be started"))
        gc.collect()
    assert [str(warning.message) for warning in warned] == [], "a socket was left open"
