"""The proxy that other tests trust to break connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.faultproxy import (
    Bandwidth,
    BlackHole,
    Direction,
    FaultProxy,
    Latency,
    LimitData,
    Refuse,
    ResetPeer,
    Slicer,
    SlowClose,
)

BIG = b"0123456789abcdef" * 40_000


class Echo:
    """A server that sends back what it gets, and counts it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.got = 0
        self.threads: list[threading.Thread] = []
        self.acceptor = threading.Thread(target=self.accept)
        self.acceptor.start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                thread = threading.Thread(target=self.serve, args=(connection,))
                thread.start()
                self.threads.append(thread)

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.got += len(data)
                connection.sendall(data)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in [self.acceptor, *self.threads]:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.address) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(proxy.address, 5) as client:
        yield client


def receive(client: socket.socket, size: int) -> bytes:
    """Up to ``size`` bytes; fewer only when the connection properly ended."""
    got = bytearray()
    while len(got) < size and (data := client.recv(size - len(got))):
        got += data
    return bytes(got)


def ask(client: socket.socket, data: bytes = b"hello") -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def silent(client: socket.socket, seconds: float = 0.2) -> bool:
    client.settimeout(seconds)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


def test_without_faults_everything_passes(client: socket.socket, proxy: FaultProxy) -> None:
    sender = threading.Thread(target=client.sendall, args=(BIG,))
    sender.start()
    assert receive(client, len(BIG)) == BIG
    sender.join()
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert proxy.accepted == 1


@pytest.mark.parametrize("direction", Direction)
def test_latency_on_a_connection_that_exists(
    client: socket.socket, proxy: FaultProxy, direction: Direction
) -> None:
    assert ask(client) == b"hello"
    with proxy.fault(Latency(0.15), direction):
        began = time.monotonic()
        assert ask(client) == b"hello"
        took = time.monotonic() - began
    assert took >= (0.3 if direction is Direction.BOTH else 0.15)
    began = time.monotonic()
    ask(client)
    assert time.monotonic() - began < 0.15


def test_latency_does_not_slow_a_stream_down(client: socket.socket, proxy: FaultProxy) -> None:
    with proxy.fault(Latency(0.1), Direction.DOWN):
        began = time.monotonic()
        sender = threading.Thread(target=client.sendall, args=(BIG,))
        sender.start()
        assert receive(client, len(BIG)) == BIG
        sender.join()
    assert time.monotonic() - began < 2


def test_a_half_open_connection_takes_requests_and_gives_no_answer(
    client: socket.socket, proxy: FaultProxy, echo: Echo
) -> None:
    with proxy.fault(BlackHole(), Direction.DOWN):
        client.sendall(b"hello")
        assert silent(client)
        assert echo.got == 5
    # A partition that ends: what was under way arrives.
    assert receive(client, 5) == b"hello"


def test_a_black_hole_swallows_both_ways_and_new_connections(
    client: socket.socket, proxy: FaultProxy, echo: Echo
) -> None:
    with proxy.fault(BlackHole()):
        client.sendall(b"hello")
        assert silent(client)
        with socket.create_connection(proxy.address, 5) as late:
            late.sendall(b"x")
            assert silent(late)
        assert echo.got == 0
    assert receive(client, 5) == b"hello"


def test_a_black_hole_with_a_limit_ends_in_a_reset(client: socket.socket, proxy: FaultProxy) -> None:
    with proxy.fault(BlackHole(reset_after_s=0.1)):
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_reset_at_the_first_byte(client: socket.socket, proxy: FaultProxy, echo: Echo) -> None:
    assert ask(client) == b"hello"
    with proxy.fault(ResetPeer(), Direction.DOWN):
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert echo.got == 10, "the request had arrived; only the answer was lost"
    with socket.create_connection(proxy.address, 5) as late:
        assert ask(late) == b"hello"


def test_sliced_bytes_arrive_whole(client: socket.socket, proxy: FaultProxy) -> None:
    with proxy.fault(Slicer(3, 0.01), Direction.DOWN):
        client.sendall(b"0123456789")
        assert len(client.recv(100)) < 10
        assert len(receive(client, 7)) == 7


@pytest.mark.parametrize("clean", [True, False])
def test_an_answer_is_cut_after_some_bytes(client: socket.socket, proxy: FaultProxy, clean: bool) -> None:
    assert ask(client, b"before") == b"before"
    with proxy.fault(LimitData(4, clean), Direction.DOWN):
        client.sendall(b"0123456789")
        assert receive(client, 4) == b"0123"
        if clean:
            assert client.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_request_is_cut_after_some_bytes(client: socket.socket, proxy: FaultProxy, echo: Echo) -> None:
    with proxy.fault(LimitData(4), Direction.UP):
        client.sendall(b"0123456789")
        with pytest.raises(ConnectionResetError):
            while client.recv(100):
                pass
    assert echo.got <= 4


def test_the_end_comes_late(client: socket.socket, proxy: FaultProxy) -> None:
    with proxy.fault(SlowClose(0.2), Direction.DOWN):
        client.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        assert client.recv(1) == b""
        assert time.monotonic() - began >= 0.15


def test_bandwidth(client: socket.socket, proxy: FaultProxy) -> None:
    with proxy.fault(Bandwidth(100_000), Direction.DOWN):
        began = time.monotonic()
        assert ask(client, b"x" * 20_000) == b"x" * 20_000
        assert time.monotonic() - began >= 0.15


def test_refused_connections_and_old_ones_that_live_on(client: socket.socket, proxy: FaultProxy) -> None:
    assert ask(client) == b"hello"
    with proxy.fault(Refuse()):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(proxy.address, 5)
        assert ask(client) == b"hello"
    with socket.create_connection(proxy.address, 5) as late:
        assert ask(late) == b"hello"


def test_cut_resets_what_is_open_and_nothing_else(client: socket.socket, proxy: FaultProxy) -> None:
    assert ask(client) == b"hello"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert proxy.open_connections == 0
    with socket.create_connection(proxy.address, 5) as late:
        assert ask(late) == b"hello"


def test_faults_add_up_and_clear_ends_them(client: socket.socket, proxy: FaultProxy) -> None:
    slow = proxy.add(Latency(0.1), Direction.UP)
    proxy.add(Latency(0.1), Direction.DOWN)
    proxy.add(Slicer(2))
    began = time.monotonic()
    assert ask(client) == b"hello"
    assert time.monotonic() - began >= 0.2
    proxy.remove(slow)
    proxy.remove(slow)
    proxy.clear()
    began = time.monotonic()
    assert ask(client) == b"hello"
    assert time.monotonic() - began < 0.1


def test_a_server_that_is_not_there_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    # Already the connect may see it.
    with (
        FaultProxy(address) as proxy,
        pytest.raises(ConnectionResetError),
        socket.create_connection(proxy.address, 5) as client,
    ):
        client.recv(1)


def test_bytes_can_be_rewritten(echo: Echo) -> None:
    def shout(direction: Direction, chunk: bytes) -> bytes:
        return chunk.upper() if direction is Direction.DOWN else chunk

    with (
        FaultProxy(echo.address, rewrite=shout) as proxy,
        socket.create_connection(proxy.address, 5) as client,
    ):
        assert ask(client) == b"HELLO"


def test_ending_the_proxy_ends_its_connections(echo: Echo) -> None:
    with FaultProxy(echo.address) as proxy:
        proxy.add(BlackHole())
        client = socket.create_connection(proxy.address, 5)
        client.sendall(b"hello")
    with client, pytest.raises(ConnectionError):
        client.recv(1)
    assert not any(thread.name == "faultproxy" for thread in threading.enumerate())
