"""The channel between the supervisor and one worker: a socket pair that carries messages both ways.

A message is an event, a request (``id`` and ``request``) or a reply (``id`` and ``reply`` or
``error``). Sending never waits for the other side: lines go through a bounded queue and one
writer task, so a cancelled request cannot leave half a line in the stream, and a worker that does
not read can be told from one that does.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncGenerator

import trio

from wormfs.daemon.messages import LineReader, Message, encode

_MAX_QUEUED = 256


class NoAnswer(Exception):
    """The other side did not answer in time, or is gone."""


class RequestFailed(Exception):
    """The other side answered that it could not do it; the text says why."""


class Channel:
    """One end. ``run`` must be running for anything to be sent."""

    def __init__(self, stream: trio.abc.Stream):
        self._stream = stream
        self._reader = LineReader(stream)
        self._queue, self._to_send = trio.open_memory_channel[Message](_MAX_QUEUED)
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Pending] = {}
        self._peer_gone = trio.Event()

    async def run(self) -> None:
        """Send what was queued, until the other side is gone or ``aclose``."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for message in self._to_send:
                await self._stream.send_all(encode(message))

    def send(self, message: Message) -> None:
        """Queue a message. Raises NoAnswer when the other side has stopped reading or is gone."""
        try:
            self._queue.send_nowait(message)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise NoAnswer("the other side does not read its messages") from error

    async def request(self, request: Message, *, timeout_s: float) -> Message:
        """Ask and wait for the answer.

        Raises NoAnswer after ``timeout_s`` seconds or when the other side is gone, RequestFailed
        with its words when it refused.
        """
        if self._peer_gone.is_set():
            raise NoAnswer("it has ended")
        number = next(self._ids)
        pending = self._waiting[number] = _Pending()
        try:
            self.send({"id": number, "request": request})
            with trio.move_on_after(timeout_s):
                await pending.done.wait()
        finally:
            del self._waiting[number]
        if pending.answer is None:
            gone = self._peer_gone.is_set()
            raise NoAnswer("it has ended" if gone else f"no answer within {timeout_s:g} s")
        if (refusal := pending.answer.get("error")) is not None:
            raise RequestFailed(str(refusal))
        reply = pending.answer.get("reply")
        return reply if isinstance(reply, dict) else {}

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Events and requests from the other side, until it is gone; replies are handed on inside.

        Raises ProtocolError.
        """
        try:
            while (message := await self._reader.receive()) is not None:
                if "id" in message and "request" not in message:
                    if (pending := self._waiting.get(message["id"])) is not None:
                        pending.answer = message
                        pending.done.set()
                else:
                    yield message
        finally:
            self._peer_gone.set()
            for pending in self._waiting.values():
                pending.done.set()

    async def aclose(self) -> None:
        """Close this end; the other side sees the end of the stream."""
        self._queue.close()
        await trio.aclose_forcefully(self._stream)


class _Pending:
    """A request under way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Message | None = None
