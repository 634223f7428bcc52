"""The answer to OPEN is changed on its way, and nothing else is."""

from __future__ import annotations

import os
import queue
import socket
import struct
from collections.abc import Iterator
from typing import cast

import pyfuse3
import pytest
import trio

from wormfs.fuse.loop import _ForwardingTurn, _open_tasks
from wormfs.fuse.passthrough import Passthrough, with_backing

HANDLE, NUMBER, UNIQUE = 5, 3, 1 << 40
KEEP_CACHE, PASSTHROUGH = 1 << 1, 1 << 7


def open_reply(handle: int = HANDLE, flags: int = 0, number: int = 0, unique: int = UNIQUE) -> bytes:
    return struct.pack("=IiQQIi", 32, 0, unique, handle, flags, number)


ENTRY_REPLY = struct.pack("=IiQ", 144, 0, UNIQUE) + bytes(128)
ERROR_REPLY = struct.pack("=IiQ", 16, -5, UNIQUE)


class Session:
    """A session with a socket in the place of /dev/fuse."""

    def __init__(self) -> None:
        self.kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.setblocking(False)
        self.fd = os.dup(device.fileno())
        self.refused: list[str] = []
        self.undelivered: list[int] = []
        self.passthrough = Passthrough(self.refused.append, self.undelivered.append)
        self.passthrough.begin(device.detach(), self.fd)

    def received(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.kernel.recv(1 << 16))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.passthrough.end()
        os.close(self.fd)
        self.kernel.close()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    # Put back afterwards: a session replaces them for its process.
    for name in ("invalidate_inode", "invalidate_entry"):
        monkeypatch.setattr(pyfuse3, name, getattr(pyfuse3, name))
    session = Session()
    yield session
    session.close()


@pytest.mark.parametrize(
    "message",
    [
        open_reply(handle=HANDLE + 1),
        open_reply(unique=0),
        ENTRY_REPLY,
        ERROR_REPLY,
        struct.pack("=IiQ16x", 32, -5, UNIQUE),
        open_reply() + b"x",
        b"",
    ],
    ids=["another handle", "a notification", "longer", "an error", "long error", "odd", "empty"],
)
def test_what_is_not_that_answer_is_left_alone(message: bytes) -> None:
    assert with_backing(message, HANDLE, NUMBER) is None


def test_the_answer_is_diverted_changed_and_passed_on(session: Session) -> None:
    session.passthrough.divert(HANDLE, NUMBER)
    os.write(session.fd, open_reply(flags=KEEP_CACHE | 1))
    assert session.received() == []
    session.passthrough.forward()
    assert session.received() == [open_reply(flags=PASSTHROUGH | 1, number=NUMBER)]
    os.write(session.fd, open_reply())
    session.passthrough.forward()
    assert session.received() == [open_reply()], "the device is back in its place"
    assert not os.get_inheritable(session.fd)


def test_whatever_comes_between_is_passed_on_as_it_is(session: Session) -> None:
    session.passthrough.divert(HANDLE, NUMBER)
    between = [open_reply(handle=9), ENTRY_REPLY]
    for message in [between[0], open_reply(), between[1]]:
        os.write(session.fd, message)
    session.passthrough.forward()
    assert session.received() == [between[0], open_reply(flags=PASSTHROUGH, number=NUMBER), between[1]]


def test_two_in_a_row(session: Session) -> None:
    for handle in (1, 2):
        session.passthrough.divert(handle, NUMBER)
        os.write(session.fd, open_reply(handle))
    session.passthrough.forward()
    assert session.received() == [open_reply(one, PASSTHROUGH, NUMBER) for one in (1, 2)]


@pytest.mark.parametrize("how", ["turn", "end of the task"])
def test_the_next_step_of_the_task_passes_it_on(session: Session, how: str) -> None:
    turn = _ForwardingTurn(session.passthrough)

    async def answer() -> None:
        session.passthrough.divert(HANDLE, NUMBER)
        os.write(session.fd, open_reply())
        if how == "turn":
            async with turn:
                assert len(session.received()) == 1

    async def main() -> None:
        async with _open_tasks(turn) as tasks:
            tasks.start_soon(answer)
        if how != "turn":
            assert len(session.received()) == 1

    trio.run(main)


def test_an_answer_that_is_not_taken_is_told(session: Session) -> None:
    session.kernel.close()
    session.passthrough.divert(HANDLE, NUMBER)
    os.write(session.fd, open_reply())
    session.passthrough.forward()
    assert session.undelivered == [HANDLE]


def test_what_the_kernel_shall_forget_goes_past_the_sessions_descriptor(session: Session) -> None:
    session.passthrough.divert(HANDLE, NUMBER)
    pyfuse3.invalidate_inode(cast("pyfuse3.InodeT", 7), attr_only=False)
    pyfuse3.invalidate_entry(cast("pyfuse3.InodeT", 1), cast("pyfuse3.FileNameT", b"name"))
    assert session.received() == [
        struct.pack("=IiQQqq", 40, 2, 0, 7, 0, 0),
        struct.pack("=IiQQII", 37, 3, 0, 1, 4, 0) + b"name\0",
    ]


def test_pyfuse3s_own_thread_does_it_that_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: queue.Queue[tuple[object, ...]] = queue.Queue()
    monkeypatch.setattr(pyfuse3, "invalidate_entry", lambda *arguments: seen.put(arguments))
    pyfuse3.invalidate_entry_async(cast("pyfuse3.InodeT", 1), cast("pyfuse3.FileNameT", b"name"))
    assert seen.get(timeout=10)[:2] == (1, b"name")


def test_a_kernel_without_it_is_told_of_and_has_no_numbers() -> None:
    refused: list[str] = []
    passthrough = Passthrough(refused.append, lambda handle: None)
    passthrough.begin(None, 0)
    assert refused == ["this kernel does not offer it (Linux 6.9 or later does)"]
    with pytest.raises(OSError, match="not connected"):
        passthrough.register(0)
    passthrough.forward()
    passthrough.end()


def test_after_the_end_numbers_are_given_back_without_a_word(session: Session) -> None:
    """Files whose RELEASE was lost with the mount."""
    session.passthrough.end()
    session.passthrough.unregister(NUMBER)
