"""HTTP/1.1 over connections that are kept: one send, one receive, little else.

For many small requests, and for bodies that go where they are wanted without another copy. Answers are
parsed by httptools (llhttp). Time limits are the kernel's (SO_RCVTIMEO): with Python's own each send and
receive would first be a poll, and each of these gives the interpreter lock away.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httptools

from wormfs import clock

_CHUNK_BYTES = 64 << 10
_MAX_HEAD_BYTES = 64 << 10
_MAX_BODY_BYTES = 32 << 20
"""Of an answer that is collected in memory. The largest that stores give is a page of a listing."""
_IDLE_S = 0.5
"""A connection that has rested longer may have been closed by the server: looked at before it is used."""
_SLOWEST_BYTES_PER_S = 16 << 10
"""An answer that comes slower than this is treated as one that does not come."""


class Response:
    """An answer as it came. ``body`` is empty when it went into the caller's buffer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case."""
        self.size_bytes = 0
        """What went into the caller's buffer."""
        self.complete = False
        self._parts: list[bytes] = []
        self._collected_bytes = 0

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    # Called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        self._collected_bytes += len(part)
        if self._collected_bytes > _MAX_BODY_BYTES:
            raise ConnectionError("the answer is too large")
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self.complete = True


@dataclass(frozen=True, slots=True)
class Into:
    """Where the body of an answer goes."""

    views: Sequence[memoryview]
    """One after the other."""
    filled: Callable[[int], None] = lambda _: None
    """Told the number of each view as soon as it is full."""

    @property
    def size_bytes(self) -> int:
        """How much fits."""
        return sum(map(len, self.views))


class Links:
    """Connections to one endpoint. Safe from any thread."""

    def __init__(
        self,
        endpoint: str,
        trust: ssl.SSLContext | None,
        connect_timeout_s: float,
        timeout_s: float,
        kept: int,
    ) -> None:
        """``trust``: for https. ``kept``: how many connections may rest. Nobody is contacted yet."""
        parts = urllib.parse.urlsplit(endpoint)
        self._host = parts.hostname or ""
        self._port = parts.port or (80 if trust is None else 443)
        self._trust = trust
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._kept = kept
        self._lock = threading.Lock()
        self._resting: list[tuple[socket.socket, float]] = []
        """The one used last is used next; with the time since when it rests."""

    def exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        into: Into | None = None,
    ) -> Response:
        """One request and its whole answer. Blocks.

        Args:
            target: path and query, quoted.
            headers: without Content-Length, which is given here.
            into: where the body of an answer below 300 is put; one that does not fit is an error.

        Raises OSError: TimeoutError, ssl.SSLError, ConnectionError also for an answer that is not whole.
        """
        head = _head(method, target, headers, len(body))
        link = self._take()
        try:
            self._send(link, head + body if body else head)
            response, reusable = self._receive(link, into)
        except BlockingIOError as error:
            link.close()
            raise TimeoutError(f"nothing came within {self._timeout_s:g} s") from error
        except ssl.SSLWantReadError as error:
            link.close()
            raise TimeoutError(f"nothing came within {self._timeout_s:g} s") from error
        except BaseException:
            link.close()
            raise
        if reusable:
            self._give_back(link)
        else:
            link.close()
        return response

    def close(self) -> None:
        """Those that rest; those in use are closed by whoever uses them."""
        with self._lock:
            self._kept = 0
            resting, self._resting = self._resting, []
        for link, _ in resting:
            link.close()

    # Connections

    def _take(self) -> socket.socket:
        while True:
            with self._lock:
                if not self._resting:
                    break
                link, since = self._resting.pop()
            if clock.monotonic() - since < _IDLE_S or not _readable(link):
                return link
            # The server has hung up, or says what nobody has asked.
            link.close()
        return self._connected()

    def _give_back(self, link: socket.socket) -> None:
        with self._lock:
            if len(self._resting) < self._kept:
                self._resting.append((link, clock.monotonic()))
                return
        link.close()

    def _connected(self) -> socket.socket:
        link = socket.create_connection((self._host, self._port), self._connect_timeout_s)
        try:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._trust is not None:
                link.settimeout(self._timeout_s)
                link = self._trust.wrap_socket(link, server_hostname=self._host)
            link.settimeout(None)
            for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                link.setsockopt(socket.SOL_SOCKET, limit, _timeval(self._timeout_s))
        except BaseException:
            link.close()
            raise
        return link

    # Requests

    @staticmethod
    def _send(link: socket.socket, request: bytes) -> None:
        try:
            link.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses a request may answer before it has read all of it.
            if not _readable(link):
                raise

    def _receive(self, link: socket.socket, into: Into | None) -> tuple[Response, bool]:
        response = Response()
        parser = httptools.HttpResponseParser(response)
        text = self._head_of_answer(link)
        end = text.index(b"\r\n\r\n") + 4
        deadline = clock.monotonic() + self._timeout_s
        try:
            parser.feed_data(text[:end])
            response.status = parser.get_status_code()
            length = response.headers.get("content-length")
            reusable = parser.should_keep_alive()
            if into is not None and response.status < 300 and length is not None:
                self._fill(link, into, memoryview(text)[end:], int(length))
                response.size_bytes = int(length)
                return response, reusable
            if end < len(text):
                parser.feed_data(text[end:])
            while not response.complete:
                part = link.recv(_CHUNK_BYTES)
                if not part:
                    raise ConnectionError("the answer ended early")
                parser.feed_data(part)
                _must_be_before(deadline)
        except (httptools.HttpParserError, ValueError) as error:
            raise ConnectionError("the answer is no HTTP") from error
        if into is not None and response.status < 300:
            response.size_bytes = copied(response.body, into)
        return response, reusable

    def _head_of_answer(self, link: socket.socket) -> bytes:
        text = b""
        while b"\r\n\r\n" not in text:
            part = link.recv(_CHUNK_BYTES)
            if not part:
                raise ConnectionError("the connection ended before an answer")
            text += part
            if len(text) > _MAX_HEAD_BYTES + _CHUNK_BYTES:
                raise ConnectionError("the answer's head is too long")
        return text

    def _fill(self, link: socket.socket, into: Into, first: memoryview, length: int) -> None:
        if length > into.size_bytes or len(first) > length:
            raise ConnectionError("the answer is longer than what was asked")
        deadline = clock.monotonic() + self._timeout_s + length / _SLOWEST_BYTES_PER_S
        for number, view in enumerate(into.views):
            wanted = min(len(view), length)
            at = min(len(first), wanted)
            view[:at] = first[:at]
            first = first[at:]
            while at < wanted:
                got = link.recv_into(view[at:wanted])
                if not got:
                    raise ConnectionError("the answer ended early")
                at += got
                _must_be_before(deadline)
            length -= wanted
            if wanted == len(view):
                into.filled(number)


def copied(body: bytes, into: Into) -> int:
    """Put a body that is in memory already; its size. Raises ConnectionError when it does not fit."""
    if len(body) > into.size_bytes:
        raise ConnectionError("the answer is longer than what was asked")
    rest = memoryview(body)
    for number, view in enumerate(into.views):
        part = rest[: len(view)]
        view[: len(part)] = part
        rest = rest[len(part) :]
        if len(part) == len(view):
            into.filled(number)
    return len(body)


def _must_be_before(deadline: float) -> None:
    if clock.monotonic() > deadline:
        raise TimeoutError("the answer comes too slowly")


def _head(method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if length or method == "PUT":
        lines.append(f"Content-Length: {length}")
    text = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    assert text.count(b"\n") == len(lines) + 1, "no line of a request may hold another one"
    return text


def _readable(link: socket.socket) -> bool:
    poll = select.poll()
    poll.register(link, select.POLLIN)
    with contextlib.suppress(InterruptedError):
        return bool(poll.poll(0))
    return True


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
