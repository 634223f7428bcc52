"""A worker that hangs: when it is killed, when it is not, and what the service manager is told."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from tests.support.orders import ORDERS
from wormfs.config import LocalSettings, Settings
from wormfs.daemon.channel import Channel
from wormfs.daemon.notify import Notifier
from wormfs.daemon.state import StateDirectory
from wormfs.daemon.supervisor import Plan, Supervisor
from wormfs.daemon.workers import BackendWorker, WorkerState

HANG_S = 8.0


@dataclass
class Undying:
    """Stands for a process that the kernel holds: SIGKILL does not end it. No real one is made to order."""

    pid: int = 4711
    killed: list[float] = field(default_factory=list)

    def kill(self) -> None:
        self.killed.append(trio.current_time())


def worker() -> BackendWorker:
    return BackendWorker(ORDERS, lambda: None, hang_timeout_s=HANG_S)


async def watch(answers: int, for_s: float) -> tuple[BackendWorker, Undying, float]:
    """Watch a worker that answers so many questions and then no more, for a time on a clock that jumps."""
    watched, process = worker(), Undying()
    ours, theirs = trio.testing.memory_stream_pair()
    here, there = Channel(ours), Channel(theirs)
    last_answer = 0.0
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            async for _ in here.messages():
                pass

        async def answer() -> None:
            nonlocal last_answer
            count = 0
            async for message in there.messages():
                if count < answers:
                    there.send({"id": message["id"], "reply": {}})
                    last_answer = trio.current_time()
                count += 1

        for task in (here.run, there.run, listen, answer):
            nursery.start_soon(task)
        nursery.start_soon(watched._watch, here, cast("trio.Process", process))
        await trio.sleep(for_s)
        nursery.cancel_scope.cancel()
    return watched, process, last_answer


def test_one_that_answers_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    async def main() -> None:
        watched, process, _ = await watch(answers=10_000, for_s=1000)
        assert (process.killed, watched.state, watched.incurable) == ([], WorkerState.STARTING, False)

    trio.run(main, clock=autojump_clock)


def test_one_that_is_silent_for_its_time_is_killed(autojump_clock: trio.testing.MockClock) -> None:
    async def main() -> None:
        watched, process, last = await watch(answers=3, for_s=25)
        [killed] = process.killed
        assert HANG_S * 0.8 <= killed - last <= HANG_S * 1.3
        assert watched.state is WorkerState.HUNG
        assert watched.incurable, "it is still there 10 s after SIGKILL"

    trio.run(main, clock=autojump_clock)


def test_one_that_is_being_loaded_has_four_times_as_long(autojump_clock: trio.testing.MockClock) -> None:
    async def main() -> None:
        assert (await watch(answers=0, for_s=HANG_S * 3.9))[1].killed == []
        assert (await watch(answers=0, for_s=HANG_S * 4.1))[1].killed != []

    trio.run(main, clock=autojump_clock)


def test_the_watchdog_is_not_fed_while_a_worker_cannot_be_cured(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "exams"
    path.mkdir()
    settings = Settings(
        mountpoint=tmp_path / "mnt",
        state_directory=tmp_path / "state",
        backends={"exams": LocalSettings(name="exams", path=path)},
    )
    address = tmp_path / "notify"

    def said(manager: socket.socket) -> int:
        count = 0
        while True:
            try:
                assert manager.recv(100) == b"WATCHDOG=1"
            except BlockingIOError:
                return count
            count += 1

    async def main(manager: socket.socket, supervisor: Supervisor) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor._tell_alive)
            await trio.sleep(30.5)
            assert said(manager) == 7
            supervisor.workers["exams"].incurable = True
            await trio.sleep(30)
            assert said(manager) == 0
            supervisor.workers["exams"].incurable = False
            await trio.sleep(30)
            assert said(manager) == 6
            nursery.cancel_scope.cancel()

    state = StateDirectory.lock(settings.state_directory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(address))
        supervisor = Supervisor(Plan(settings), state, Notifier(str(address), 20))
        trio.run(main, manager, supervisor, clock=autojump_clock)
    state.close()


def test_a_stop_goes_on_when_a_reload_lets_go_of_a_backend(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the dictionary changed its size while the stop walked over it, and nothing drained."""
    settings = Settings(
        mountpoint=tmp_path / "mnt",
        state_directory=tmp_path / "state",
        backends={name: LocalSettings(name=name, path=tmp_path / name) for name in ("kept", "gone")},
    )

    async def main(supervisor: Supervisor) -> None:
        monkeypatch.setattr(supervisor._root, "remove", lambda name: None)  # nothing is mounted here
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor._watch_detached)
            await trio.testing.wait_all_tasks_blocked()
            supervisor.workers["gone"].detached.set()
            await supervisor.forget("gone")
            assert not supervisor.detached.is_set()
            supervisor.workers["kept"].detached.set()
        assert supervisor.detached.is_set()

    state = StateDirectory.lock(settings.state_directory)
    trio.run(main, Supervisor(Plan(settings), state, Notifier(None)), clock=autojump_clock)
    state.close()


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)
