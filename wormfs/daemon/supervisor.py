"""The supervisor: serves the root of the mount and keeps one worker per backend alive.

Life: lock the state directory → clear what a dead daemon left → mount the root → start the workers →
serve until told to stop → stop the workers → unmount the root. Its own mount is served by its own event
loop, so whatever walks a path below the mountpoint runs in a thread.

Who watches whom: the service manager watches the supervisor, which says that it is alive from its event
loop; the supervisor watches its workers by asking each of them (``workers``), and kills one that does not
answer. Only when it cannot end a worker that hangs, it says nothing more to the service manager.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import trio

from wormfs import threads
from wormfs.clock import SystemClock
from wormfs.config import Settings
from wormfs.daemon import control, logs, mounts
from wormfs.daemon.commands import Commands
from wormfs.daemon.messages import Message
from wormfs.daemon.metrics.gather import Gatherer, Verified
from wormfs.daemon.metrics.offer import Offering
from wormfs.daemon.notify import Notifier
from wormfs.daemon.orders import Orders
from wormfs.daemon.refusal import CannotStart
from wormfs.daemon.reload import Reloader
from wormfs.daemon.state import StateDirectory
from wormfs.daemon.workers import DEATH_S, BackendWorker, WorkerState
from wormfs.fs.processes import process_of
from wormfs.fuse import session
from wormfs.fuse.counters import Counters
from wormfs.fuse.root import RootOperations
from wormfs.model import Space

log = logging.getLogger(__name__)

START_S = 30.0
"""How long a backend may take to come up before the start counts as incomplete."""

_ROOT_GONE_S = 5.0
"""How long a process may stand in the root directory before it is cut off at the end."""

_FINAL = (WorkerState.READY, WorkerState.FAILED)
_TOLD = (
    *(*_FINAL, WorkerState.WAITING, WorkerState.DOWN),
    *(WorkerState.STOPPING, WorkerState.STOPPED),
)

_ASK_AGAIN_S = 0.5

Report = Callable[[dict[str, str]], None]
"""Told once, when every backend is up or its time is over: the reasons of those that are not."""


class Ending(enum.IntEnum):
    """Exit status of the daemon."""

    ORDERLY = 0
    FORCED = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What a daemon is started with."""

    settings: Settings
    load: Callable[[], Settings] | None = None
    """Reads the settings again, in a thread; ``None``: they came from no file."""
    source: str = mounts.ROOT_SOURCE
    """What /proc/mounts and df show as the device of the root."""
    waits_for_backends: bool = True
    """Whether the start counts as over only when those that are down have had their time, too."""


class Supervisor:
    """One daemon. ``run`` is its life."""

    def __init__(self, plan: Plan, state: StateDirectory, notifier: Notifier):
        """``state`` is locked. Raises CannotStart when its instance id cannot be read."""
        self.settings = settings = plan.settings
        self.state = state
        self.notifier = notifier
        self.remark = ""
        """What people should know beside the backends; part of ``summary``."""
        self._source = plan.source
        self._waits_for_backends = plan.waits_for_backends
        self._has_terminal = _has_terminal()
        self._reloader = Reloader(self, plan.load)
        # Links resolved: /proc/self/mountinfo, where we look for our mounts, knows no others.
        self.mountpoint = os.path.realpath(settings.mountpoint)
        # An automount lets through only whom systemd has started for it: the same process group.
        self._own_sessions = not mounts.is_automount(self.mountpoint)
        self._instance_id = state.instance_id()
        self.workers = {name: self._worker(settings, name) for name in settings.backends}
        self._root = RootOperations(
            list(self.workers),
            is_own_process=self._is_own_process,
            space=self.space,
            state_directory=os.fsencode(state.path),
            now_ns=SystemClock().now_ns(),
        )
        self._nursery: trio.Nursery | None = None
        self._log_level: str = settings.log_level
        self._metrics = Offering(settings.metrics, self._gatherer())
        self._changed = trio.Event()
        self._stop_asked = trio.Event()
        self._stop_timeout_s = settings.stop_timeout_s
        self._root_gone = trio.Event()
        self._root_device: str | None = None
        self._ending = Ending.ORDERLY
        self.serving = trio.Event()
        """The root is mounted and the workers are started; also set when that will never come."""
        self.detached = trio.Event()
        """Nothing of the mount can be seen any more; what was open may still be going on."""
        self.stopped = trio.Event()
        """Every worker has ended and the root is unmounted."""

    def _worker(self, settings: Settings, name: str) -> BackendWorker:
        return BackendWorker(
            self._orders(settings, name),
            self._note_change,
            hang_timeout_s=settings.hang_timeout_s,
            own_session=self._own_sessions,
        )

    def _orders(self, settings: Settings, name: str) -> Orders:
        backend = settings.backends[name]
        return Orders(
            backend=name,
            settings=backend,
            mountpoint=os.path.join(self.mountpoint, name),
            source=mounts.source_of(name),
            state_directory=str(self.state.path),
            spool_directory=str(backend.spool or self.state.spool_directory(name)),
            instance_id=self._instance_id,
            log_level=settings.log_level,
            stop_timeout_s=settings.stop_timeout_s,
        )

    async def run(self, report: Report) -> Ending:
        """Mount, serve, stop. Raises CannotStart before anything is mounted."""
        try:
            for cleared in await threads.run(mounts.clear_stale, self.mountpoint):
                log.warning("cleared a mount that a dead daemon left: %s", cleared)
        except OSError as error:
            raise CannotStart(f"what a dead daemon left at {self.mountpoint} stays there: {error}") from error
        await threads.run(mounts.prepare_mountpoint, self.mountpoint)
        try:
            await self._live(report)
        finally:
            with trio.CancelScope(shield=True):
                await self._detach_root()
        log.info("stopped")
        return self._ending

    async def _live(self, report: Report) -> None:
        refusal: OSError | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            # Before anything is mounted: a signal must never find mounts that nobody takes down.
            await nursery.start(self._obey_signals)
            try:
                await nursery.start(control.serve, self.state.path, Commands(self).answer)
                await nursery.start(self._serve_root)
            except OSError as error:
                refusal = error
                self._stop_asked.set()
                self.serving.set()
                nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()
            root = await threads.run(mounts.top_mount, self.mountpoint)
            self._root_device = root.device if root is not None else None
            log.info("serving %s, process %d", self.mountpoint, os.getpid())
            nursery.start_soon(logs.output().run)
            nursery.start_soon(self._metrics.run)
            for worker in self.workers.values():
                nursery.start_soon(worker.run)
            nursery.start_soon(self._tell_started, report)
            nursery.start_soon(self._tell_alive)
            self.serving.set()
            await self._stop_asked.wait()
            await self._stop()
            nursery.cancel_scope.cancel()
        if refusal is not None:
            raise CannotStart(f"{self.mountpoint} cannot be mounted: {refusal}") from refusal

    def _gatherer(self) -> Gatherer:
        return Gatherer(
            workers=self.workers,
            settings=lambda: self.settings.backends,
            status=partial(Commands(self).answer, {"request": "status"}),
            verified=Verified(self.state.path, self.workers),
            log_lines=lambda: logs.output().lines(),
            started_ns=SystemClock().now_ns(),
        )

    # -- the root

    async def _serve_root(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            await session.serve(
                self._root,
                self.mountpoint,
                fsname=self._source,
                counters=Counters(),
                caches=self._root.caches,
                task_status=task_status,
            )
        finally:
            self._root_gone.set()
        self.ask_stop("the root was unmounted")

    def _is_own_process(self, pid: int) -> bool:
        own = {os.getpid(), *(worker.pid for worker in self.workers.values())}
        # FUSE names the thread.
        return pid in own or process_of(pid) in own

    def space(self) -> Space:
        """The last known room of all backends together; those that cannot know are left out."""
        known = [worker.space for worker in self.workers.values() if worker.space is not None]

        def total(numbers: list[int | None]) -> int | None:
            present = [number for number in numbers if number is not None]
            return sum(present) if present else None

        return Space(
            total([space.total_bytes for space in known]),
            total([space.free_bytes for space in known]),
            total([space.total_files for space in known]),
            total([space.free_files for space in known]),
        )

    # -- how it goes

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self.notifier.status(self.summary())

    def summary(self) -> str:
        """One line for people."""
        ready = sum(worker.state is WorkerState.READY for worker in self.workers.values())
        text = f"{ready} of {len(self.workers)} backends mounted at {self.mountpoint}"
        parts = [text, self.remark, *(f"{name}: {why}" for name, why in self.missing().items())]
        return "; ".join(part for part in parts if part)

    def missing(self) -> dict[str, str]:
        """The backends that are not mounted, with the reason."""
        return {
            name: worker.reason or worker.state.value
            for name, worker in self.workers.items()
            if worker.state is not WorkerState.READY
        }

    async def _tell_started(self, report: Report) -> None:
        with trio.move_on_after(START_S):
            # A backend that is down must not hold up those that systemd starts after us.
            await self.until_settled(self.workers)
            self.notifier.ready(self.summary())
            if self._waits_for_backends:
                await self._until_all(self.workers, _FINAL)
        self.notifier.ready(self.summary())
        try:
            report(self.missing())
        except OSError as error:  # whoever waited for it is gone, or where it is written is full
            log.warning("nobody could be told how the start went: %s", error)

    async def until_settled(self, names: Collection[str]) -> None:
        """Wait until each of these backends is known to be down, or is up and its mount answers."""
        await self._until_all(names, _TOLD)
        # Nobody tells when it begins to answer.
        while not await self._all_answer(names) and not self.is_stopping:  # noqa: ASYNC110
            await trio.sleep(_ASK_AGAIN_S)

    async def _until_all(self, names: Collection[str], states: tuple[WorkerState, ...]) -> None:
        while not all(self.workers[name].state in states for name in names if name in self.workers):
            await self._changed.wait()

    async def _all_answer(self, names: Collection[str]) -> bool:
        silent: list[str] = []

        async def ask(mountpoint: str) -> None:
            if await threads.run(mounts.probe, mountpoint) is mounts.Liveness.SILENT:
                log.warning("%s is mounted and does not answer yet", mountpoint)
                silent.append(mountpoint)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, self.mountpoint)
            for worker in [self.workers[name] for name in names if name in self.workers]:
                if worker.state is WorkerState.READY:
                    nursery.start_soon(ask, worker.mountpoint)
        return not silent

    async def _tell_alive(self) -> None:
        """Feed the service manager's watchdog from the loop that serves the root, so long as that turns."""
        if self.notifier.beat_s is None:
            return
        while True:
            if not any(worker.incurable for worker in self.workers.values()):
                self.notifier.alive()
            await trio.sleep(self.notifier.beat_s)

    # -- other settings

    @property
    def is_stopping(self) -> bool:
        """The orderly end has begun."""
        return self._stop_asked.is_set()

    async def reload(self, why: str) -> Message:
        """Read the settings again and take them over; the reply for whoever asked. See ``reload``."""
        return await self._reloader.reload(why)

    async def retire(self, name: str) -> int:
        """Stop the worker of a backend in order; returns how many entries its spool still holds.

        Raises TooSlowError when not even SIGKILL ends it: nobody waits for that for ever.
        """
        worker = self.workers[name]
        if not await end_worker(worker, self._stop_timeout_s):
            raise trio.TooSlowError
        return worker.unfinished

    async def forget(self, name: str) -> None:
        """A backend that was retired is not part of the mount any more."""
        del self.workers[name]
        # In a thread: the kernel may ask for something before it has let go of the name.
        await threads.run(self._root.remove, name)

    def adopt(self, settings: Settings) -> None:
        """From now on these are the settings, also of the workers that run."""
        self.settings = settings
        self._stop_timeout_s = settings.stop_timeout_s
        self._metrics.change(settings.metrics)
        if self._log_level != settings.log_level:
            self._log_level = settings.log_level
            logs.change_level(settings.log_level)
        for name, worker in self.workers.items():
            worker.hang_timeout_s = settings.hang_timeout_s
            worker.order(self._orders(settings, name))

    async def employ(self, name: str) -> None:
        """Start a worker for a backend of the settings; its name is part of the mount from now on."""
        assert self._nursery is not None
        await threads.run(self._root.add, name)
        if not self.is_stopping:
            # At once: a stop must find only workers that run, or that have ended.
            self.workers[name] = worker = self._worker(self.settings, name)
            self._nursery.start_soon(worker.run)

    # -- the end

    def ask_stop(self, why: str, timeout_s: float | None = None) -> None:
        """Begin the orderly end; a second call changes nothing."""
        if not self._stop_asked.is_set():
            if timeout_s is not None:
                self._stop_timeout_s = timeout_s
            log.info("stopping within %g s: %s", self._stop_timeout_s, why)
            self.notifier.stopping(f"stopping: {why}")
            self._stop_asked.set()

    async def _obey_signals(self, task_status: trio.TaskStatus[None]) -> None:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        with trio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                if number in (signal.SIGUSR1, signal.SIGUSR2):
                    self._change_log_level(more=number == signal.SIGUSR1)
                elif number == signal.SIGHUP and self._reloader.possible and not self._has_terminal:
                    assert self._nursery is not None
                    self._nursery.start_soon(self.reload, "SIGHUP")
                elif self._stop_asked.is_set() and number == signal.SIGINT:
                    log.warning("stopping at once; what is not committed is complete in the spool")
                    self._ending = Ending.FORCED
                    for worker in self.workers.values():
                        worker.kill()
                else:
                    self.ask_stop(signal.Signals(number).name)

    def _change_log_level(self, *, more: bool) -> None:
        """Here, and in every worker; until the settings are read again."""
        self._log_level = logs.next_level(self._log_level, more=more)
        logs.change_level(self._log_level)
        for worker in self.workers.values():
            worker.set_log_level(self._log_level)

    async def _stop(self) -> None:
        """Workers first, then the root; all of it is detached at once, so that nothing new is opened."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for worker in self.workers.values():
                    nursery.start_soon(self._stop_worker, worker)
                nursery.start_soon(self._watch_detached)
            await self._detach_root()
            with trio.move_on_after(_ROOT_GONE_S):
                await self._root_gone.wait()
            self.stopped.set()

    async def _stop_worker(self, worker: BackendWorker) -> None:
        if not await end_worker(worker, self._stop_timeout_s):
            log.error(
                "ALERT: %s: its worker hangs and cannot be killed; it is left alone, process %s",
                worker.name, worker.pid,
            )  # fmt: skip
            self._ending = Ending.FORCED

    async def _watch_detached(self) -> None:
        # A copy: a reload that is under way may just be letting go of a backend.
        for worker in list(self.workers.values()):
            await worker.detached.wait()
        await self._detach_root()
        self.detached.set()

    async def _detach_root(self) -> None:
        if self._root_device is not None:
            await threads.run(partial(mounts.detach, self.mountpoint, self._source, device=self._root_device))

    def unfinished(self) -> dict[str, int]:
        """Sealed entries that each backend left for the next start, as far as the workers said."""
        return {name: worker.unfinished for name, worker in self.workers.items() if worker.unfinished}


async def end_worker(worker: BackendWorker, timeout_s: float) -> bool:
    """Stop it in order, in ``timeout_s`` seconds and those it takes to kill it; whether it is gone."""
    with trio.move_on_after(timeout_s + DEATH_S):
        await worker.stop(timeout_s)
        return True
    if worker.pid is not None:
        return False
    # Only the mounter is slow. That comes to an end, and until then nothing else may be mounted there.
    await worker.stop(0)
    return True


def _has_terminal() -> bool:
    """Whether SIGHUP can mean that the terminal is closed. Asked at the start: afterwards it may be gone."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
