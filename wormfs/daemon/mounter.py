"""The mounter: mounts and unmounts for a daemon that may not, and does nothing else.

It runs beside the daemon as root with CAP_SYS_ADMIN, in the mount namespace of the whole machine. Whoever
may connect can have wormfs' own kind of FUSE file system mounted at the configured mountpoint or directly
below it, always nosuid and nodev, and have such mounts taken away; nothing else, nowhere else. Each request
has a process of its own, so one that waits for a hung mount holds nobody up (``daemon.mounterqueue``). What
somebody asked for who is gone is not done, and a mount that he did not receive is taken away again. See
``fuse.mounterclient`` for the requests.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import suppress
from typing import Any

from wormfs.daemon import mounts
from wormfs.daemon.mounterqueue import Caller, MounterQueue
from wormfs.daemon.notify import Notifier
from wormfs.fuse import mounting

log = logging.getLogger(__name__)

_SOCKET_MODE = 0o660
_BACKLOG = 128
_RECEIVED_S = 5.0
"""From a new mount to the word that its descriptor has arrived."""


class Mounter:
    """What one request may have done."""

    def __init__(self, mountpoint: str):
        """``mountpoint``: links resolved."""
        self._mountpoint = mountpoint

    def serve(self, caller: Caller) -> None:
        """Do what he asks for and tell him. Blocks."""
        if caller.is_gone:
            return  # by now he may want the contrary
        number, descriptor = 0, None
        try:
            descriptor = self.answer(caller.request, caller.uid, caller.gid)
        except (ValueError, TypeError):
            number = errno.EINVAL
        except OSError as error:
            number = error.errno or errno.EIO
        if number not in (0, errno.EINVAL, errno.EBUSY):
            request = str(caller.request)[:200]
            log.warning("refused process %d: %s: %s", caller.pid, request, os.strerror(number))
        if descriptor is None:
            with suppress(OSError):  # gone meanwhile
                caller.reply(number)
        else:
            self._hand_over(caller, descriptor)

    def _hand_over(self, caller: Caller, descriptor: int) -> None:
        """A mount lives as long as its descriptor: one that did not arrive has left a dead mount."""
        mount = mounts.top_mount(caller.path)
        try:
            caller.reply(0, [descriptor])
            caller.connection.settimeout(_RECEIVED_S)
            received = caller.connection.recv(1) != b""
        except OSError:
            received = False
        os.close(descriptor)
        # The queue lets nobody else mount or unmount there meanwhile.
        if not received and mount is not None and mount == mounts.top_mount(caller.path):
            mounting.unmount_here(caller.path, lazy=True)
            log.warning("unmounted %s again: process %d did not take it over", caller.path, caller.pid)

    def answer(self, request: dict[str, Any], uid: int, gid: int) -> int | None:
        """Do it; the descriptor, if it is a new mount. Raises OSError: EPERM for what is not allowed."""
        path = str(request.get("path", ""))
        if not self._allowed(path):
            raise OSError(errno.EPERM, "not a place of ours")
        match request.get("op"):
            case "mount":
                with mounting.without_links(path) as place:
                    return mounting.mount_here(place, fsname=str(request.get("source", "")), uid=uid, gid=gid)
            case "unmount":
                self._require_ours(path)
                mounting.unmount_here(path, lazy=request.get("lazy") is True)
                return None
            case "read_ahead":
                self._require_ours(path)
                mounting.raise_read_ahead_here(path, int(request.get("kb", 0)))
                return None
            case _:
                raise OSError(errno.EINVAL, "no such request")

    def _allowed(self, path: str) -> bool:
        name = path.removeprefix(f"{self._mountpoint}/")
        # For the kernel a path ends at NUL: "..\0" would be "..".
        below = path != name and not {"/", "\0"} & set(name) and name not in ("", ".", "..")
        return path == self._mountpoint or below

    def _require_ours(self, path: str) -> None:
        top = mounts.top_mount(path)
        if top is None or top.kind != mounts.KIND:
            raise OSError(errno.EINVAL, "nothing of ours is mounted there")


def serve(mountpoint: str, address: str, notifier: Notifier) -> None:
    """Answer at the socket ``address`` until killed; the group that may connect is ours. Raises OSError."""
    mounter = Mounter(mountpoint)
    with suppress(FileNotFoundError):
        os.unlink(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        before = os.umask(0o777 & ~_SOCKET_MODE)
        try:
            listening.bind(address)
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
        queue = MounterQueue(listening, mounter.serve)
        notifier.ready(f"mounts at {mountpoint} for whoever may connect to {address}")
        queue.run()
