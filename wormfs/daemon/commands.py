"""What the running daemon does for ``wormfs status``, ``wormfs umount`` and other commands.

Every answer comes within a known time, whatever a worker or a backend does.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import trio

from wormfs import threads
from wormfs.config import BackendSettings
from wormfs.daemon import backendstatus, mounts
from wormfs.daemon.backendstatus import Answer
from wormfs.daemon.channel import NoAnswer, RequestFailed
from wormfs.daemon.control import PEER_UID
from wormfs.daemon.messages import Message, ProtocolError
from wormfs.daemon.workers import BackendWorker, WorkerState
from wormfs.fuse.mounting import unmount

if TYPE_CHECKING:
    from wormfs.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)

_STATUS_S = 0.4
"""A command that takes half a second to start shall be done within one."""
_FORWARD_S = 10.0
_LONGEST_FORWARD_S = 3600.0
_SHUT_DOWN = (WorkerState.DOWN, WorkerState.STOPPED)


class Commands:
    """Answers the requests of the control socket for one supervisor."""

    def __init__(self, supervisor: Supervisor):
        self._supervisor = supervisor

    async def answer(self, message: Message) -> Message:
        """The reply to one request; ``ok`` says whether it was done. Raises ProtocolError."""
        if "backend" in message:
            return await self._forward(message)
        match message.get("request"):
            case "status":
                return await self._status()
            case "reload":
                return await self._supervisor.reload("wormfs reload")
            case "stop":
                return await self._stop(message)
            case other:
                return {"ok": False, "error": f"the daemon knows no request {other!r}"}

    # -- status

    async def _status(self) -> Message:
        supervisor = self._supervisor
        backends: dict[str, Message] = {}
        async with trio.open_nursery() as nursery:
            for name, worker in supervisor.workers.items():
                # Looked up now: a reload may be letting go of it.
                settings = supervisor.settings.backends.get(name)
                if settings is not None:
                    found = backends[name] = Message()
                    nursery.start_soon(_tell_status, worker, settings, found)
        return {
            "ok": True,
            "pid": os.getpid(),
            "mountpoint": supervisor.mountpoint,
            "backends": backends,
        }

    # -- requests for a worker

    async def _forward(self, message: Message) -> Message:
        worker = self._supervisor.workers.get(str(message["backend"]))
        if worker is None:
            return {"ok": False, "error": f"there is no backend {message['backend']!r}"}
        request = message.get("request")
        if not isinstance(request, dict):
            return {"ok": False, "error": "a request for a backend must be a JSON object"}
        if request.get("op") == "stop":
            return {"ok": False, "error": "a single worker is not stopped; it would be restarted"}
        timeout_s = min(_seconds(message, _FORWARD_S), _LONGEST_FORWARD_S)
        try:
            # Not what the client says of itself, but what the kernel says of it.
            known = {**request, "uid": message.get(PEER_UID)}
            return {"ok": True, "reply": await worker.request(known, timeout_s=timeout_s)}
        except NoAnswer as error:
            return {"ok": False, "error": f"{worker.name}: {error}"}
        except RequestFailed as error:
            return {"ok": False, "error": str(error)}

    # -- stop

    async def _stop(self, message: Message) -> Message:
        """Unmount everything and end. ``clean`` refuses while somebody uses the mount, before anything is
        torn down, and answers when the daemon has finished; ``lazy`` answers when all is detached."""
        supervisor = self._supervisor
        timeout_s = _seconds(message, supervisor.settings.stop_timeout_s)
        if message.get("mode") == "lazy":
            supervisor.ask_stop("wormfs umount --lazy", timeout_s)
            await supervisor.detached.wait()
            return {"ok": True, "pid": os.getpid()}
        users = await threads.run(mounts.users_of, supervisor.mountpoint)
        busy = None if users else await self._unmount_all()
        if users or busy is not None:
            users = users or await threads.run(mounts.users_of, supervisor.mountpoint)
            return {
                "ok": False,
                "error": f"{busy or supervisor.mountpoint} is busy",
                "users": [asdict(user) for user in users],
            }
        supervisor.ask_stop("wormfs umount", timeout_s)
        await supervisor.stopped.wait()
        return {"ok": True, "pid": os.getpid(), "unfinished": supervisor.unfinished()}

    async def _unmount_all(self) -> str | None:
        """umount2 without force; says what was busy. Backends unmounted before that one come back by
        themselves: their workers are restarted."""
        supervisor = self._supervisor
        mounted = [worker.mountpoint for worker in supervisor.workers.values()]
        for mountpoint in mounted:
            try:
                await threads.run(_unmount, mountpoint)
            except OSError as error:
                log.warning("%s cannot be unmounted: %s", mountpoint, error.strerror)
                return mountpoint
        return None


async def _tell_status(worker: BackendWorker, settings: BackendSettings, found: Message) -> None:
    found.update(backendstatus.to_message(worker, settings, await _ask_status(worker)))


async def _ask_status(worker: BackendWorker) -> Answer:
    state, reason, message = worker.state, worker.reason, Message()
    if worker.pid is not None:
        try:
            message = await worker.request({"op": "status"}, timeout_s=_STATUS_S)
        except (NoAnswer, RequestFailed) as error:
            # A worker that has just been started cannot answer yet; of one that hangs the reason is known.
            if worker.state not in (WorkerState.STARTING, WorkerState.HUNG, *_SHUT_DOWN):
                state, reason = WorkerState.HUNG, f"its worker is alive but: {error}"
    return Answer(state, reason, message)


def _unmount(mountpoint: str) -> None:
    """Raises OSError; nothing mounted there is fine."""
    top = mounts.top_mount(mountpoint)
    if top is not None and top.kind == mounts.KIND:
        try:
            unmount(mountpoint, lazy=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise


def _seconds(message: Message, otherwise: float) -> float:
    value = message.get("timeout_s", otherwise)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise ProtocolError("timeout_s must be a number of seconds")
    return float(value)
