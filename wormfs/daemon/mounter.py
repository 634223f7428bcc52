"""The mounter: mounts and unmounts for a daemon that may not, and does nothing else.

It runs beside the daemon as root with CAP_SYS_ADMIN, in the mount namespace of the whole machine. Whoever
may connect can have wormfs' own kind of FUSE file system mounted at the configured mountpoint or directly
below it, always nosuid and nodev, and have such mounts taken away; nothing else, nowhere else. Each request
has a process of its own, so one that waits for a hung mount holds nobody up. See ``fuse.mounterclient`` for
the requests.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import socketserver
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from wormfs.daemon import mounts
from wormfs.daemon.notify import Notifier
from wormfs.fuse import mounting
from wormfs.fuse.mounterclient import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("iII")
"""struct ucred: pid, uid, gid."""
_SOCKET_MODE = 0o660
_REQUEST_S = 60.0


class Mounter:
    """What one request may have done."""

    def __init__(self, mountpoint: str):
        """``mountpoint``: links resolved."""
        self._mountpoint = mountpoint

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

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            _converse(self.request, mounter.answer)

    with suppress(FileNotFoundError):
        os.unlink(address)
    before = os.umask(0o777 & ~_SOCKET_MODE)
    try:
        server = _Server(address, Handler)
    finally:
        os.umask(before)
    with server:
        notifier.ready(f"mounts at {mountpoint} for whoever may connect to {address}")
        server.serve_forever()


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    socket_type = socket.SOCK_SEQPACKET
    request_queue_size = 128
    max_children = 256


def _converse(connection: socket.socket, answer: Callable[[dict[str, Any], int, int], int | None]) -> None:
    connection.settimeout(_REQUEST_S)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    message = connection.recv(MAX_MESSAGE_BYTES)
    descriptors: list[int] = []
    number = 0
    try:
        request = json.loads(message)
        if not isinstance(request, dict):
            raise ValueError("not an object")
        if (descriptor := answer(request, uid, gid)) is not None:
            descriptors.append(descriptor)
    except (ValueError, TypeError):
        number = errno.EINVAL
    except OSError as error:
        number = error.errno or errno.EIO
    if number not in (0, errno.EINVAL, errno.EBUSY):
        log.warning("refused process %d: %s: %s", pid, message[:200], os.strerror(number))
    socket.send_fds(connection, [json.dumps({"errno": number}).encode()], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
