"""The control socket: how commands talk to a running daemon.

``state_directory/control.sock`` (0600), one JSON object per line, one reply per request::

    {"request": "status"}                                   → {"ok": true, ...}
    {"request": "reload"}
    {"request": "stop", "mode": "lazy", "timeout_s": 30}
    {"backend": "exams", "request": {"op": ...}, "timeout_s": 10}
                                                            → {"ok": false, "error": "why"}
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from wormfs.daemon.messages import MAX_LINE_BYTES, LineReader, Message, ProtocolError, decode, encode
from wormfs.daemon.state import CONTROL_NAME
from wormfs.errors import BackendFault, Unavailable

log = logging.getLogger(__name__)

_BACKLOG = 16
_SEND_S = 10.0
_CREDENTIALS = struct.Struct("iII")
"""struct ucred: pid, uid, gid."""

PEER_UID = "peer_uid"
"""The field of a message in which a handler finds who asks, whatever the client wrote there."""

Handler = Callable[[Message], Awaitable[Message]]


class ControlClient:
    """Asks the daemon that owns a state directory. Blocking."""

    def __init__(self, state_directory: Path):
        self._directory = state_directory

    def request(self, message: Message, *, timeout_s: float) -> Message:
        """Send one request and return the reply, which has ``ok``.

        Raises Unavailable when no daemon listens there or it does not answer within ``timeout_s``
        seconds, BackendFault when the answer makes no sense.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            try:
                with _short_address(self._directory) as address:
                    connection.connect(address)
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
                raise Unavailable(
                    f"no wormfs daemon is running with state directory {self._directory}"
                ) from error
            except OSError as error:
                raise Unavailable(f"{self._directory / CONTROL_NAME}: {error.strerror or error}") from error
            try:
                connection.sendall(encode(message))
                with connection.makefile("rb") as replies:
                    line = replies.readline(MAX_LINE_BYTES)
            except TimeoutError as error:
                raise Unavailable(f"the daemon did not answer within {timeout_s:g} s") from error
            except OSError as error:
                raise Unavailable(f"the daemon hung up: {error.strerror}") from error
        if not line:
            raise Unavailable("the daemon ended without an answer")
        try:
            return decode(line)
        except ProtocolError as error:
            raise BackendFault(f"the daemon's answer makes no sense: {error}") from error


async def serve(
    state_directory: Path, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer requests with ``handler`` until cancelled. Reports itself started when it listens."""
    with _listen(state_directory) as listening:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        task_status.started()
        try:
            await trio.serve_listeners(partial(_converse, handler), [listener])
        finally:
            with suppress(FileNotFoundError):
                (state_directory / CONTROL_NAME).unlink()


async def _converse(handler: Handler, stream: trio.abc.Stream) -> None:
    reader = LineReader(stream)
    peer_uid = _peer_uid(stream)
    async with stream:
        with suppress(trio.BrokenResourceError):
            while True:
                try:
                    message = await reader.receive()
                except ProtocolError as error:
                    await stream.send_all(encode({"ok": False, "error": str(error)}))
                    return
                if message is None:
                    return
                message[PEER_UID] = peer_uid
                # A daemon that ends still gives its last answer; every handler's time is bounded.
                with trio.CancelScope(shield=True):
                    try:
                        reply = await handler(message)
                    except ProtocolError as error:
                        reply = {"ok": False, "error": str(error)}
                    except Exception as error:
                        log.exception("a request was not answered, the daemon goes on: nobody foresaw this")
                        reply = {"ok": False, "error": f"unforeseen: {type(error).__name__}: {error}"}
                    with trio.move_on_after(_SEND_S):
                        await stream.send_all(encode(reply))


def _peer_uid(stream: trio.abc.Stream) -> int:
    """Who connected, as the kernel knows it (unix(7), SO_PEERCRED)."""
    assert isinstance(stream, trio.SocketStream)
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


@contextmanager
def _listen(directory: Path) -> Iterator[socket.socket]:
    # The lock of the state directory is held: an old socket file is of a daemon that is gone.
    with suppress(FileNotFoundError):
        (directory / CONTROL_NAME).unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        before = os.umask(0o177)
        try:
            with _short_address(directory) as address:
                listening.bind(address)
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
        yield listening


@contextmanager
def _short_address(directory: Path) -> Iterator[str]:
    """An address for the socket that fits into the 107 bytes of sockaddr_un, however long the path is."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{CONTROL_NAME}"
    finally:
        os.close(fd)
