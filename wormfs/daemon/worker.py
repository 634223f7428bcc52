"""The worker: a process that mounts one backend. Started by the supervisor, with the channel on a descriptor.

It ends when the supervisor says so, when the supervisor is gone, on SIGTERM, and when its mount has been
unmounted; each time in the same order: detach the mount so that nothing new is opened, let what is open
finish, drain the spool, go. What is not finished in time is left for the next start.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from wormfs import threads
from wormfs.backends.base import Backend
from wormfs.clock import SystemClock
from wormfs.daemon import logs, measured, mounts, stacks, verifying
from wormfs.daemon.backoff import Backoff
from wormfs.daemon.channel import Channel, NoAnswer
from wormfs.daemon.health import Checked, Health
from wormfs.daemon.messages import Message, ProtocolError
from wormfs.daemon.orders import CHANGE, Orders, changed, receive
from wormfs.daemon.recordrequests import RecordRequests, clock_to_message
from wormfs.daemon.spoolrequests import SpoolRequests
from wormfs.daemon.throughput import Throughput
from wormfs.daemon.workers import space_to_message
from wormfs.errors import SettingsError, Unavailable, WormfsError
from wormfs.fs.filesystem import FileSystem
from wormfs.fs.stack import Stack, StatePlace
from wormfs.fuse import session
from wormfs.fuse.caches import KernelCaches
from wormfs.fuse.counters import Counters
from wormfs.fuse.operations import WormOperations
from wormfs.model import Key, Space, show
from wormfs.spool.administration import Administration
from wormfs.verify.damage import DamageList

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
_HOPELESS_PAUSE_S = 60.0
"""Between attempts at something that fails until somebody changes it."""
_SPACE_EVERY_S = 30.0
_DESTROYED_S = 1.0
_DESTROYED_PAUSE_S = 0.01
_NAMES = 5
"""How many files one line of the log names."""
_SHORTEST_DRAIN_S = 2.0
"""For the drain, even if open files have used up the time: sealed entries are worth a try."""


class Worker:
    """One backend, from connecting to draining."""

    def __init__(self, orders: Orders, channel: Channel):
        self._orders = orders
        self._channel = channel
        self._stop_asked = trio.Event()
        self._deadline = float("inf")
        self._phase = "starting"
        self._stack: Stack | None = None
        self._requests: SpoolRequests | None = None
        self._record_requests: RecordRequests | None = None
        self._space: Space | None = None
        self._spool_room_bytes: int | None = None
        self._throughput: Throughput | None = None
        self._reading_damage = trio.Lock()
        self._counters = Counters()
        self._caches = KernelCaches()
        """Both of the latest session."""
        self._damage = DamageList(orders.state_directory, orders.backend)

    async def run(self) -> None:
        """Work until the end is asked for. Raises only what nobody foresaw, and OSError from mounting."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._channel.run)
            nursery.start_soon(self._listen, nursery)
            nursery.start_soon(self._obey_signals)
            nursery.start_soon(logs.output().run)
            await self._work()
            nursery.cancel_scope.cancel()

    # -- the end

    def _stop(self, why: str, timeout_s: float) -> None:
        """Ask for the end; a second time it can only come sooner."""
        self._deadline = min(self._deadline, trio.current_time() + timeout_s)
        if not self._stop_asked.is_set():
            log.info("stopping within %g s: %s", timeout_s, why)
            self._stop_asked.set()

    def _left_s(self) -> float:
        return max(0.0, self._deadline - trio.current_time())

    async def _obey_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                self._stop("SIGTERM", self._orders.stop_timeout_s)

    # -- the supervisor

    async def _listen(self, nursery: trio.Nursery) -> None:
        why = "the supervisor is gone"
        try:
            async for message in self._channel.messages():
                # In tasks of their own: a slow answer must not hold up the next.
                nursery.start_soon(self._answer, message)
        except ProtocolError as error:
            why = f"the supervisor talks nonsense ({error})"
        self._stop(why, self._orders.stop_timeout_s)

    async def _answer(self, message: Message) -> None:
        try:
            reply: Message = {"reply": await self._handle(message.get("request") or {})}
        except WormfsError as error:
            reply = {"error": str(error)}
        except Exception as error:
            log.exception("a request of the supervisor failed")
            reply = {"error": f"{type(error).__name__}: {error}"}
        with suppress(NoAnswer):
            self._channel.send({"id": message.get("id"), **reply})

    async def _handle(self, request: Message) -> Message:
        match request.get("op"):
            case "status":
                space = space_to_message(self._space) if self._space is not None else None
                return {
                    "phase": self._phase,
                    "spool": await self._spool_status(),
                    "records": self._records_status(),
                    "space": space,
                    "throughput": self._throughput.to_message() if self._throughput is not None else None,
                }
            case measured.METRICS:
                return measured.to_message(self._counters, logs.output().lines())
            case "stop":
                self._stop("the supervisor says so", float(request.get("timeout_s", 0)))
                return {}
            case "ping":
                return {}
            case str(name) if name == CHANGE:
                before, self._orders = self._orders, changed(self._orders, request)
                if before.log_level != self._orders.log_level:
                    logs.change_level(self._orders.log_level)
                return {}
            case str(name) if name.startswith(("spool.", "records.", "clock.")):
                return await self._of_mounted(name, request)
            case verifying.DAMAGE_CHANGED:
                if self._stack is not None:
                    await self._read_damage(self._stack)
                return {}
            case other:
                raise SettingsError(f"the worker knows no request {other!r}")

    async def _of_mounted(self, name: str, request: Message) -> Message:
        """What only a mounted backend can answer. Raises Unavailable where it is not."""
        of_spool = name.startswith("spool.")
        requests = self._requests if of_spool else self._record_requests
        if requests is None:
            why = "it is not mounted now ('wormfs status' says why)"
            if of_spool:
                why += "; what is sealed is tried when it is"
            raise Unavailable(why, backend=self._orders.backend)
        return await requests.answer(request)

    async def _spool_status(self) -> Message | None:
        if self._stack is None or self._requests is None:
            return None
        spool = dict(self._stack.status())
        return {
            **spool,
            "room_bytes": self._spool_room_bytes,
            "quarantine": await self._requests.quarantine(),
        }

    def _records_status(self) -> Message | None:
        if self._stack is None:
            return None
        records = self._stack.records
        return {
            "erase": records.options.mode.value,
            "clock": clock_to_message(records.clock.judged()),
            "audit_problem": records.trail.problem if records.trail is not None else None,
        }

    def _tell(self, event: str, **facts: object) -> None:
        with suppress(NoAnswer):  # the supervisor is gone: the listener will notice
            self._channel.send({"event": event, **facts})

    def _tell_unfinished(self, stack: Stack) -> None:
        unfinished = int(stack.status()["waiting"])
        if unfinished:
            log.warning("%d files wait in the spool for the next start", unfinished)
        self._tell("drained", unfinished=unfinished)

    # -- the work

    async def _work(self) -> None:
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        reported = ""
        while not self._stop_asked.is_set():
            failure = await self._attempt()
            if failure is None:
                return
            hopeless = isinstance(failure, SettingsError)
            pause_s = _HOPELESS_PAUSE_S if hopeless else backoff.next_s()
            self._phase = "failed" if hopeless else "waiting"
            self._tell(self._phase, reason=str(failure))
            if str(failure) != reported:
                reported = str(failure)
                log.log(logging.ERROR if hopeless else logging.WARNING, "%s", failure)
            with trio.move_on_after(pause_s):
                await self._stop_asked.wait()

    async def _attempt(self) -> WormfsError | None:
        """Start, mount, serve and drain; or say why it cannot start now."""
        try:
            backend = stacks.create_backend(self._orders.settings)
            started = await self._unless_stopped(backend.start)
        except WormfsError as error:
            return error
        if not started:
            return None
        try:
            return await self._run_stack(backend)
        finally:
            with trio.CancelScope(shield=True):
                await threads.run(backend.close)

    async def _unless_stopped(self, function: Callable[[], None]) -> bool:
        """Whether ``function`` came to its end before the stop was asked for.

        Starting a backend may be left alone in its thread: it leaves nothing half done that matters.
        """
        finished = False
        async with trio.open_nursery() as nursery:

            async def cancel_on_stop() -> None:
                await self._stop_asked.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on_stop)
            failure: WormfsError | None = None
            try:
                await threads.run_abandonable(function)
                finished = True
            except WormfsError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return finished

    async def _run_stack(self, backend: Backend) -> WormfsError | None:
        orders = self._orders
        try:
            stack = await threads.run(_open_stack, backend, orders)
        except WormfsError as error:
            return error
        stack.records.erased = self._forget_erased
        async with trio.open_nursery() as nursery:
            try:
                await stack.start(nursery)
            except WormfsError as error:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    # Else the next attempt would meet a lock of our own.
                    await threads.run(stack.store.close)
                    await threads.run(stack.close_records)
                return error
            self._stack = stack
            requests = SpoolRequests(Administration(backend, stack.spool, stack.store, SystemClock()))
            self._requests = requests
            record_requests = self._record_requests = RecordRequests(stack)
            try:
                # Whoever says from now on that it has changed is heard.
                await self._read_damage(stack)
                failure = await self._serve(stack)
                if failure is None:
                    self._stop("it was unmounted", self._orders.stop_timeout_s)
                self._phase = "draining"
                # Before the store is closed: nobody may work on it afterwards.
                await requests.aclose()
                await record_requests.aclose()
                left_s = min(self._left_s(), self._orders.stop_timeout_s)
                await stack.stop(max(left_s, _SHORTEST_DRAIN_S))
                self._tell_unfinished(stack)
            finally:
                self._stack = self._requests = self._record_requests = None
            nursery.cancel_scope.cancel()
        return failure

    def _forget_erased(self, key: Key) -> None:
        """In the thread that has erased a file: verification must not remember its name."""
        try:
            self._damage.forget_erased(key)
        except WormfsError as error:
            log.warning(
                "the name of an erased file stays in the catalog until the next verification: %s", error
            )

    async def _read_damage(self, stack: Stack) -> None:
        """What verification found damaged is not served."""
        filesystem = stack.filesystem
        filesystem.forget_damage = self._damage.forget
        # In turn, or an older list could come after a newer one.
        async with self._reading_damage:
            await self._take_damage(filesystem)

    async def _take_damage(self, filesystem: FileSystem) -> None:
        try:
            keys = await threads.run(self._damage.load)
        except WormfsError as error:
            # An archive is not locked away for a list that cannot be read.
            log.error("ALERT: which files are damaged is not known, all are served: %s", error)
            return
        new = [key for key in keys if key not in filesystem.damage]
        inodes = filesystem.damage.replace(keys)
        if new:
            names = ", ".join(show(key) for key in sorted(new)[:_NAMES])
            count = "1 damaged file is" if len(keys) == 1 else f"{len(keys)} damaged files are"
            log.error(
                "ALERT: %s not served ('wormfs status', 'wormfs verify'): %s%s",
                count, names, ", …" if len(new) > _NAMES else "",
            )  # fmt: skip
        for key in filesystem.read_directly(new):
            log.error(
                "ALERT: %s is open and read by the kernel itself until it is closed (kernel_reads)", show(key)
            )
        await threads.run(self._caches.forget_content, inodes)

    async def _serve(self, stack: Stack) -> Unavailable | None:
        """Mount and answer until the mount is gone or the time to stop is over.

        Returns why it cannot be mounted, if it cannot.
        """
        orders = self._orders
        over = trio.Event()
        counters = self._counters = Counters()
        caches = self._caches = KernelCaches()
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[None]) -> None:
                operations = WormOperations(stack.filesystem)
                await session.serve(
                    operations,
                    orders.mountpoint,
                    fsname=orders.source,
                    counters=counters,
                    caches=caches,
                    passthrough=operations.passthrough,
                    task_status=task_status,
                )
                over.set()

            try:
                await nursery.start(serve)
            except OSError as error:
                return Unavailable(f"cannot be mounted at {orders.mountpoint}: {error.strerror or error}")
            mount = await threads.run(mounts.top_mount, orders.mountpoint)
            device = mount.device if mount is not None else None
            self._phase = "ready"
            self._tell("ready", guarantee=stack.backend.traits.guarantee.name.lower())
            self._throughput = Throughput(counters, SystemClock())
            nursery.start_soon(self._throughput.run)
            nursery.start_soon(self._report_space, stack)
            nursery.start_soon(self._health(stack).run)
            nursery.start_soon(self._end_session, device, nursery)
            await over.wait()
            nursery.cancel_scope.cancel()
        if over.is_set():
            await self._finish_closed(stack, device)
        return None

    async def _finish_closed(self, stack: Stack, device: str | None) -> None:
        """The kernel has ended the session: finish files whose RELEASE was lost with it."""
        until = trio.current_time() + _DESTROYED_S
        while device is None or await threads.run(mounts.still_exists, device):
            if trio.current_time() > until:
                log.warning("the connection was cut while files were open: these are not finished")
                return
            # The session learns of the end a moment before the file system is gone.
            await trio.sleep(_DESTROYED_PAUSE_S)
        await stack.filesystem.release_all()

    async def _end_session(self, device: str | None, nursery: trio.Nursery) -> None:
        await self._stop_asked.wait()
        self._phase = "stopping"
        if device is not None:
            # Only our own mount: a new daemon may have put another in its place already.
            await threads.run(
                partial(mounts.detach, self._orders.mountpoint, self._orders.source, device=device)
            )
        await trio.sleep(self._left_s())
        log.warning("files are still open; whoever has them gets an error now")
        nursery.cancel_scope.cancel()

    def _health(self, stack: Stack) -> Health:
        def tell(checked: Checked) -> None:
            self._tell("check", **checked.to_message())

        return Health(stack.backend, self._orders.settings.check_interval_s, SystemClock(), tell)

    async def _report_space(self, stack: Stack) -> None:
        while True:
            try:
                self._space = await stack.space()
                self._tell("space", **space_to_message(self._space))
            except WormfsError as error:
                log.debug("room unknown: %s", error)  # the last known numbers stay
            try:
                self._spool_room_bytes = await threads.run_abandonable(stack.reserve.free_bytes)
            except WormfsError as error:
                log.debug("room for the spool unknown: %s", error)
            await trio.sleep(_SPACE_EVERY_S)


def _open_stack(backend: Backend, orders: Orders) -> Stack:
    """Blocks for the state directory's disk. Raises Unavailable, SettingsError."""
    return stacks.open_stack(
        backend,
        orders.settings,
        orders.spool_directory,
        orders.instance_id,
        SystemClock(),
        StatePlace(Path(orders.state_directory), stacks.read_boot_id()),
    )


def main() -> int:
    """The process. Returns its exit status."""
    # Typed at a terminal it is meant for the supervisor, which then stops the workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # `systemctl kill -s USR1` reaches everybody; the supervisor tells us what it means.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    channel_socket = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(channel_socket.fileno(), False)
    orders = receive(channel_socket)
    if orders is None:
        return 0
    logs.set_up(orders.backend, orders.log_level)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # a service may not even ask
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        trio.run(_run, orders, channel_socket)
    except Exception:
        log.exception("the worker ends: nobody foresaw this")
        return 1
    return 0


async def _run(orders: Orders, channel_socket: socket.socket) -> None:
    channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(channel_socket)))
    try:
        await Worker(orders, channel).run()
    finally:
        await channel.aclose()


if __name__ == "__main__":
    sys.exit(main())
