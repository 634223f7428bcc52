"""Reading one committed file: a stream that stays open for whoever reads on, a second one for jumps.

A zip file is read at its end first and then from its beginning. So each reader has up to two streams
(RETR with REST), each with a connection of its own, which the pool may ask back when others need it. Whole
blocks go through the backend's cache. Who reads on finds the next blocks there already: a thread fetches
a few ahead, so that the network and the reader work at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from wormfs.backends.blockcache import BLOCK_BYTES, BlockCache
from wormfs.backends.ftp.ahead import Ahead
from wormfs.backends.ftp.pool import Pool
from wormfs.backends.ftp.replies import Reply, failure
from wormfs.backends.ftp.session import DataStream, Session
from wormfs.backends.retry import Patience, retrying
from wormfs.errors import BackendFault, NotFound, Unavailable, WormfsError
from wormfs.model import Key

_STREAMS = 2
_STREAMS_FROM_LIMIT = 4
"""Where the server allows fewer connections, one stream per reader is all."""
_SKIP_BLOCKS = 4
"""So many blocks that nobody asked for are read along rather than asked for anew."""
_AHEAD_BLOCKS = 8
_AHEAD_SHARE = 16
"""No reader fetches more than this part of the cache ahead: it must still be there when it is wanted."""


@dataclass
class _Stream:
    """An open RETR, and the block that it gives next."""

    session: Session
    data: DataStream
    next_block: int
    used: int = 0


@dataclass(frozen=True)
class Source:
    """What a reader needs of its backend."""

    name: str
    pool: Pool
    cache: BlockCache[bytes]
    patience: Patience
    ahead: Ahead | None = None
    """Threads that fetch what will be asked for next; ``None``: nothing is fetched ahead."""


class FtpReader:
    """A ``Reader``. Safe from many threads: they take turns at the server, and share the cache."""

    def __init__(self, source: Source, path: bytes, key: Key, size_bytes: int, version: object) -> None:
        """``version``: tells the file from an erased one of the same name, for the cache."""
        self._source = source
        self._path = path
        self._key = key
        self._size_bytes = size_bytes
        self._identity = (key, version)
        self._lock = threading.Lock()
        self._streams: list[_Stream] = []
        self._clock = 0
        self._last_block = -2  # a first read, wherever it is, does not read on
        self._reads_on = False
        self._fetching_ahead = False
        self._closed = False
        self._ahead_blocks = min(_AHEAD_BLOCKS, source.cache.limit_bytes // BLOCK_BYTES // _AHEAD_SHARE)

    def read(self, offset: int, size: int) -> bytes:
        data = self._assembled(offset, size, self._block)
        self._was_read(offset, len(data))
        return data

    def read_ready(self, offset: int, size: int) -> bytes | None:
        try:
            data = self._assembled(offset, size, self._cached)
        except _NotReady:
            return None
        self._was_read(offset, len(data))
        return data

    def _was_read(self, offset: int, size: int) -> None:
        """Does not block. From several threads at once it guesses wrong at worst."""
        first, rest = divmod(offset, BLOCK_BYTES)
        if not rest and size == min(BLOCK_BYTES, self._size_bytes - offset):
            # Whole: the kernel has it now, and keeps it.
            self._source.cache.forget(self._identity, first)
        last = (offset + max(size, 1) - 1) // BLOCK_BYTES
        if last != self._last_block:
            self._reads_on = last == self._last_block + 1
            self._last_block = last
        if self._reads_on:
            self._fetch_ahead()

    def _fetch_ahead(self) -> None:
        ahead = self._source.ahead
        if ahead is None or self._fetching_ahead or self._closed:
            return
        if any(self._may_go_on(stream, self._ahead_blocks // 2) for stream in self._streams):
            self._fetching_ahead = True
            if ahead.start(self._go_on) is None:
                self._fetching_ahead = False

    def _may_go_on(self, stream: _Stream, blocks: int) -> bool:
        """Whether it gives what comes next, and fewer than ``blocks`` of that have been fetched."""
        return self._last_block < stream.next_block <= self._last_block + blocks

    def _go_on(self) -> None:
        """In a thread: fetch ahead while the program reads on. Who asks meanwhile takes turns with it."""
        try:
            while self._fetch_one_ahead():
                pass
        except WormfsError:
            pass  # whoever asks for the next block finds it out himself
        finally:
            self._fetching_ahead = False

    def _fetch_one_ahead(self) -> bool:
        with self._lock:
            for stream in self._streams:
                if not self._closed and self._may_go_on(stream, self._ahead_blocks):
                    at = stream.next_block
                    self._source.cache.put(self._identity, at, self._next_block(stream))
                    return True
        return False

    def _assembled(self, offset: int, size: int, block: Callable[[int], bytes]) -> bytes:
        end = min(offset + size, self._size_bytes)
        if offset >= end:
            return b""
        first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        if first == last:
            start = first * BLOCK_BYTES
            # All of it is the block itself, not a copy.
            return block(first)[offset - start : end - start]
        pieces = bytearray()
        for index in range(first, last + 1):
            start = index * BLOCK_BYTES
            pieces += memoryview(block(index))[max(0, offset - start) : end - start]
        return bytes(pieces)

    def _cached(self, index: int) -> bytes:
        block = self._source.cache.get(self._identity, index)
        if block is None:
            raise _NotReady
        return block

    def _block(self, index: int) -> bytes:
        block = self._source.cache.get(self._identity, index)
        if block is not None:
            return block
        with self._lock:
            # Perhaps read by whoever had the lock before.
            block = self._source.cache.get(self._identity, index)
            if block is not None:
                return block
            return retrying(lambda: self._fetch(index), self._source.patience, before_again=self._drop_all)

    # With the lock

    def _fetch(self, index: int) -> bytes:
        stream = self._stream_for(index)
        self._clock += 1
        stream.used = self._clock
        while True:
            at = stream.next_block
            block = self._next_block(stream)
            self._source.cache.put(self._identity, at, block)
            if at == index:
                return block

    def _next_block(self, stream: _Stream) -> bytes:
        start = stream.next_block * BLOCK_BYTES
        wanted = min(BLOCK_BYTES, self._size_bytes - start)
        try:
            block = stream.data.take(wanted)
        except Unavailable:
            self._drop(stream)
            raise
        if len(block) < wanted:
            self._explain_end(stream, start + len(block))
        stream.next_block += 1
        if start + wanted == self._size_bytes:
            self._end(stream)
        return block

    def _explain_end(self, stream: _Stream, at: int) -> None:
        """The bytes ended too early: a broken connection, or a file that is shorter than it was.

        A server that has given its last bytes to the network says that all went well.
        """
        self._streams.remove(stream)
        try:
            reply = stream.data.finish()
            sized = stream.session.command(b"SIZE " + self._path)
        finally:
            self._source.pool.give(stream.session)
            self._tell_pool()
        if not reply.good:
            raise failure(reply, self._source.name, self._key, "read it")
        if sized.code == 213 and sized.text[3:].strip() == str(self._size_bytes):
            raise Unavailable(
                f"the connection ended after {at} of {self._size_bytes} bytes",
                backend=self._source.name,
                key=self._key,
            )
        raise BackendFault(
            f"it ends after {at} bytes, though {self._size_bytes} were committed",
            backend=self._source.name,
            key=self._key,
        )

    def _end(self, stream: _Stream) -> None:
        """All is read: the server says so, and the connection is free."""
        self._streams.remove(stream)
        try:
            stream.data.finish()
        finally:
            self._source.pool.give(stream.session)
            self._tell_pool()

    def _stream_for(self, index: int) -> _Stream:
        near = [s for s in self._streams if s.next_block <= index <= s.next_block + _SKIP_BLOCKS]
        if near:
            return max(near, key=lambda stream: stream.next_block)
        most = _STREAMS if self._source.pool.limit >= _STREAMS_FROM_LIMIT else 1
        while len(self._streams) >= most:
            self._drop(min(self._streams, key=lambda stream: stream.used))
        session = self._source.pool.take()
        try:
            data = session.transfer(b"RETR " + self._path, index * BLOCK_BYTES)
        except BaseException:
            self._source.pool.give(session)
            raise
        if isinstance(data, Reply):
            self._source.pool.give(session)
            if data.code == 550:
                raise NotFound("the file is not there any more", backend=self._source.name, key=self._key)
            raise failure(data, self._source.name, self._key, "read it")
        stream = _Stream(session, data, index)
        self._streams.append(stream)
        self._tell_pool()
        return stream

    def _drop(self, stream: _Stream) -> None:
        self._streams.remove(stream)
        try:
            stream.data.cut()
        finally:
            self._source.pool.give(stream.session)
            self._tell_pool()

    def _drop_all(self) -> None:
        for stream in list(self._streams):
            self._drop(stream)

    def _tell_pool(self) -> None:
        if self._streams:
            self._source.pool.lend(self)
        else:
            self._source.pool.unlend(self)

    # For the pool, and the end

    def give_back(self) -> bool:
        if not self._lock.acquire(blocking=False):
            return False
        try:
            held = bool(self._streams)
            self._drop_all()
            return held
        finally:
            self._lock.release()

    def close(self) -> None:
        self._closed = True
        with self._lock:
            self._drop_all()
            self._source.pool.unlend(self)


class _NotReady(Exception):
    """A block is not in memory."""
