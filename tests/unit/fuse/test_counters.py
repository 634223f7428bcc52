"""What a session counts, and how it travels."""

from __future__ import annotations

import errno
from typing import Any, cast

import pyfuse3
import pytest
import trio

from wormfs.daemon import measured
from wormfs.daemon.messages import decode, encode
from wormfs.errors import Sealed, Unavailable
from wormfs.fuse.counters import BOUNDS_NS, Counters, FailureKind
from wormfs.fuse.guard import guarded


class Operations(pyfuse3.Operations):
    """Handlers that answer, wait, and fail in every way."""

    enable_acl = False

    @guarded
    async def read(self, fh: Any, off: int, size: int) -> bytes:
        return b"x" * size

    @guarded
    async def write(self, fh: Any, off: int, buf: bytes) -> int:
        return len(buf)

    @guarded
    async def flush(self, fh: Any) -> None:
        raise Unavailable("down", key=b"archive.zip")

    @guarded
    async def rename(self, *arguments: Any) -> None:
        async with trio.open_nursery():
            raise Sealed("it is a record")

    @guarded
    async def link(self, *arguments: Any) -> Any:
        raise pyfuse3.FUSEError(errno.EPERM)

    @guarded
    async def open(self, *arguments: Any) -> Any:
        raise ZeroDivisionError

    @guarded
    async def fsync(self, fh: Any, datasync: bool) -> None:
        await trio.sleep_forever()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def served(counters: Counters) -> Any:
    return cast("Any", counters.watch(Operations()))


def failed(handler: Any, *arguments: Any) -> int:
    with pytest.raises(pyfuse3.FUSEError) as raised:
        trio.run(handler, *arguments)
    return int(raised.value.errno)


def test_what_is_no_handler_is_there_as_it_was(served: Any) -> None:
    assert served.enable_acl is False
    assert {name for name in dir(pyfuse3.Operations) if not name.startswith("_")} <= set(vars(served))


def test_operations_and_their_bytes(counters: Counters, served: Any) -> None:
    assert counters.operations() == {}
    assert trio.run(served.write, 1, 0, b"12345") == 5
    assert trio.run(served.write, 1, 5, b"678") == 3
    assert trio.run(served.read, 1, 0, 100) == b"x" * 100
    counts = counters.operations()
    assert {name: (count.count, count.moved_bytes) for name, count in counts.items()} == {
        "read": (1, 100),
        "write": (2, 8),
    }
    assert counters.failures() == {}


def test_time_goes_into_its_bucket(counters: Counters, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for taken_ns in (0, BOUNDS_NS[0], BOUNDS_NS[0] + 1, BOUNDS_NS[-1], BOUNDS_NS[-1] + 1):
        looks = iter((7_000, 7_000 + taken_ns))
        monkeypatch.setattr("wormfs.fuse.counters.precise_ns", lambda looks=looks: next(looks))
        trio.run(served.write, 1, 0, b"")
    count = counters.operations()["write"]
    # A bound belongs to its bucket, as Prometheus has it: "le" is less or equal.
    assert count.buckets == (2, 1, *[0] * 9, 1, 1)
    assert count.total_ns == 2 * BOUNDS_NS[0] + 1 + 2 * BOUNDS_NS[-1] + 1


def test_failures_by_reason(counters: Counters, served: Any) -> None:
    assert failed(served.flush, 1) == errno.EIO
    assert failed(served.flush, 1) == errno.EIO
    assert failed(served.rename) == errno.EPERM
    assert failed(served.link) == errno.EPERM
    assert failed(served.open) == errno.EIO
    assert counters.failures() == {
        FailureKind("flush", "unavailable", "EIO", refused=False): 2,
        FailureKind("rename", "sealed", "EPERM", refused=True): 1,
        FailureKind("link", "eperm", "EPERM", refused=True): 1,
        FailureKind("open", "unforeseen", "EIO", refused=False): 1,
    }
    assert {name: count.count for name, count in counters.operations().items()} == {
        "flush": 2, "rename": 1, "link": 1, "open": 1,
    }  # fmt: skip


def test_an_operation_that_was_cut_off_is_no_failure(counters: Counters, served: Any) -> None:
    async def main() -> None:
        with trio.move_on_after(0):
            await served.fsync(1, False)

    trio.run(main)
    assert counters.operations() == counters.failures() == {}


def test_counts_travel(counters: Counters, served: Any) -> None:
    trio.run(served.write, 1, 0, b"12345")
    failed(served.rename)
    received = measured.from_message(decode(encode(measured.to_message(counters, {"warning": 3}))))
    assert received.operations == counters.operations()
    assert received.failures == counters.failures()
    assert received.log_lines == {"warning": 3}
