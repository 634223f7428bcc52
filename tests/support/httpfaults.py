"""An HTTP proxy in front of an S3 server that answers some requests itself, as stores do on a bad day.

::

    with HttpFaults(server.address) as faults:
        faults.answer("PUT", 503, "SlowDown", times=2)      # does not reach the store
        faults.lose_answer("PUT", 500, "InternalError")     # reaches it, and yet an error comes back
        faults.answer("*", 403, "RequestTimeTooSkewed")
        faults.seen                                         # requests as they came: "PUT /bucket/key?query"

Faults of the network below are ``tests.support.faultproxy``; the two can stand in a row.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import ssl
import threading
from dataclasses import dataclass


@dataclass
class _Fault:
    method: str
    status: int
    code: str
    times: int | None
    part: str
    """What the request's target must hold."""
    after: bool
    """The store does it, and its answer is thrown away."""


class HttpFaults:
    """Listens on 127.0.0.1 and passes requests on to ``target``. A context manager."""

    def __init__(self, target: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        """``tls``: callers must speak TLS to the proxy; it speaks plainly to the server."""
        self._tls = tls
        self.target = target
        self.seen: list[str] = []
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"faults": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if tls is not None:
            # Callers that do not trust us hang up in the middle of the handshake; that is no news.
            self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, name="httpfaults", args=(0.05,))

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.address[1]}"

    def __enter__(self) -> HttpFaults:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def answer(
        self, method: str, status: int, code: str, *, times: int | None = None, part: str = ""
    ) -> None:
        """Requests of ``method`` (``*``: all) whose target holds ``part`` are answered here."""
        self._add(_Fault(method, status, code, times, part, after=False))

    def lose_answer(
        self, method: str, status: int, code: str, *, times: int | None = 1, part: str = ""
    ) -> None:
        """The same, but the store has done what was asked."""
        self._add(_Fault(method, status, code, times, part, after=True))

    def clear(self) -> None:
        """All is well again."""
        with self._lock:
            self._faults.clear()

    def count(self, method: str, part: str = "") -> int:
        """How many requests of that kind have come."""
        return sum(line.startswith(f"{method} ") and part in line for line in self.seen)

    def _add(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def due(self, method: str, target: str) -> _Fault | None:
        with self._lock:
            self.seen.append(f"{method} {target}")
            for fault in self._faults:
                if fault.method in (method, "*") and fault.part in target and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    faults: HttpFaults
    protocol_version = "HTTP/1.1"
    timeout = 30
    wbufsize = -1

    def handle_any(self) -> None:
        fault = self.faults.due(self.command, self.path)
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(http.HTTPStatus.CONTINUE)
            self.end_headers()
            self.wfile.flush()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault is None or fault.after:
            status, headers, content = self._ask(body)
        if fault is not None:
            content = b"" if self.command == "HEAD" else _error(fault.code)
            status, headers = fault.status, [("Content-Type", "application/xml")]
        self.send_response_only(status)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 (as http.server calls them)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        with contextlib.closing(http.client.HTTPConnection(*self.faults.target, timeout=30)) as connection:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def log_message(self, *_: object) -> None:
        pass


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>as asked by a test</Message></Error>".encode()
