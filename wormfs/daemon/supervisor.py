"""The supervisor: serves the root of the mount and keeps one worker per backend alive.

Life: lock the state directory → clear what a dead daemon left → mount the root → start the workers →
serve until told to stop → stop the workers → unmount the root. Its own mount is served by its own event
loop, so whatever walks a path below the mountpoint runs in a thread.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
from collections.abc import Callable
from functools import partial

import trio

from wormfs import threads
from wormfs.clock import SystemClock
from wormfs.config import Settings
from wormfs.daemon import control, logs, mounts
from wormfs.daemon.commands import Commands
from wormfs.daemon.metrics.gather import Gatherer, Verified
from wormfs.daemon.metrics.offer import offer
from wormfs.daemon.notify import Notifier
from wormfs.daemon.orders import Orders
from wormfs.daemon.refusal import CannotStart
from wormfs.daemon.state import StateDirectory
from wormfs.daemon.workers import BackendWorker, WorkerState
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
_TOLD = (*_FINAL, WorkerState.WAITING, WorkerState.DOWN)

Report = Callable[[dict[str, str]], None]
"""Told once, when every backend is up or its time is over: the reasons of those that are not."""


class Ending(enum.IntEnum):
    """Exit status of the daemon."""

    ORDERLY = 0
    FORCED = 1


class Supervisor:
    """One daemon. ``run`` is its life."""

    def __init__(self, settings: Settings, state: StateDirectory, notifier: Notifier):
        """``state`` is locked. Raises CannotStart when its instance id cannot be read."""
        self.settings = settings
        self.state = state
        self._notifier = notifier
        # Links resolved: /proc/self/mountinfo, where we look for our mounts, knows no others.
        self.mountpoint = os.path.realpath(settings.mountpoint)
        instance_id = state.instance_id()
        self.workers = {
            name: BackendWorker(self._orders(name, instance_id), self._note_change)
            for name in settings.backends
        }
        self._started_ns = SystemClock().now_ns()
        self._log_level: str = settings.log_level
        self._changed = trio.Event()
        self._stop_asked = trio.Event()
        self._stop_timeout_s = settings.stop_timeout_s
        self._root_gone = trio.Event()
        self._root_device: str | None = None
        self._ending = Ending.ORDERLY
        self.detached = trio.Event()
        """Nothing of the mount can be seen any more; what was open may still be going on."""
        self.stopped = trio.Event()
        """Every worker has ended and the root is unmounted."""

    def _orders(self, name: str, instance_id: str) -> Orders:
        settings = self.settings.backends[name]
        return Orders(
            backend=name,
            settings=settings,
            mountpoint=os.path.join(self.mountpoint, name),
            source=mounts.source_of(name),
            state_directory=str(self.state.path),
            spool_directory=str(settings.spool or self.state.spool_directory(name)),
            instance_id=instance_id,
            log_level=self.settings.log_level,
            stop_timeout_s=self.settings.stop_timeout_s,
        )

    async def run(self, report: Report) -> Ending:
        """Mount, serve, stop. Raises CannotStart before anything is mounted."""
        for cleared in await threads.run(mounts.clear_stale, self.mountpoint):
            log.warning("cleared a mount that a dead daemon left: %s", cleared)
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
            # Before anything is mounted: a signal must never find mounts that nobody takes down.
            await nursery.start(self._obey_signals, nursery)
            try:
                await nursery.start(control.serve, self.state.path, Commands(self).answer)
                await nursery.start(self._serve_root)
            except OSError as error:
                refusal = error
                nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()
            root = await threads.run(mounts.top_mount, self.mountpoint)
            self._root_device = root.device if root is not None else None
            log.info("serving %s, process %d", self.mountpoint, os.getpid())
            nursery.start_soon(logs.output().run)
            nursery.start_soon(offer, self.settings.metrics, self._gatherer())
            for worker in self.workers.values():
                nursery.start_soon(worker.run)
            nursery.start_soon(self._tell_started, report)
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
            log_lines=logs.output(),
            started_ns=self._started_ns,
        )

    # -- the root

    async def _serve_root(self, task_status: trio.TaskStatus[None]) -> None:
        operations = RootOperations(
            list(self.workers),
            is_own_process=self._is_own_process,
            space=self.space,
            state_directory=os.fsencode(self.state.path),
            now_ns=SystemClock().now_ns(),
        )
        try:
            await session.serve(
                operations,
                self.mountpoint,
                fsname=mounts.ROOT_SOURCE,
                counters=Counters(),
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
        self._notifier.status(self.summary())

    def summary(self) -> str:
        """One line for people."""
        ready = sum(worker.state is WorkerState.READY for worker in self.workers.values())
        text = f"{ready} of {len(self.workers)} backends mounted at {self.mountpoint}"
        return "; ".join([text, *(f"{name}: {why}" for name, why in self.missing().items())])

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
            await self._until_all(_TOLD)
            self._notifier.ready(self.summary())
            await self._until_all(_FINAL)
        self._notifier.ready(self.summary())
        report(self.missing())

    async def _until_all(self, states: tuple[WorkerState, ...]) -> None:
        while not all(worker.state in states for worker in self.workers.values()):
            await self._changed.wait()

    # -- the end

    def ask_stop(self, why: str, timeout_s: float | None = None) -> None:
        """Begin the orderly end; a second call changes nothing."""
        if not self._stop_asked.is_set():
            if timeout_s is not None:
                self._stop_timeout_s = timeout_s
            log.info("stopping within %g s: %s", self._stop_timeout_s, why)
            self._notifier.stopping(f"stopping: {why}")
            self._stop_asked.set()

    async def _obey_signals(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        with trio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                if number in (signal.SIGUSR1, signal.SIGUSR2):
                    self._change_log_level(nursery, more=number == signal.SIGUSR1)
                elif self._stop_asked.is_set() and number == signal.SIGINT:
                    log.warning("stopping at once; what is not committed is complete in the spool")
                    self._ending = Ending.FORCED
                    for worker in self.workers.values():
                        worker.kill()
                else:
                    self.ask_stop(signal.Signals(number).name)

    def _change_log_level(self, nursery: trio.Nursery, *, more: bool) -> None:
        """Here, and in every worker that answers."""
        self._log_level = logs.next_level(self._log_level, more=more)
        logs.set_level(self._log_level)
        logs.output().say(logging.INFO, f"log level is now {self._log_level}")
        for worker in self.workers.values():
            nursery.start_soon(worker.set_log_level, self._log_level)

    async def _stop(self) -> None:
        """Workers first, then the root; all of it is detached at once, so that nothing new is opened."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for worker in self.workers.values():
                    nursery.start_soon(worker.stop, self._stop_timeout_s)
                nursery.start_soon(self._watch_detached)
            await self._detach_root()
            with trio.move_on_after(_ROOT_GONE_S):
                await self._root_gone.wait()
            self.stopped.set()

    async def _watch_detached(self) -> None:
        for worker in self.workers.values():
            await worker.detached.wait()
        await self._detach_root()
        self.detached.set()

    async def _detach_root(self) -> None:
        if self._root_device is not None:
            await threads.run(
                partial(mounts.detach, self.mountpoint, mounts.ROOT_SOURCE, device=self._root_device)
            )

    def unfinished(self) -> dict[str, int]:
        """Sealed entries that each backend left for the next start, as far as the workers said."""
        return {name: worker.unfinished for name, worker in self.workers.items() if worker.unfinished}
