"""The digest is that of the bytes in the file, whatever order they came in and whoever hashed meanwhile."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.spool import digest
from wormfs.spool.digest import StreamingDigest


@contextmanager
def temporary() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def truth(fd: int) -> str:
    return hashlib.sha256(os.pread(fd, os.fstat(fd).st_size, 0)).hexdigest()


WRITES = st.tuples(st.just("write"), st.integers(0, 40), st.binary(min_size=1, max_size=20))
APPENDS = st.tuples(st.just("append"), st.just(0), st.binary(min_size=1, max_size=20))
TRUNCATES = st.tuples(st.just("truncate"), st.integers(0, 60), st.just(b""))
ABSORBS = st.tuples(st.just("absorb"), st.just(0), st.just(b""))


@given(st.lists(st.one_of(WRITES, APPENDS, APPENDS, TRUNCATES, ABSORBS), max_size=30))
def test_every_order_of_writes(operations: list[tuple[str, int, bytes]]) -> None:
    with pytest.MonkeyPatch.context() as patch, temporary() as fd:
        patch.setattr(digest, "_CHUNK_BYTES", 7)
        running, size = StreamingDigest(), 0
        for kind, offset, data in operations:
            if kind == "absorb":
                assert running.absorb(fd) <= size
            elif kind == "truncate":
                os.ftruncate(fd, offset)
                running.truncated(offset)
                size = offset
            else:
                at = size if kind == "append" else offset
                os.pwrite(fd, data, at)
                running.wrote(at, len(data))
                size = max(size, at + len(data))
            assert running.frontier_bytes <= size
        assert running.finish(fd, size) == truth(fd)
        assert running.finish(fd, size) == truth(fd), "asked twice"


def test_writes_go_on_while_a_thread_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_CHUNK_BYTES", 512)
    with temporary() as fd:
        running, size, over = StreamingDigest(), 0, threading.Event()

        def absorb() -> None:
            while not over.is_set():
                running.absorb(fd)

        thread = threading.Thread(target=absorb)
        thread.start()
        for at in range(3000):
            # Mostly in order, now and then back to what has been hashed.
            offset = size if at % 50 else (at * 7919) % max(1, size)
            data = bytes([at % 251]) * 100
            os.pwrite(fd, data, offset)
            running.wrote(offset, len(data))
            size = max(size, offset + len(data))
        over.set()
        thread.join()
        assert running.finish(fd, size) == truth(fd)


def test_an_error_while_hashing_ahead_does_not_spoil_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: what had been claimed was taken for hashed."""
    with temporary() as fd:
        running = StreamingDigest()
        os.pwrite(fd, b"content" * 1000, 0)
        running.wrote(0, 7000)

        def fail(*arguments: object) -> int:
            raise OSError(5, "a sector that can be read the second time")

        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", fail)
            with pytest.raises(OSError, match="second time"):
                running.absorb(fd)
        assert running.finish(fd, 7000) == truth(fd)


def test_absorb_ends_though_the_writer_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: two writers that never paused kept both hashing threads for themselves."""
    with temporary() as fd:
        running = StreamingDigest()
        os.ftruncate(fd, 1 << 20)
        running.wrote(0, 1000)
        original, reads = os.preadv, []

        def read_and_write_on(*arguments: object) -> int:
            reads.append(1)
            assert len(reads) < 100, "it never ends"
            running.wrote(running.frontier_bytes, 1000)
            return original(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "preadv", read_and_write_on)
        assert running.absorb(fd) == 1000


def test_a_file_that_is_shorter_than_what_was_written_is_an_error() -> None:
    with temporary() as fd:
        running = StreamingDigest()
        running.wrote(0, 10)
        with pytest.raises(EOFError):
            running.finish(fd, 10)


def test_worthwhile_waits_for_enough() -> None:
    running = StreamingDigest()
    running.wrote(0, digest.AHEAD_BYTES - 1)
    assert not running.worthwhile
    running.wrote(digest.AHEAD_BYTES - 1, 1)
    assert running.worthwhile
    running.wrote(digest.AHEAD_BYTES + 1, 1)
    assert running.frontier_bytes == digest.AHEAD_BYTES, "a gap is not in order"
