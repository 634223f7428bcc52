"""A backend around any backend that fails in the ways that real ones do.

::

    faulty = FaultyBackend(inner)
    faulty.faults.fail("publish", Unavailable("down"), times=3)
    faulty.faults.lose_reply("publish", Unavailable("timed out"))   # stored, and yet an error
    release = faulty.faults.hang("publish")                         # until release.set()
    faulty.faults.delay("read", seconds=0.2)
    faulty.faults.fill_up(after_bytes=1 << 20)                      # publishes fit, then no more
    faulty.faults.clear()

Calls are named by the method: those of Backend (``stat``, ``list``, ``open``, ``record``,
``begin``, ``resume``, ``make_directory``, …), of Transfer (``advance``, ``prepare``,
``publish``, ``abort``) and of Reader (``read``, ``read_ready``); ``"*"`` is every call.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

from wormfs.backends.base import Backend, Reader, Traits, Transfer
from wormfs.errors import OutOfSpace, WormfsError
from wormfs.model import (
    CheckResult,
    DirectoryAttributes,
    Finding,
    Key,
    ObjectInfo,
    Record,
    RetentionChange,
    Space,
)

T = TypeVar("T")
HANG_LIMIT_S = 60.0

CALLS = frozenset(
    (
        "start",
        "check",
        "stat",
        "list",
        "open",
        "record",
        "begin",
        "resume",
        "make_directory",
        "remove_directory",
        "set_directory_attributes",
        "change_retention",
        "erase",
        "findings",
        "time_ns",
        "space",
        "advance",
        "prepare",
        "publish",
        "abort",
        "read",
        "read_ready",
    )
)


@dataclasses.dataclass
class _Fault:
    """What happens to a call, how often still (``None``: always)."""

    call: str
    times: int | None
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None


class Faults:
    """What goes wrong from now on. Safe to change from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._hanging: list[threading.Event] = []
        self._room_bytes: int | None = None
        self.calls: Counter[str] = Counter()
        """How often each call arrived, failed ones included."""

    def fail(self, call: str, error: WormfsError, *, times: int | None = None) -> None:
        """The call raises ``error`` and does nothing."""
        self._add(call, times, before=lambda: _raise(error))

    def lose_reply(self, call: str, error: WormfsError, *, times: int | None = 1) -> None:
        """The call does all of its work, then raises ``error``."""
        self._add(call, times, after=lambda: _raise(error))

    def delay(self, call: str, seconds: float, *, times: int | None = None) -> None:
        """The call takes that much longer."""
        self._add(call, times, before=lambda: _pause(seconds))

    def hang(self, call: str, *, times: int | None = None) -> threading.Event:
        """The call waits until the returned event is set, then goes on as if nothing had been."""
        released = threading.Event()

        def wait() -> None:
            assert released.wait(HANG_LIMIT_S), f"nobody released the hanging {call} in {HANG_LIMIT_S} s"

        self._add(call, times, before=wait)
        self._hanging.append(released)
        return released

    def fill_up(self, *, after_bytes: int) -> None:
        """Publishing takes room from now on; what does not fit any more raises OutOfSpace."""
        with self._lock:
            self._room_bytes = after_bytes

    def clear(self) -> None:
        """All is well again; what hangs goes on."""
        with self._lock:
            self._faults.clear()
            self._room_bytes = None
            hanging, self._hanging = self._hanging, []
        for released in hanging:
            released.set()

    def take_room(self, size_bytes: int) -> None:
        with self._lock:
            if self._room_bytes is None:
                return
            if size_bytes > self._room_bytes:
                raise OutOfSpace(f"only {self._room_bytes} bytes are left")
            self._room_bytes -= size_bytes

    def free_bytes(self) -> int | None:
        """Room that is left after ``fill_up``; ``None`` without it."""
        with self._lock:
            return self._room_bytes

    def around(self, call: str, action: Callable[[], T]) -> T:
        """Do ``action`` with whatever goes wrong for ``call`` now."""
        assert call in CALLS, call
        with self._lock:
            self.calls[call] += 1
            due = [fault for fault in self._faults if fault.call in (call, "*") and fault.times != 0]
            for fault in due:
                if fault.times is not None:
                    fault.times -= 1
        for fault in due:
            if fault.before:
                fault.before()
        result = action()
        for fault in due:
            if fault.after:
                fault.after()
        return result

    def _add(
        self,
        call: str,
        times: int | None,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        assert call == "*" or call in CALLS, f"{call!r} is no call of a driver: {sorted(CALLS)}"
        with self._lock:
            self._faults.append(_Fault(call, times, before, after))


class FaultyBackend:
    """A ``Backend`` that does what ``inner`` does, except for ``faults``."""

    def __init__(self, inner: Backend, *, inline: bool = False) -> None:
        """``inline``: what the traits say. False, because calls that hang must have a thread."""
        self.inner = inner
        self.faults = Faults()
        self.name = inner.name
        self.traits: Traits = dataclasses.replace(inner.traits, inline=inline)

    def start(self) -> None:
        self.faults.around("start", self.inner.start)

    def close(self) -> None:
        self.faults.clear()
        self.inner.close()

    def spool_directory(self, instance_id: str) -> str | None:
        return self.inner.spool_directory(instance_id)

    def check(self, *, light: bool = False) -> Iterator[CheckResult]:
        return self.faults.around("check", lambda: self.inner.check(light=light))

    def validate(self, name: bytes) -> None:
        self.inner.validate(name)

    def stat(self, key: Key) -> ObjectInfo:
        return self.faults.around("stat", lambda: self.inner.stat(key))

    def list(self, key: Key) -> Iterator[ObjectInfo]:
        return self.faults.around("list", lambda: self.inner.list(key))

    def open(self, info: ObjectInfo) -> Reader:
        return FaultyReader(self.faults.around("open", lambda: self.inner.open(info)), self.faults)

    def record(self, key: Key) -> Record | None:
        return self.faults.around("record", lambda: self.inner.record(key))

    def begin(self, key: Key) -> Transfer:
        return FaultyTransfer(self.faults.around("begin", lambda: self.inner.begin(key)), self.faults)

    def resume(self, key: Key) -> Transfer:
        return FaultyTransfer(self.faults.around("resume", lambda: self.inner.resume(key)), self.faults)

    def make_directory(self, key: Key, attributes: DirectoryAttributes) -> ObjectInfo:
        return self.faults.around("make_directory", lambda: self.inner.make_directory(key, attributes))

    def remove_directory(self, key: Key) -> None:
        self.faults.around("remove_directory", lambda: self.inner.remove_directory(key))

    def set_directory_attributes(self, key: Key, attributes: DirectoryAttributes) -> None:
        self.faults.around(
            "set_directory_attributes", lambda: self.inner.set_directory_attributes(key, attributes)
        )

    def change_retention(self, key: Key, change: RetentionChange) -> Record:
        return self.faults.around("change_retention", lambda: self.inner.change_retention(key, change))

    def erase(self, key: Key, *, early: bool = False) -> None:
        self.faults.around("erase", lambda: self.inner.erase(key, early=early))

    def findings(self) -> Iterator[Finding]:
        return self.faults.around("findings", self.inner.findings)

    def time_ns(self) -> int | None:
        return self.faults.around("time_ns", self.inner.time_ns)

    def space(self) -> Space:
        space = self.faults.around("space", self.inner.space)
        free_bytes = self.faults.free_bytes()
        return space if free_bytes is None else dataclasses.replace(space, free_bytes=free_bytes)


class FaultyTransfer:
    """A ``Transfer`` that does what ``inner`` does, except for ``faults``."""

    def __init__(self, inner: Transfer, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def advance(self, spooled: BinaryIO, ready_bytes: int) -> None:
        self._faults.around("advance", lambda: self._inner.advance(spooled, ready_bytes))

    def prepare(self, spooled: BinaryIO, record: Record) -> None:
        self._faults.around("prepare", lambda: self._inner.prepare(spooled, record))

    def publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        def publish() -> ObjectInfo:
            self._faults.take_room(record.size_bytes)
            return self._inner.publish(spooled, record)

        return self._faults.around("publish", publish)

    def abort(self) -> None:
        self._faults.around("abort", self._inner.abort)


class FaultyReader:
    """A ``Reader`` that does what ``inner`` does, except for ``faults``."""

    def __init__(self, inner: Reader, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def read(self, offset: int, size: int) -> bytes:
        return self._faults.around("read", lambda: self._inner.read(offset, size))

    def read_ready(self, offset: int, size: int) -> bytes | None:
        return self._faults.around("read_ready", lambda: self._inner.read_ready(offset, size))

    def close(self) -> None:
        self._inner.close()


def _raise(error: WormfsError) -> None:
    # A fresh one each time: an exception object keeps the traceback of where it was raised.
    raise type(error)(*error.args, backend=error.backend, key=error.key)


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
