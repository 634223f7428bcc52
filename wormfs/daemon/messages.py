"""JSON lines over a stream: the language of the control socket and of the workers' channel."""

from __future__ import annotations

import json
from typing import Any

import trio

Message = dict[str, Any]

MAX_LINE_BYTES = 8 << 20
"""A limit on what one side can make the other keep in memory."""

_RECEIVE_BYTES = 64 << 10


class ProtocolError(Exception):
    """The other side sent something that is not a JSON object on a line, or too much."""


def encode(message: Message) -> bytes:
    """One line. Bytes that are no text must have been made text before."""
    return json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Raises ProtocolError."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError("not a JSON object")
    return message


class LineReader:
    """Messages out of a byte stream."""

    def __init__(self, stream: trio.abc.ReceiveStream):
        self._stream = stream
        self._buffer = bytearray()

    async def receive(self) -> Message | None:
        """The next message; ``None`` when the other side has gone. Raises ProtocolError."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")
            try:
                chunk = await self._stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not chunk:
                return None
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return decode(line)
