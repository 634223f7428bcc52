"""Requests that a worker answers, known while they run, so that an end can wait for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from wormfs.daemon.messages import Message
from wormfs.errors import Unavailable


class UnderWay:
    """Lets requests run until ``aclose``."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._idle = trio.Event()
        self._idle.set()
        self._closed = False

    async def run(self, answer: Callable[[], Awaitable[Message]]) -> Message:
        """The answer. Raises Unavailable when the end comes, and what ``answer`` raises."""
        if self._closed:
            raise Unavailable("the daemon is stopping")
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            self._idle = trio.Event()
            try:
                return await answer()
            finally:
                self._scopes.discard(scope)
                if not self._scopes:
                    self._idle.set()
        raise Unavailable("the daemon is stopping")

    async def aclose(self) -> None:
        """Let no more begin and cancel what runs; returns when nothing does. Threads come to their end."""
        self._closed = True
        for scope in self._scopes:
            scope.cancel()
        await self._idle.wait()
