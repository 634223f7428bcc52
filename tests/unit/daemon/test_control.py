"""The control socket: one line in, one line out, whatever comes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from wormfs import threads
from wormfs.daemon import control
from wormfs.daemon.control import ControlClient
from wormfs.daemon.messages import Message, ProtocolError
from wormfs.errors import BackendFault, Unavailable


async def answer(message: Message) -> Message:
    if message.get("request") == "sleep":
        await trio.sleep(message["s"])
    if message.get("request") == "nonsense":
        raise ProtocolError("that is nonsense")
    if message.get("request") == "crash":
        raise KeyError("nobody foresaw this")
    return {"ok": True, "got": message}


@pytest.fixture(params=["short", "long"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """sockaddr_un holds 107 bytes; the second one needs more."""
    path = tmp_path if request.param == "short" else tmp_path / ("x" * 150)
    path.mkdir(exist_ok=True)
    return path


def test_a_request_and_its_answer(directory: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(control.serve, directory, answer)
            assert (directory / "control.sock").stat().st_mode & 0o7777 == 0o600
            client = ControlClient(directory)

            def ask(message: Message) -> Message:
                return client.request(message, timeout_s=5)

            uid = os.geteuid()
            # Who asks is what the kernel says, not what the client does.
            got = await threads.run(ask, {"request": "x", "peer_uid": 4711})
            assert got == {"ok": True, "got": {"request": "x", "peer_uid": uid}}
            refused = await threads.run(ask, {"request": "nonsense"})
            assert refused == {"ok": False, "error": "that is nonsense"}
            failed = await threads.run(ask, {"request": "crash"})
            assert failed == {"ok": False, "error": "unforeseen: KeyError: 'nobody foresaw this'"}
            deep = b"[" * 100_000 + b"\n"
            assert (await threads.run(talk, directory, deep)).startswith(b'{"ok":false,"error":"not JSON')
            assert (await threads.run(talk, directory, b"no json\n")).startswith(b'{"ok":false')
            assert await threads.run(talk, directory, b"half a li") == b""
            got = await threads.run(ask, {"request": "y"})
            assert got == {"ok": True, "got": {"request": "y", "peer_uid": uid}}
            nursery.cancel_scope.cancel()
        assert not (directory / "control.sock").exists()

    trio.run(main)


def talk(directory: Path, raw: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection, control._short_address(directory) as address:
        connection.settimeout(5)
        connection.connect(address)
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1000)


def test_the_last_answer_is_given_though_the_daemon_ends(tmp_path: Path) -> None:
    async def main() -> None:
        replies: list[Message] = []

        async def ask() -> None:
            client = ControlClient(tmp_path)

            def request() -> Message:
                return client.request({"request": "sleep", "s": 0.2}, timeout_s=5)

            replies.append(await threads.run(request))

        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            await nursery.start(control.serve, tmp_path, answer)
            outer.start_soon(ask)
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        assert replies[0]["ok"]

    trio.run(main)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no wormfs daemon is running"):
        ControlClient(tmp_path).request({}, timeout_s=1)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    with pytest.raises(Unavailable, match="no wormfs daemon is running"):
        ControlClient(tmp_path).request({}, timeout_s=1)
    with pytest.raises(Unavailable):
        ControlClient(tmp_path / "missing").request({}, timeout_s=1)


@pytest.mark.parametrize(
    ("reply", "error"), [(b"", Unavailable), (b"nonsense\n", BackendFault), (None, Unavailable)]
)
def test_answers_that_make_no_sense(tmp_path: Path, reply: bytes | None, error: type[Exception]) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "control.sock"))
            listening.listen()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(threads.run, respond, listening)
                with pytest.raises(error):
                    await threads.run(lambda: ControlClient(tmp_path).request({}, timeout_s=0.3))

    def respond(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(100)
            if reply is None:
                connection.recv(100)  # until the client gives up
            else:
                connection.sendall(reply)

    trio.run(main)
