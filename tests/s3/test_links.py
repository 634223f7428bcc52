"""Connections of one's own to servers that behave badly: an answer is whole, or an error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from wormfs.backends.s3.links import Into, Links

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: x\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
CUT = {
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "after the head": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "before it began": b"",
    "no HTTP": b"hello\r\n\r\n",
}


class Scripted:
    """Answers each connection's requests with given bytes, then hangs up or stays silent."""

    def __init__(self) -> None:
        self.answers: list[list[bytes]] = []
        """One list for each connection; after it the connection is closed, or left open by ``b"stay"``."""
        self.connections = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listening.accept()
            except OSError:
                return
            if not self.answers:
                link.close()
                return
            self.connections += 1
            self._held.append(link)
            for answer in self.answers.pop(0):
                if answer == b"stay":
                    break
                if not link.recv(65536):
                    break
                link.sendall(answer)
            else:
                link.close()

    def close(self) -> None:
        self.answers.clear()
        socket.create_connection(self._listening.getsockname()).close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._listening.close()
        for link in self._held:
            link.close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


@pytest.fixture
def links(server: Scripted) -> Iterator[Links]:
    made = Links(server.endpoint, None, connect_timeout_s=5.0, timeout_s=0.3, kept=2)
    yield made
    made.close()


def ask(links: Links, into: Into | None = None) -> bytes:
    response = links.exchange("GET", "/x", {"Host": "h"}, into=into)
    assert response.status == 200
    return response.body


def test_a_connection_serves_many_requests(server: Scripted, links: Links) -> None:
    server.answers = [[WHOLE, CHUNKED, WHOLE, b"stay"]]
    assert [ask(links) for _ in range(3)] == [b"hello"] * 3
    assert server.connections == 1


def test_a_server_that_hangs_up_after_an_answer_is_asked_on_a_new_connection(
    server: Scripted, links: Links
) -> None:
    last = WHOLE.replace(b"ETag: x", b"Connection: close")
    server.answers = [[last, b"stay"], [WHOLE], [WHOLE, b"stay"]]
    assert [ask(links), ask(links)] == [b"hello"] * 2
    assert server.connections == 2, "it has said that it hangs up"
    links._resting = [(link, since - 1) for link, since in links._resting]  # a second passes
    assert ask(links) == b"hello"
    assert server.connections == 3, "it has hung up without a word"


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
@pytest.mark.parametrize("buffered", [False, True])
def test_half_an_answer_is_none(buffered: bool, answer: bytes, server: Scripted, links: Links) -> None:
    server.answers = [[answer], [WHOLE, b"stay"]]
    with pytest.raises(ConnectionError):
        ask(links, Into([memoryview(bytearray(5))]) if buffered else None)
    assert ask(links) == b"hello", "the broken connection is not used again"


def test_silence_has_an_end(server: Scripted, links: Links) -> None:
    server.answers = [[b"HTTP/1.1 200 OK\r\n", b"stay"], [WHOLE[:-1], b"stay"]]
    for _ in range(2):
        with pytest.raises(TimeoutError):
            ask(links)


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED], ids=["length", "chunks"])
def test_a_body_goes_where_it_is_wanted(answer: bytes, server: Scripted, links: Links) -> None:
    server.answers = [[answer, answer, b"stay"]]
    buffers = [bytearray(2), bytearray(2), bytearray(4)]
    full: list[int] = []
    response = links.exchange("GET", "/", {}, into=Into([memoryview(each) for each in buffers], full.append))
    assert response.size_bytes == 5
    assert b"".join(buffers)[:5] == b"hello"
    assert full == [0, 1], "the last one has room left"
    with pytest.raises(ConnectionError, match="longer"):
        ask(links, Into([memoryview(bytearray(4))]))


def test_an_error_does_not_go_into_the_buffer(server: Scripted, links: Links) -> None:
    server.answers = [[b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nNoKey", b"stay"]]
    buffer = bytearray(5)
    response = links.exchange("GET", "/", {}, into=Into([memoryview(buffer)]))
    assert (response.status, response.body, bytes(buffer)) == (404, b"NoKey", bytes(5))


def test_no_header_can_bring_in_another_one(links: Links) -> None:
    with pytest.raises(AssertionError):
        links.exchange("GET", "/", {"x": "a\r\ny: b"})
