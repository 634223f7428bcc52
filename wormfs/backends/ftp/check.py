"""``wormfs check`` for a server: every promise tried out, nothing visible left behind.

One hidden claim of a path that no mount can have is made by the first check of any host and stays. Every
check stages a file of its own and tries to claim that path with it, so any number of hosts may check at once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol

import wormfs
from wormfs.backends.base import Guarantee, Traits
from wormfs.backends.ftp.claims import DATA, META, Claims, decode_meta, encode_meta
from wormfs.backends.ftp.names import CHECK_KEY, Names
from wormfs.backends.ftp.options import FtpOptions, Tls
from wormfs.backends.ftp.pool import Pool
from wormfs.backends.ftp.server import Server
from wormfs.backends.ftp.session import LoginRefused, Session
from wormfs.clock import Clock
from wormfs.errors import BackendFault, DigestMismatch, Unavailable, WormfsError
from wormfs.model import CheckResult, FileAttributes, Record, Space

_CONTENT = b"This file belongs to `wormfs check`, which proves with it that nothing can replace it.\n"
_GIB = 1 << 30


class Checked(Protocol):
    """What a check needs of its backend."""

    name: str
    options: FtpOptions

    @property
    def traits(self) -> Traits: ...

    @property
    def write_once(self) -> bool: ...

    def start(self) -> None: ...

    def connected(self) -> Pool: ...

    def server(self, session: Session) -> Server: ...

    def space(self) -> Space: ...


def run(backend: Checked, names: Names, claims: Claims, clock: Clock) -> Iterator[CheckResult]:
    """The results one by one, as they are found out. A failure leaves out what depends on it."""
    check = _Check(backend, names, claims, clock)
    try:
        results = check.connect()
        yield from results
        if not all(result.passed for result in results):
            return
        if backend.write_once:
            check = _CheckOnce(backend, names, claims, clock)
        written = check.attempt("write", check.write)
        yield written
        if written.passed:
            yield check.attempt("overwrite refused", check.overwrite)
            yield check.attempt("read", check.read)
        yield check.free_space()
    finally:
        check.clean()


class _Check:
    """One run: what its steps hand on, and the steps, each with its detail."""

    def __init__(self, backend: Checked, names: Names, claims: Claims, clock: Clock) -> None:
        self._backend = backend
        self._names = names
        self._claims = claims
        self._clock = clock
        self._staging: bytes | None = None

    def attempt(self, name: str, action: Callable[[Server], str]) -> CheckResult:
        try:
            with self._backend.connected().session() as session:
                return CheckResult(name, True, action(self._backend.server(session)))
        except WormfsError as error:
            return CheckResult(name, False, str(error))

    def connect(self) -> list[CheckResult]:
        """Connecting, logging in and proving what claims rest on is one trip: told as two lines."""
        options = self._backend.options
        where = f"{options.host}:{options.server_port}"
        secured = "plain" if options.tls is Tls.NONE else f"TLS ({options.tls.value})"
        connected = CheckResult("connect", True, f"{where}, {secured}", warning=options.tls is Tls.NONE)
        try:
            self._start()
        except (Unavailable, BackendFault) as error:
            return [CheckResult("connect", False, str(error))]
        except LoginRefused as error:
            return [connected, CheckResult("authenticate", False, str(error))]
        except WormfsError as error:
            return [connected, CheckResult("authenticate", False, str(error))]
        guarantee = self._backend.traits.guarantee
        detail = f"as {options.user}; {guarantee.value}"
        alone = guarantee is Guarantee.EXCLUSIVE_WRITER
        return [connected, CheckResult("authenticate", True, detail, warning=alone)]

    def _start(self) -> None:
        try:
            self._backend.connected()
        except Unavailable:
            self._backend.start()
            return
        with self._backend.connected().session() as session:
            self._backend.server(session).look(self._names.path(b""))

    def write(self, server: Server) -> str:
        """A file of our own, staged; the object of an earlier check is as good."""
        self._stage(server)
        assert self._staging is not None
        if self._claims.claim(server, self._staging, CHECK_KEY):
            self._stage(server)
        return f"{len(_CONTENT)} bytes with record"

    def _stage(self, server: Server) -> None:
        self._staging = self._names.staging()
        reply = server.make_directory(self._staging)
        if not reply.good:
            raise server.fail(reply, None, "make a directory", storing=True)
        record = _record(self._clock.now_ns())
        server.store_small(self._staging + b"/" + DATA, _CONTENT, None)
        server.store_small(self._staging + b"/" + META, encode_meta(CHECK_KEY, record), None)

    def overwrite(self, server: Server) -> str:
        if self._backend.traits.guarantee is Guarantee.EXCLUSIVE_WRITER:
            return "only by asking first: safe while this host is the only one that writes"
        assert self._staging is not None
        if self._claims.claim(server, self._staging, CHECK_KEY):
            raise BackendFault("the test object was replaced by another file", backend=self._backend.name)
        return "a name that is taken stays taken"

    def read(self, server: Server) -> str:
        place = self._names.claim(CHECK_KEY)
        meta, content = server.read_small(place + b"/" + META), server.read_small(place + b"/" + DATA)
        if meta is None or content is None:
            raise BackendFault("the test object is not complete", backend=self._backend.name)
        if hashlib.sha256(content).hexdigest() != decode_meta(meta).record.sha256:
            raise DigestMismatch(
                "the test object's bytes are not those of its record", backend=self._backend.name
            )
        return "bytes match the record's SHA-256"

    def free_space(self) -> CheckResult:
        try:
            space = self._backend.space()
        except WormfsError as error:
            return CheckResult("free space", False, str(error))
        if space.free_bytes is None:
            return CheckResult("free space", True, "the server does not say; set capacity", warning=True)
        detail = f"{space.free_bytes / _GIB:.1f} GiB free"
        if space.total_bytes is not None:
            detail = f"{space.free_bytes / _GIB:.1f} GiB of {space.total_bytes / _GIB:.1f} GiB free"
        if space.free_bytes == 0:
            return CheckResult("free space", False, detail)
        if space.free_bytes <= _GIB:
            return CheckResult("free space", True, f"{detail}; Moodle wants more than 1 GiB", warning=True)
        return CheckResult("free space", True, detail)

    def clean(self) -> None:
        staging, self._staging = self._staging, None
        if staging is not None:
            with contextlib.suppress(WormfsError), self._backend.connected().session() as session:
                self._claims.discard(self._backend.server(session), staging)


class _CheckOnce(_Check):
    """Where nothing can be renamed or removed: the test object is stored by the first check, and stays."""

    def write(self, server: Server) -> str:
        place = self._names.claim(CHECK_KEY)
        meta = encode_meta(CHECK_KEY, _record(self._clock.now_ns()), needs_done=True)
        server.make_directory(place)
        for name, content in ((DATA, _CONTENT), (META, meta)):
            reply = server.store_once(place + b"/" + name, content, None)
            if not reply.good and server.size(place + b"/" + name) is None:
                raise server.fail(reply, None, "store a file", storing=True)
        return f"{len(_CONTENT)} bytes with record"

    def overwrite(self, server: Server) -> str:
        if server.store_once(self._names.claim(CHECK_KEY) + b"/" + DATA, b"other\n", None).good:
            raise BackendFault("the test object was replaced by another file", backend=self._backend.name)
        return "what is there stays: the server itself replaces and deletes nothing"


def _record(now_ns: int) -> Record:
    return Record(
        entry_id="wormfs-check",
        sha256=hashlib.sha256(_CONTENT).hexdigest(),
        size_bytes=len(_CONTENT),
        attributes=FileAttributes(0o444, 0, 0, now_ns, now_ns),
        committed_at_ns=now_ns,
        writer_uid=0,
        wormfs_version=wormfs.__version__,
    )
