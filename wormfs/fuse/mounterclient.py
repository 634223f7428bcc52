"""Asking the mounter (``daemon.mounter``) to mount and unmount.

A service that is shut into a mount namespace of its own cannot mount for others, and one that may mount can
do nearly everything. So systemd's units leave it to a small program beside the daemon, which itself runs
without CAP_SYS_ADMIN. One request per connection of a SOCK_SEQPACKET socket, JSON::

    {"op": "mount", "path": "/mnt/worm/exams", "source": "wormfs#exams"}   → {"errno": 0} and a descriptor
                                                          "received" →
    {"op": "unmount", "path": "/mnt/worm/exams", "lazy": true}             → {"errno": 0}
    {"op": "read_ahead", "path": "/mnt/worm/exams", "kb": 1024}            → {"errno": 0}

What is not received is unmounted again, and what somebody asked for who has hung up is not done. So a process
may end in the middle of a request, and whoever asks afterwards finds nothing of it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import suppress
from typing import Any

from wormfs.clock import monotonic, pause

VARIABLE = "WORMFS_MOUNTER"
"""Of the environment: where the mounter listens. Without it, wormfs mounts by itself."""

MAX_MESSAGE_BYTES = 64 << 10
_PATIENCE_S = 30.0
_QUEUE_FULL_S = 0.02
_RECEIVED = b"received"


def address() -> str | None:
    """Where the mounter listens; ``None``: there is none to be asked."""
    return os.environ.get(VARIABLE) or None


def mount(mounter: str, path: str, source: str) -> int:
    """The descriptor of a new FUSE connection, mounted at ``path``. Blocks; raises OSError."""
    _, descriptors = _ask(mounter, {"op": "mount", "path": path, "source": source}, path)
    if len(descriptors) != 1:
        raise OSError(errno.EPROTO, "the mounter sent no descriptor", path)
    return descriptors[0]


def unmount(mounter: str, path: str, *, lazy: bool) -> None:
    """Blocks; raises OSError as umount2(2) does."""
    _ask(mounter, {"op": "unmount", "path": path, "lazy": lazy}, path)


def raise_read_ahead(mounter: str, path: str, read_ahead_kb: int) -> None:
    """A kindness: blocks, never fails."""
    try:
        _ask(mounter, {"op": "read_ahead", "path": path, "kb": read_ahead_kb}, path)
    except OSError:
        return


def _ask(mounter: str, request: dict[str, Any], path: str) -> tuple[dict[str, Any], list[int]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_PATIENCE_S)
        try:
            _connect(connection, mounter)
            connection.send(json.dumps(request).encode())
            reply, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, 1)
            if descriptors:
                with suppress(OSError):  # it is gone: then it does not unmount either
                    connection.send(_RECEIVED)
        except OSError as error:
            raise OSError(
                error.errno or errno.ETIMEDOUT, f"the mounter at {mounter} does not answer"
            ) from error
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    if not reply:
        raise OSError(errno.ECONNRESET, f"the mounter at {mounter} ended without an answer")
    answer = json.loads(reply)
    if answer["errno"]:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), path)
    return answer, descriptors


def _connect(connection: socket.socket, mounter: str) -> None:
    """With a time limit, connect(2) does not wait for room in the queue of the socket, but says EAGAIN."""
    until = monotonic() + _PATIENCE_S
    while True:
        try:
            connection.connect(mounter)
        except BlockingIOError:
            if monotonic() > until:
                raise
            pause(_QUEUE_FULL_S)
        else:
            return
