"""A ``FaultProxy`` for FTP: data connections go through it, too: replies to PASV and EPSV name its ports.

A reply inside TLS cannot be read on its way. There every port that the server may name has a proxy of the
same number, at an address of its own.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator

from tests.support.faultproxy import Direction, Fault, FaultProxy

_PASV = re.compile(rb"(227 [^(\r\n]*\()(\d+,\d+,\d+,\d+),(\d+),(\d+)\)")
_EPSV = re.compile(rb"(229 [^(\r\n]*\(\|\|\|)(\d+)\|\)")


class FtpProxy:
    """A context manager. ``control`` takes the faults of control connections, ``data_faults`` those of every
    data connection that is opened from then on."""

    def __init__(self, port: int) -> None:
        """``port``: of the server, on 127.0.0.1."""
        self.control = FaultProxy(("127.0.0.1", port), self._rewrite)
        self.data_faults: list[tuple[Fault, Direction]] = []
        self._data: list[FaultProxy] = []

    @property
    def port(self) -> int:
        return self.control.port

    def __enter__(self) -> FtpProxy:
        self.control.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.control.__exit__()
        for proxy in self._data:
            proxy.__exit__()

    @property
    def data_connections(self) -> int:
        """How many data connections have been opened so far."""
        return sum(proxy.accepted for proxy in self._data)

    def cut(self) -> None:
        """Reset every connection that is open now."""
        self.control.cut()
        for proxy in self._data:
            proxy.cut()

    def clear(self) -> None:
        """No faults any more."""
        self.control.clear()
        self.data_faults.clear()
        for proxy in self._data:
            proxy.clear()

    def _rewrite(self, way: Direction, chunk: bytes) -> bytes:
        if way is Direction.UP:
            return chunk
        chunk = _PASV.sub(self._pasv, chunk)
        return _EPSV.sub(self._epsv, chunk)

    def _pasv(self, match: re.Match[bytes]) -> bytes:
        port = self._opened(int(match[3]) * 256 + int(match[4]))
        return b"%s%s,%d,%d)" % (match[1], match[2], port // 256, port % 256)

    def _epsv(self, match: re.Match[bytes]) -> bytes:
        return b"%s%d|)" % (match[1], self._opened(int(match[2])))

    def _opened(self, port: int) -> int:
        proxy = FaultProxy(("127.0.0.1", port))
        proxy.__enter__()
        for fault, direction in self.data_faults:
            proxy.add(fault, direction)
        self._data.append(proxy)
        return proxy.port


HOST = "127.0.0.2"
"""Where the proxies of a server with TLS listen."""


def passive_ports(count: int) -> range:
    """As many ports in a row that are free at the server's address and at ours."""
    for first in range(20_000, 30_000, count):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                for host in ("127.0.0.1", HOST):
                    held.enter_context(socket.create_server((host, port)))
            return range(first, first + count)
    raise AssertionError("no free ports")


class SecretFtpProxy:
    """For a server with TLS that names only these passive ports. A context manager."""

    def __init__(self, port: int, passive: range) -> None:
        self.control = FaultProxy(("127.0.0.1", port), listen=(HOST, 0))
        self._data = [FaultProxy(("127.0.0.1", number), listen=(HOST, number)) for number in passive]
        self._entered = contextlib.ExitStack()

    @property
    def port(self) -> int:
        return self.control.port

    def __enter__(self) -> SecretFtpProxy:
        for proxy in (self.control, *self._data):
            self._entered.enter_context(proxy)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    @property
    def data_connections(self) -> int:
        """How many data connections have been opened so far."""
        return sum(proxy.accepted for proxy in self._data)

    def add_to_data(self, fault: Fault, direction: Direction) -> None:
        """The fault is on for each data connection."""
        for proxy in self._data:
            proxy.add(fault, direction)

    def _all(self) -> Iterator[FaultProxy]:
        yield from (self.control, *self._data)

    def cut(self) -> None:
        """Reset every connection that is open now."""
        for proxy in self._all():
            proxy.cut()

    def clear(self) -> None:
        """No faults any more."""
        for proxy in self._all():
            proxy.clear()
