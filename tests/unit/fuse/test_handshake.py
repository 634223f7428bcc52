"""The one capability that wormfs adds to libfuse's answer, and nothing else."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from wormfs.fuse.handshake import Handshake, HandshakeError

KILLPRIV_V2 = 1 << 28
INIT = 26
UNIQUE = 7


@dataclass
class Kernel:
    """The other end of what stands for /dev/fuse."""

    end: socket.socket
    device_fd: int

    def ask(self, flags: int, opcode: int = INIT, flags2: int | None = None) -> bytes:
        body = struct.pack("<IIII", 7, 40, 1 << 17, flags)
        if flags2 is not None:
            body += struct.pack("<I11I", flags2, *[0] * 11)
        request = struct.pack("<IIQQIIIHH", 40 + len(body), opcode, UNIQUE, 0, 0, 0, 0, 0, 0) + body
        self.end.send(request)
        return request


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.settimeout(5)
    with end:
        yield Kernel(end, device.detach())


def answer(flags: int, error: int = 0) -> bytes:
    body = struct.pack("<IIIIHHIIHH", 7, 31, 1 << 17, flags, 12, 9, 1 << 20, 1, 256, 0)
    return struct.pack("<IiQ", 16 + len(body), error, UNIQUE) + body


def long_answer(flags: int, flags2: int = 0, stack_depth: int = 0) -> bytes:
    body = answer(flags)[16:] + struct.pack("<II", flags2, stack_depth) + bytes(24)
    return struct.pack("<IiQ", 16 + len(body), 0, UNIQUE) + body


@pytest.mark.parametrize(("offered", "added"), [(KILLPRIV_V2 | 1, KILLPRIV_V2), (1, 0)])
def test_the_flag_is_added_only_where_the_kernel_offers_it(kernel: Kernel, offered: int, added: int) -> None:
    request = kernel.ask(offered)
    handshake = Handshake(kernel.device_fd)
    assert os.read(handshake.session_fd, 1 << 16) == request
    os.write(handshake.session_fd, answer(0x21))
    handshake.finish()
    assert kernel.end.recv(4096) == answer(0x21 | added)
    # From here on libfuse's descriptor is the device itself.
    kernel.end.send(b"next request")
    assert os.read(handshake.session_fd, 1 << 16) == b"next request"
    os.write(handshake.session_fd, b"next answer")
    assert kernel.end.recv(4096) == b"next answer"
    assert not os.get_inheritable(handshake.session_fd)
    os.close(handshake.session_fd)


def test_an_error_is_passed_on_as_it_is(kernel: Kernel) -> None:
    kernel.ask(KILLPRIV_V2)
    handshake = Handshake(kernel.device_fd)
    os.read(handshake.session_fd, 1 << 16)
    refusal = struct.pack("<IiQ", 16, -71, UNIQUE)
    os.write(handshake.session_fd, refusal)
    handshake.finish()
    assert kernel.end.recv(4096) == refusal
    os.close(handshake.session_fd)


def test_anything_but_init_first_is_refused(kernel: Kernel) -> None:
    kernel.ask(0, opcode=3)
    with pytest.raises(HandshakeError):
        Handshake(kernel.device_fd)
    os.close(kernel.device_fd)


INIT_EXT = 1 << 30
PASSTHROUGH = 1 << 5


def test_passthrough_is_asked_for_where_it_is_wanted_and_offered(kernel: Kernel) -> None:
    kernel.ask(INIT_EXT | 1, flags2=PASSTHROUGH | 1)
    handshake = Handshake(kernel.device_fd, passthrough=True)
    os.read(handshake.session_fd, 1 << 16)
    os.write(handshake.session_fd, long_answer(0x21))
    device_fd = handshake.finish()
    assert kernel.end.recv(4096) == long_answer(0x21 | INIT_EXT, PASSTHROUGH, 1)
    assert device_fd is not None
    os.write(device_fd, b"by another descriptor")
    assert kernel.end.recv(4096) == b"by another descriptor"
    os.close(device_fd)
    os.close(handshake.session_fd)


@pytest.mark.parametrize(
    ("wanted", "flags", "flags2", "reply"),
    [
        (False, INIT_EXT, PASSTHROUGH, long_answer(0x21)),
        (True, INIT_EXT, 1, long_answer(0x21)),
        (True, 1, PASSTHROUGH, long_answer(0x21)),
        (True, 1, None, long_answer(0x21)),
        (True, INIT_EXT, PASSTHROUGH, answer(0x21)),
    ],
    ids=["not wanted", "not offered", "no second flags", "an old kernel", "an old libfuse"],
)
def test_passthrough_is_not_asked_for_otherwise(
    kernel: Kernel, wanted: bool, flags: int, flags2: int | None, reply: bytes
) -> None:
    kernel.ask(flags, flags2=flags2)
    handshake = Handshake(kernel.device_fd, passthrough=wanted)
    os.read(handshake.session_fd, 1 << 16)
    os.write(handshake.session_fd, reply)
    assert handshake.finish() is None
    assert kernel.end.recv(4096) == reply
    os.close(handshake.session_fd)
    kernel.end.settimeout(1)
    assert kernel.end.recv(1) == b"", "the device is closed"
