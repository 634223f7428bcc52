"""A TCP proxy that does to connections what networks do, after the manner of toxiproxy.

::

    with FaultProxy(("127.0.0.1", server_port)) as proxy:
        client = connect(proxy.address)
        with proxy.fault(Latency(0.2), Direction.DOWN):
            ...                             # on connections that exist and on new ones
        fault = proxy.add(BlackHole())      # both directions
        proxy.remove(fault)                 # what was held back arrives now, as after a real partition

The proxy runs on an event loop in a thread of its own and listens on 127.0.0.1, at a port that stays
the same for its life. It knows bytes only; faults of HTTP are ``tests.support.httpfaults``.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

_CHUNK_BYTES = 256 << 10
_CHUNKS_ON_THE_WAY = 64
_PATIENCE_S = 10.0

Result = TypeVar("Result")


class Direction(enum.Enum):
    """Which way bytes go."""

    UP = "from the client to the server"
    DOWN = "from the server to the client"
    BOTH = "both"

    def covers(self, way: Direction) -> bool:
        return self in (Direction.BOTH, way)


@dataclass(frozen=True)
class Latency:
    """Every byte arrives this much later. Throughput stays."""

    seconds: float


@dataclass(frozen=True)
class BlackHole:
    """Nothing arrives, not even the end of the connection; after ``reset_after_s`` it is reset.

    In one direction only it makes a half-open connection: requests arrive and no answer does. New
    connections are accepted and treated alike. What was held back arrives when the fault is removed.
    """

    reset_after_s: float | None = None


@dataclass(frozen=True)
class ResetPeer:
    """The connection is reset at the first byte that comes this way, or ``after_s`` later."""

    after_s: float = 0.0


@dataclass(frozen=True)
class Slicer:
    """Bytes come in pieces of ``size_bytes`` with a pause between."""

    size_bytes: int
    pause_s: float = 0.0


@dataclass(frozen=True)
class LimitData:
    """Each connection ends after this many further bytes: with a reset, or a proper end if ``clean``."""

    bytes: int
    clean: bool = False


@dataclass(frozen=True)
class SlowClose:
    """The end of the connection arrives this much later."""

    seconds: float


@dataclass(frozen=True)
class Bandwidth:
    """So many bytes per second and connection."""

    bytes_per_s: float


@dataclass(frozen=True)
class Refuse:
    """New connections are refused, as by a host where nothing listens. Old ones live on (``cut`` them)."""


Fault = Latency | BlackHole | ResetPeer | Slicer | LimitData | SlowClose | Bandwidth | Refuse
Rewrite = Callable[[Direction, bytes], bytes]
"""Called with every chunk before it goes on; for FTP's PASV replies, which name an address. A chunk may
begin and end anywhere; control connections send a reply in one piece. It runs on the proxy's event loop,
so it must not block (starting another ``FaultProxy`` there is quick enough)."""


@dataclass(frozen=True, eq=False)
class Active:
    """A fault that is switched on: what ``add`` gives and ``remove`` takes."""

    fault: Fault
    direction: Direction


class FaultProxy:
    """Listens on 127.0.0.1 and passes connections on to ``target``. A context manager."""

    def __init__(
        self,
        target: tuple[str, int],
        rewrite: Rewrite | None = None,
        listen: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        """``listen``: at another address of this machine, or a port that is not any free one."""
        self.target = target
        self._host = listen[0]
        self.accepted = 0
        """How many connections have come in so far."""
        self._rewrite = rewrite
        self._active: list[Active] = []
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faultproxy", daemon=True)
        self._listener: socket.socket | None = _listening(*listen)
        self.port: int = self._listener.getsockname()[1]
        self._listens = False

    @property
    def address(self) -> tuple[str, int]:
        return self._host, self.port

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()

    # Faults

    def add(self, fault: Fault, direction: Direction = Direction.BOTH) -> Active:
        """Switch a fault on; when this returns it holds for every byte that comes from now on."""
        active = Active(fault, direction)
        self._call(self._change(lambda: self._active.append(active)))
        return active

    def remove(self, active: Active) -> None:
        """Switch a fault off again; without harm if it is off."""
        self._call(self._change(lambda: self._discard(active)))

    def clear(self) -> None:
        """Switch all faults off."""
        self._call(self._change(self._active.clear))

    @contextlib.contextmanager
    def fault(self, fault: Fault, direction: Direction = Direction.BOTH) -> Iterator[Active]:
        """The fault is on inside the block."""
        active = self.add(fault, direction)
        try:
            yield active
        finally:
            self.remove(active)

    def cut(self) -> None:
        """Reset every connection that is open now."""
        self._call(self._cut())

    # On the event loop

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)

    def _discard(self, active: Active) -> None:
        if active in self._active:
            self._active.remove(active)

    async def _change(self, change: Callable[[], None]) -> None:
        change()
        if any(isinstance(active.fault, Refuse) for active in self._active):
            await self._hang_up()
        else:
            await self._listen()
        for link in self._links:
            link.changed()

    async def _listen(self) -> None:
        if not self._listens:
            self._listener = self._listener or _listening(self._host, self.port)
            self._loop.add_reader(self._listener, self._accept, self._listener)
            self._listens = True

    async def _hang_up(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        self._listener = None
        self._listens = False

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it went away again
        client.setblocking(False)
        self.accepted += 1
        link = _Link(client, self)
        self._links.add(link)
        link.task = self._loop.create_task(link.run())
        link.task.add_done_callback(lambda _: self._forget(link))

    def _forget(self, link: _Link) -> None:
        link.close()
        self._links.discard(link)

    async def _cut(self) -> None:
        links = list(self._links)
        for link in links:
            link.reset()
        await asyncio.gather(*(link.task for link in links if link.task), return_exceptions=True)
        await asyncio.sleep(0)  # the callbacks that close them

    async def _end(self) -> None:
        await self._hang_up()
        await self._cut()


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, proxy: FaultProxy) -> None:
        self.task: asyncio.Task[None] | None = None
        self._client = client
        self._server: socket.socket | None = None
        self._proxy = proxy
        self._loop = proxy._loop
        self._news = asyncio.Event()

    async def run(self) -> None:
        try:
            self._server = socket.socket()
            self._server.setblocking(False)
            for end in (self._client, self._server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(self._server, self._proxy.target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(self._client, self._server, Direction.UP))
                group.create_task(self._pass(self._server, self._client, Direction.DOWN))
        except (OSError, asyncio.CancelledError, _Reset, BaseExceptionGroup):
            # A refused, reset or cut connection: the other end learns it as a reset, too.
            self._linger_not()

    def close(self) -> None:
        for end in (self._client, self._server):
            if end is not None:
                end.close()

    def reset(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def changed(self) -> None:
        """Faults were switched on or off: whoever waits because of one looks again."""
        self._news.set()
        self._news = asyncio.Event()

    async def _pass(self, source: socket.socket, sink: socket.socket, way: Direction) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_ON_THE_WAY)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(source, queue, way))
            group.create_task(self._write(sink, queue, way))

    async def _read(
        self, source: socket.socket, queue: asyncio.Queue[tuple[float, bytes]], way: Direction
    ) -> None:
        chunk = b"x"
        while chunk:
            chunk = await self._loop.sock_recv(source, _CHUNK_BYTES)
            delay_s = sum(fault.seconds for fault in self._faults(way, Latency))
            await queue.put((self._loop.time() + delay_s, chunk))

    async def _write(
        self, sink: socket.socket, queue: asyncio.Queue[tuple[float, bytes]], way: Direction
    ) -> None:
        sent: dict[int, int] = {}
        ended = False
        while True:
            due, chunk = await queue.get()
            if ended:
                # The sender does not know yet; what it still sends goes nowhere.
                if not chunk:
                    return
                continue
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._pass_holes(way)
            for reset in self._faults(way, ResetPeer):
                await asyncio.sleep(reset.after_s)
                raise _Reset
            if not chunk:
                await asyncio.sleep(sum(fault.seconds for fault in self._faults(way, SlowClose)))
                sink.shutdown(socket.SHUT_WR)
                return
            if self._proxy._rewrite is not None:
                chunk = self._proxy._rewrite(way, chunk)
            for piece, pause_s in self._pieces(chunk, way):
                await asyncio.sleep(pause_s)
                if not await self._send(sink, piece, way, sent):
                    ended = True
                    break

    async def _pass_holes(self, way: Direction) -> None:
        """Returns when no black hole is (any more) in the way."""
        while holes := self._faults(way, BlackHole):
            limits = [hole.reset_after_s for hole in holes if hole.reset_after_s is not None]
            try:
                async with asyncio.timeout(min(limits, default=None)):
                    await self._news.wait()
            except TimeoutError:
                raise _Reset from None

    def _pieces(self, chunk: bytes, way: Direction) -> Iterator[tuple[bytes, float]]:
        size = min((slicer.size_bytes for slicer in self._faults(way, Slicer)), default=len(chunk))
        pause_s = sum(slicer.pause_s for slicer in self._faults(way, Slicer))
        rate = min((fault.bytes_per_s for fault in self._faults(way, Bandwidth)), default=float("inf"))
        for start in range(0, len(chunk), size):
            piece = chunk[start : start + size]
            yield piece, pause_s + len(piece) / rate

    async def _send(self, sink: socket.socket, piece: bytes, way: Direction, sent: dict[int, int]) -> bool:
        """False when a limit has ended the connection properly."""
        for active in list(self._proxy._active):
            if not (isinstance(active.fault, LimitData) and active.direction.covers(way)):
                continue
            room = active.fault.bytes - sent.get(id(active), 0)
            sent[id(active)] = sent.get(id(active), 0) + len(piece)
            if len(piece) > room:
                await self._loop.sock_sendall(sink, piece[:room])
                if not active.fault.clean:
                    raise _Reset
                sink.shutdown(socket.SHUT_WR)
                return False
        await self._loop.sock_sendall(sink, piece)
        return True

    def _faults(self, way: Direction, kind: type[_Kind]) -> list[_Kind]:
        return [
            active.fault
            for active in self._proxy._active
            if isinstance(active.fault, kind) and active.direction.covers(way)
        ]

    def _linger_not(self) -> None:
        for end in (self._client, self._server):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


_Kind = TypeVar("_Kind", Latency, BlackHole, ResetPeer, Slicer, SlowClose, Bandwidth)


class _Reset(Exception):
    """The connection ends with a reset."""


def _listening(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(128)
    listener.setblocking(False)
    return listener
