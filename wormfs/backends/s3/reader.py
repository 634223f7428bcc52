"""Reads of one committed file: ranged GETs of the version that was committed.

A reader that goes on where it stopped gets what comes next in advance, by several requests at once; the
window doubles with each read that proves it right. A reader that jumps gets what it asked for, and
nothing else. Blocks that were read stay in a cache that all files of the backend share.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future

from wormfs.backends.blockcache import BLOCK_BYTES, BlockCache
from wormfs.backends.s3.links import Into
from wormfs.backends.s3.store import Store
from wormfs.errors import WormfsError
from wormfs.model import Key
from wormfs.threads import Beside

log = logging.getLogger(__name__)

_STRETCH_BLOCKS = 8
"""One request's worth when the window is open."""
_WIDEST_BLOCKS = 64
_SLACK_BYTES = 4 * BLOCK_BYTES
"""The kernel's own read-ahead makes reads of one program arrive a little out of order."""


class Budget:
    """Bytes that may be on their way in advance for all readers of a backend. Safe from any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> bool:
        """Whether so much more may be fetched now."""
        with self._lock:
            if self._taken_bytes + size_bytes > self._limit_bytes:
                return False
            self._taken_bytes += size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._taken_bytes -= size_bytes


class S3Reader:
    """A ``Reader`` over one version of one object."""

    def __init__(
        self, store: Store, pool: Beside, cache: BlockCache[bytearray], budget: Budget, key: Key, name: str,
        version: str, size_bytes: int,
    ) -> None:  # fmt: skip
        self._store = store
        self._pool = pool
        self._cache = cache
        self._budget = budget
        self._key = key
        self._name = name
        self._version = version
        self._size = size_bytes
        self._lock = threading.Lock()
        self._coming: dict[int, Future[None]] = {}
        """Block → done when it is in the cache, or is not going to be."""
        self._closed = False
        self._expected = 0
        self._window = 0
        """Blocks fetched in advance; 0 for a reader that jumps."""

    def read(self, offset: int, size: int) -> bytes:
        """See ``Reader.read``."""
        end = min(offset + size, self._size)
        if end <= offset:
            return b""
        if not self._goes_on(offset, end):
            ready = self.read_ready(offset, size)
            return (
                self._store.read(self._name, self._key, offset, end - offset, self._version)
                if ready is None
                else ready
            )
        self._fetch_ahead(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        parts = [
            self._part(index, offset, end) for index in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_ready(self, offset: int, size: int) -> bytes | None:
        """From the cache, if all of it is there."""
        end = min(offset + size, self._size)
        if end <= offset:
            return b""
        parts = []
        for index in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            block = self._cache.get(self._file, index)
            if block is None:
                return None
            parts.append(_cut(block, index, offset, end))
        # What is fetched in advance must go on being so, or a reader of cached blocks runs into their end.
        if self._window and self._goes_on(offset, end):
            self._fetch_ahead(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Requests under way come to their end alone, and those that have not begun do not begin."""
        with self._lock:
            self._closed = True
            self._window = 0

    @property
    def _file(self) -> tuple[str, str]:
        return self._name, self._version

    def _goes_on(self, offset: int, end: int) -> bool:
        """Whether this read continues the ones before it; moves the window accordingly."""
        with self._lock:
            near = self._expected - _SLACK_BYTES <= offset <= self._expected + _SLACK_BYTES
            if not near:
                self._expected, self._window = end, 0
                return False
            if end > self._expected:
                crossed = end // BLOCK_BYTES > self._expected // BLOCK_BYTES
                self._expected = end
                if crossed or not self._window:
                    self._window = min(max(1, 2 * self._window), _WIDEST_BLOCKS)
            return True

    def _fetch_ahead(self, first: int, last: int) -> None:
        """Ask for blocks ``[first, last)`` and the window behind them, as far as they are not coming yet."""
        with self._lock:
            blocks = -(-self._size // BLOCK_BYTES)
            stop = min(last + self._window, blocks)
            # In stretches: a request for each block as it comes into the window would be many small ones.
            if stop < blocks and stop - last >= _STRETCH_BLOCKS:
                stop -= stop % _STRETCH_BLOCKS
            index = first
            while index < stop:
                if index in self._coming or self._cache.get(self._file, index) is not None:
                    index += 1
                    continue
                length = 1
                while (
                    length < _STRETCH_BLOCKS
                    and index + length < stop
                    and index + length not in self._coming
                    and self._cache.get(self._file, index + length) is None
                ):
                    length += 1
                if not self._budget.take(length * BLOCK_BYTES):
                    return
                asked: dict[int, Future[None]] = {number: Future() for number in range(index, index + length)}
                self._coming |= asked
                self._pool.start(self._fetch, asked)
                index += length

    def _fetch(self, coming: dict[int, Future[None]]) -> None:
        """One request for blocks in a row; each can be used as soon as it has come."""
        try:
            if not self._closed:
                self._fetch_now(coming)
        except WormfsError as error:
            # What failed in advance is asked for again when somebody wants it.
            log.debug("%s: fetching ahead: %s", self._store.backend, error)
        finally:
            for number in list(coming):
                self._arrived(coming, number)

    def _fetch_now(self, coming: dict[int, Future[None]]) -> None:
        first = min(coming)
        start = first * BLOCK_BYTES
        size = min(len(coming) * BLOCK_BYTES, self._size - start)
        # Each block of its own: one that stays in the cache must not hold its neighbours' memory.
        blocks = [bytearray(min(BLOCK_BYTES, size - at)) for at in range(0, size, BLOCK_BYTES)]

        def filled(number: int) -> None:
            self._cache.put(self._file, first + number, blocks[number])
            self._arrived(coming, first + number)

        into = Into([memoryview(block) for block in blocks], filled)
        self._store.read_into(self._name, self._key, start, into, self._version)

    def _arrived(self, coming: dict[int, Future[None]], number: int) -> None:
        with self._lock:
            self._coming.pop(number, None)
        self._budget.give_back(BLOCK_BYTES)
        coming.pop(number).set_result(None)

    def _part(self, index: int, offset: int, end: int) -> bytes:
        """What the read wants of one block, from the cache, from a request under way, or fetched now."""
        block = self._cache.get(self._file, index)
        if block is None:
            with self._lock:
                request = self._coming.get(index)
            if request is not None:
                request.result()
                block = self._cache.get(self._file, index)
        if block is None:
            start = max(offset, index * BLOCK_BYTES)
            stop = min(end, (index + 1) * BLOCK_BYTES)
            return self._store.read(self._name, self._key, start, stop - start, self._version)
        return _cut(block, index, offset, end)


def _cut(block: bytearray, index: int, offset: int, end: int) -> bytes:
    start = index * BLOCK_BYTES
    return bytes(memoryview(block)[max(0, offset - start) : end - start])
