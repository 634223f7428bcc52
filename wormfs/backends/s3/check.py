"""``wormfs check`` for a bucket. One hidden object is used again and again, so it works where nothing can be
erased."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from wormfs.backends.s3 import probe
from wormfs.backends.s3.failures import PreconditionFailed
from wormfs.backends.s3.names import Names
from wormfs.backends.s3.options import ObjectLock, S3Options
from wormfs.backends.s3.store import Store
from wormfs.errors import (
    BackendFault,
    DigestMismatch,
    NotFound,
    Unsupported,
    WormfsError,
)
from wormfs.model import CheckResult, Space

NS = 1_000_000_000
_GIB = 1 << 30
_WORRYING_SKEW_S = 60
_SECONDS_UNTIL_REFUSED = 900


class Checked(Protocol):
    """What a check needs of its backend."""

    options: S3Options
    names: Names

    def connected(self) -> Store: ...

    def space(self) -> Space: ...


def run(backend: Checked, *, light: bool) -> Iterator[CheckResult]:
    """One line after the other; ends early when nothing further can be tried.

    ``light``: without the race of several writers. That the store refuses to replace the test object is
    asked all the same.
    """
    try:
        store = backend.connected()
        store.page(backend.names.root, at_most=1)
    except WormfsError as error:
        yield CheckResult("connect", False, str(error))
        return
    yield CheckResult("connect", True, f"{backend.options.endpoint or 'AWS'}, bucket {store.bucket}")
    check = _Check(store, backend)
    yield check.tried("authenticate", check.authenticate)
    yield check.tried("write", check.write)
    yield check.tried("overwrite refused", check.overwrite)
    if not light and not backend.options.exclusive_writer:
        yield check.tried("create race", check.race)
    yield check.tried("read", check.read)
    yield from check.object_lock()
    yield from check.transport()
    yield check.clock()
    yield check.free_space()


class _Check:
    def __init__(self, store: Store, backend: Checked) -> None:
        self._store = store
        self._backend = backend
        self._names = backend.names
        self._options = backend.options

    def tried(self, name: str, step: Callable[[], str]) -> CheckResult:
        try:
            return CheckResult(name, True, step())
        except WormfsError as error:
            return CheckResult(name, False, str(error))

    def authenticate(self) -> str:
        self._store.page(self._names.hidden, at_most=1)
        return "the bucket may be listed with these credentials"

    def write(self) -> str:
        try:
            self._store.put(self._names.check_object, probe.CONTENT)
        except PreconditionFailed:
            return "the test object of an earlier check is there"
        except DigestMismatch as error:
            raise Unsupported(f"{error}; try `checksum: md5`, or `checksum: none`") from error
        except BackendFault as error:
            raise Unsupported(f"{error}; if it is about checksums, try `checksum: md5`") from error
        return f"{len(probe.CONTENT)} bytes"

    def overwrite(self) -> str:
        if self._options.exclusive_writer:
            return "not asked of the store: this host is said to be the only writer"
        probe.overwrite_is_refused(self._store, self._names)
        return "a name that is taken stays taken"

    def race(self) -> str:
        probe.prove(self._store, self._names, again=self._store.options.object_lock is ObjectLock.NONE)
        return "of several writers exactly one creates a new name"

    def read(self) -> str:
        content = self._store.read_small(self._names.check_object)
        if content != probe.CONTENT:
            raise DigestMismatch("the test object has other bytes than were put there")
        return "the bytes that were written"

    def object_lock(self) -> Iterator[CheckResult]:
        wanted = self._options.object_lock
        try:
            configuration = self._store.call("get_object_lock_configuration", None, "ask for Object Lock")
            enabled = configuration["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"
        except (NotFound, Unsupported, BackendFault):
            enabled = False
        except WormfsError as error:
            yield CheckResult("object lock", wanted is ObjectLock.NONE, str(error), warning=True)
            return
        if wanted is ObjectLock.NONE:
            detail = "off at the bucket" if not enabled else "the bucket has it, the settings do not use it"
            yield CheckResult("object lock", True, detail, warning=enabled)
        elif not enabled:
            yield CheckResult(
                "object lock",
                False,
                f"`object_lock: {wanted.value}` is set, but the bucket was made without it",
            )
        else:
            yield CheckResult("object lock", True, f"{wanted.value}, set with each file")

    def transport(self) -> Iterator[CheckResult]:
        """Told only when it deserves attention."""
        if self._options.insecure:
            yield CheckResult(
                "tls", True, "`insecure: true`: the server's certificate is not verified", warning=True
            )
        elif (self._options.endpoint or "").startswith("http:"):
            yield CheckResult("tls", True, "the connection is not encrypted", warning=True)

    def clock(self) -> CheckResult:
        try:
            skew_s = abs(self._store.time_ns() - self._store.wall.now_ns()) / NS
        except WormfsError as error:
            return CheckResult("clock", False, str(error))
        return CheckResult(
            "clock",
            skew_s < _SECONDS_UNTIL_REFUSED,
            f"{skew_s:.0f} s from the store's; at {_SECONDS_UNTIL_REFUSED} s requests are refused",
            warning=skew_s >= _WORRYING_SKEW_S,
        )

    def free_space(self) -> CheckResult:
        space = self._backend.space()
        if space.free_bytes is None or space.total_bytes is None:
            return CheckResult("free space", True, "unknown: set `capacity` to have it shown")
        detail = f"{space.free_bytes / _GIB:.1f} GiB of {space.total_bytes / _GIB:.1f} GiB free"
        return CheckResult("free space", space.free_bytes > 0, detail, warning=space.free_bytes <= _GIB)
