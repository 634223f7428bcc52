"""GET /metrics over HTTP, in threads beside the supervisor's event loop.

The loop serves the root of the mount: it must not wait for whoever is slow here, nor must a scrape wait
for ever when the loop is busy. Standard library only, and as little of HTTP as a scrape needs: one
request a connection, few connections, and each has an end.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

from wormfs import threads
from wormfs.clock import monotonic
from wormfs.config.metrics import Listen

log = logging.getLogger(__name__)

PATH: Final = "/metrics"
_AT_ONCE: Final = 4
_MOST_CONNECTIONS: Final = 16
"""Those beyond what is worked on wait for their turn; more are closed at once."""
_CONNECTION_S: Final = 5.0
"""From its beginning to its end, whatever the other side does."""
_LOOK_S: Final = 1.0

Answer = Callable[[str], tuple[bytes, str]]
"""From the ``Accept`` header to a body and its content type."""


class MetricsServer(socketserver.TCPServer):
    """Listens from the start. ``run`` blocks until ``stop``."""

    allow_reuse_address = True
    request_queue_size = _MOST_CONNECTIONS
    timeout = _LOOK_S

    def __init__(self, listen: Listen, answer: Answer):
        """Raises OSError when the address cannot be had."""
        self.address_family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
        self._answer = answer
        self._workers = threads.Beside(_AT_ONCE)
        self._since: dict[socket.socket, float] = {}
        self._counting = threading.Lock()
        self._ended = threading.Event()
        super().__init__((listen.address, listen.port), _Scrape)

    def answer(self, accept: str) -> tuple[bytes, str]:
        return self._answer(accept)

    def run(self) -> None:
        """Answer until ``stop``. Blocks; for a thread of its own."""
        try:
            while not self._ended.is_set():
                self.handle_request()
                self._cut_off(older_than_s=_CONNECTION_S)
        finally:
            self.server_close()
            self._cut_off(older_than_s=0.0)
            self._workers.close()

    def stop(self) -> None:
        """From any thread; does not block."""
        self._ended.set()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for connections

    # -- what socketserver calls

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._counting:
            if len(self._since) >= _MOST_CONNECTIONS:
                refused = True
            else:
                refused = False
                self._since[request] = monotonic()
        if refused:
            self.close_request(request)
        else:
            self._workers.start(self._work, request, client_address)

    def _work(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            log.debug("a scrape by %s was not finished: %s", client_address, error)
        except Exception:
            log.exception("a scrape failed")
        finally:
            with self._counting:
                del self._since[request]
            self.shutdown_request(request)

    def _cut_off(self, *, older_than_s: float) -> None:
        with self._counting:
            late = [one for one, since in self._since.items() if monotonic() - since >= older_than_s]
            for request in late:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)


class _Scrape(BaseHTTPRequestHandler):
    """One request."""

    timeout = _CONNECTION_S
    server: MetricsServer

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"There is only {PATH}.")
            return
        body, content_type = self.server.answer(self.headers.get("Accept", ""))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "wormfs"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (http.server's own name)
        log.debug(format, *arguments)
