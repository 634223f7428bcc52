"""An FTP or FTPS server as a backend. See ``wormfs.backends.base.Backend`` for what each method promises.

Files lie plainly under their own names; records, and whatever is on its way, in ``.wormfs/`` (see
``names``). How a name is won, published and given up is in ``claims``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TypeVar, cast

from wormfs.backends.base import RESERVED_PREFIX, Guarantee, Traits, Transfer
from wormfs.backends.blockcache import BLOCK_BYTES, BlockCache
from wormfs.backends.ftp import check, inspection, once, probe, space
from wormfs.backends.ftp.ahead import Ahead
from wormfs.backends.ftp.claims import Claim, Claims, Won
from wormfs.backends.ftp.listing import Seen, Type
from wormfs.backends.ftp.names import MAX_KEY_BYTES, Names
from wormfs.backends.ftp.options import FtpOptions, parse
from wormfs.backends.ftp.pool import Pool
from wormfs.backends.ftp.reader import FtpReader, Source
from wormfs.backends.ftp.server import Server
from wormfs.backends.ftp.session import Session, connector
from wormfs.backends.ftp.transfer import FtpTransfer
from wormfs.backends.ftp.upload import Debris, Target
from wormfs.backends.memory import Memory
from wormfs.backends.retry import Patience, retrying
from wormfs.clock import Clock, SystemClock
from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    BackendFault,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotFound,
    Unavailable,
    Unsupported,
    WormfsError,
)
from wormfs.model import (
    ROOT,
    CheckResult,
    DirectoryAttributes,
    Finding,
    Key,
    Kind,
    ObjectInfo,
    Record,
    RetentionChange,
    Space,
    child,
    parent_of,
    show,
)
from wormfs.worm import retention

Result = TypeVar("Result")

_WRITE_BITS = 0o222
_DIRECTORY_MODE = 0o777
"""FTP keeps none: nothing in a directory can be changed, so whoever may enter the mount may add."""
_CHANGE_ATTEMPTS = 200
_LOOKED_AT_ONCE = 64
_COUNT_AGAIN_S = 3600.0
_SCRUB_BYTES = 32 * BLOCK_BYTES
_RECORDS_KEPT = 4096
_RECORD_KEPT_S = 60.0
"""A record does not change, but its file can be erased and made again elsewhere: not for ever."""


def create(name: str, options: Mapping[str, object]) -> FtpBackend:
    """For the registry. Raises SettingsError."""
    return FtpBackend(name, parse(name, options))


class FtpBackend:
    """One directory of one server, through a pool of connections."""

    def __init__(self, name: str, options: FtpOptions, clock: Clock | None = None) -> None:
        self.name = name
        self.options = options
        self._clock = clock or SystemClock()
        self._guarantee = Guarantee.ATOMIC
        self._write_once = False
        self._names = Names(name, options.directory, options.encoding)
        self._claims = Claims(name, self._names)
        self._pool: Pool | None = None
        self._patience = Patience(total_s=options.patience_s)
        self._recent: Memory[tuple[Seen, Record]] = Memory(
            _RECORD_KEPT_S, _RECORDS_KEPT, self._clock.monotonic
        )
        """What was read of files that wormfs wrote: a stat then costs one question and not four."""
        self._cache = BlockCache(options.read_memory_bytes)
        self._claiming = threading.Lock()
        self._debris = Debris()
        self._ahead: Ahead | None = None
        self._used = space.Counted(self._clock, _COUNT_AGAIN_S)

    @property
    def traits(self) -> Traits:
        return Traits(
            guarantee=self._guarantee, connections=self.options.connections, max_key_bytes=MAX_KEY_BYTES
        )

    # Life

    def start(self) -> None:
        """Log in, make ``.wormfs``, prove what claims rest on, and find out which names are kept."""
        self.close()
        pool = Pool(
            self.name, connector(self.name, self.options), self.options.connections, self.options.timeout_s
        )
        try:
            with pool.session() as session:
                pool.pipelining = session.keeps_order()
            with pool.session() as session:
                self._prove(self.server(session))
        except BaseException as error:
            pool.close()
            if isinstance(error, WormfsError):
                error.backend = error.backend or self.name
            raise
        self._pool = pool
        self._ahead = Ahead(self.options.connections)

    def _prove(self, server: Server) -> None:
        probe.make_places(server, self._names, self.name)
        finding = probe.find_weakness(server, self._names)
        self._guarantee = Guarantee.ATOMIC
        self._write_once = self._claims.write_once = finding is probe.Finding.NO_RENAME
        if self._write_once:
            finding = probe.find_weakness_of_once(server, self._names)
        if finding is not None:
            if finding not in probe.BEARABLE or not self.options.exclusive_writer:
                raise probe.refusal(self.name, finding)
            self._guarantee = Guarantee.EXCLUSIVE_WRITER
        if self._write_once:
            self._names.abilities = probe.find_abilities_once(server, self._names)
            return
        self._names.abilities = probe.find_abilities(server, self._names)
        inspection.sweep(server, self._names)

    @property
    def write_once(self) -> bool:
        """The server lets nobody rename or delete, as was found out at the start."""
        return self._write_once

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()

    def connected(self) -> Pool:
        """The connections. Raises Unavailable before ``start``."""
        pool = self._pool
        if pool is None:
            raise Unavailable("it is not connected", backend=self.name)
        return pool

    def server(self, session: Session) -> Server:
        """The server through a session."""
        return Server(session, self.name, self._clock)

    def spool_directory(self, instance_id: str) -> str | None:
        return None

    def check(self, *, light: bool = False) -> Iterator[CheckResult]:
        return check.run(self, self._names, self._claims, self._clock)

    def space(self) -> Space:
        told = self.ask(None, lambda server: space.ask(server, self._names))
        if told.free_bytes is not None or self.options.capacity_bytes is None:
            return told
        capacity = self.options.capacity_bytes
        used = self._used.bytes(lambda: self.ask(None, lambda server: space.used_bytes(server, self._names)))
        return Space(capacity, max(0, capacity - used))

    def time_ns(self) -> int | None:
        if self._write_once:
            return None  # asking would leave a file for ever, each time
        return self.ask(None, lambda server: inspection.server_time_ns(server, self._names))

    def findings(self) -> Iterator[Finding]:
        return inspection.findings(self.ask, self._names, self._claims)

    # Asking

    def ask(self, key: Key | None, question: Callable[[Server], Result]) -> Result:
        """An answer that may be asked for again when the connection breaks. Errors leave with their names."""

        def once() -> Result:
            with self.connected().session() as session:
                return question(self.server(session))

        try:
            return retrying(once, self._patience)
        except WormfsError as error:
            raise self._named(error, key) from error.__cause__

    def _once(self, key: Key, step: Callable[[Server], Result]) -> Result:
        """A step that is not repeated here: what a lost reply left is for the caller to find out."""
        try:
            with self.connected().session() as session:
                return step(self.server(session))
        except WormfsError as error:
            raise self._named(error, key) from error.__cause__

    def _named(self, error: WormfsError, key: Key | None) -> WormfsError:
        error.backend = error.backend or self.name
        error.key = key if error.key is None else error.key
        return error

    def _not_found(self, key: Key) -> NotFound:
        return NotFound("there is no such name", backend=self.name, key=key)

    # Names

    def validate(self, name: bytes) -> None:
        self._names.validate(name)

    def stat(self, key: Key) -> ObjectInfo:
        path = self._names.checked(key)
        return self.ask(key, lambda server: self._stat(server, key, path))

    def _stat(self, server: Server, key: Key, path: bytes) -> ObjectInfo:
        seen = server.look(path)
        if seen is None or seen.type is Type.OTHER:
            raise self._not_found(key)
        if seen.type is Type.DIRECTORY:
            return _directory(key, seen)
        known = self._recent.get(key)
        if known is not None and known[0] == seen:
            return _file(key, seen, known[1])
        claim = self._claims.read(server, key)
        self._must_be_done(server, claim)
        # Bytes still in the claim: what has the name is somebody else's file.
        if claim is None or self._claims.pending(server, key):
            return _file(key, seen, None)
        self._recent.note(key, (seen, claim.record))
        return _file(key, seen, claim.record)

    def _must_be_done(self, server: Server, claim: Claim | None) -> None:
        """Raises NotFound for a file that was stored only in part, or that nobody has said to be whole."""
        if claim is not None and claim.needs_done and not self._claims.done(server, claim.key):
            raise self._not_found(claim.key)

    def list(self, key: Key) -> Iterator[ObjectInfo]:
        path = self._names.checked(key)

        def start(server: Server) -> Iterator[Seen]:
            seen = server.look(path)
            if seen is None:
                raise self._not_found(key)
            if seen.type is not Type.DIRECTORY:
                raise NotADirectory("it is a file", backend=self.name, key=key)
            return server.list(path, key)

        listed = self._listed(key, self.ask(key, start))
        return self._committed_only(listed) if self._write_once else listed

    def _committed_only(self, listed: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        """Without the files that are not whole, or not yet."""
        with contextlib.closing(cast("Generator[ObjectInfo]", listed)):
            while some := list(itertools.islice(listed, _LOOKED_AT_ONCE)):
                keys = [info.key for info in some if info.kind is Kind.FILE]
                hidden = self.ask(None, lambda server: once.uncommitted(server, self._claims, keys))  # noqa: B023
                yield from (info for info in some if info.key not in hidden)

    def _listed(self, key: Key, entries: Iterator[Seen]) -> Iterator[ObjectInfo]:
        try:
            for seen in entries:
                name = self._names.inward(seen.name)
                if (
                    name is None
                    or seen.type is Type.OTHER
                    or name.startswith(RESERVED_PREFIX)
                    or b"/" in name
                ):
                    continue
                key_of_entry = child(key, name)
                if seen.type is Type.DIRECTORY:
                    yield _directory(key_of_entry, seen, partial=True)
                else:
                    yield _file(key_of_entry, seen, None, partial=True)
        finally:
            close = getattr(entries, "close", None)
            if close is not None:
                close()

    # Files

    def open(self, info: ObjectInfo) -> FtpReader:
        return self._open(info, self._cache)

    def open_to_scrub(self, info: ObjectInfo) -> FtpReader:
        """As ``open``; every byte comes from the server now, and none of it pushes out what others read."""
        return self._open(info, BlockCache(_SCRUB_BYTES))

    def _open(self, info: ObjectInfo, cache: BlockCache[bytes]) -> FtpReader:
        path = self._names.checked(info.key)
        now = self.ask(info.key, lambda server: self._stat(server, info.key, path))
        if now.kind is Kind.DIRECTORY:
            raise IsADirectory("it is a directory", backend=self.name, key=info.key)
        if (now.size_bytes, now.version) != (info.size_bytes, info.version) and not info.partial:
            raise NotFound("the file was replaced since it was looked up", backend=self.name, key=info.key)
        source = Source(self.name, self.connected(), cache, self._patience, self._ahead)
        return FtpReader(source, path, info.key, now.size_bytes, (now.version, now.mtime_ns))

    def record(self, key: Key) -> Record | None:
        path = self._names.checked(key)

        def look(server: Server) -> Record | None:
            claim = self._claim_of_file(server, key, path)
            return None if claim is None else self._claims.current(server, claim)[1]

        return self.ask(key, look)

    def _claim_of_file(self, server: Server, key: Key, path: bytes) -> Claim | None:
        """``None`` for a file that wormfs did not write. Raises NotFound, IsADirectory."""
        seen = server.look(path)
        if seen is None or seen.type is Type.OTHER:
            raise self._not_found(key)
        if seen.type is Type.DIRECTORY:
            raise IsADirectory("it is a directory", backend=self.name, key=key)
        claim = self._claims.read(server, key)
        self._must_be_done(server, claim)
        return None if claim is None or self._claims.pending(server, key) else claim

    def begin(self, key: Key) -> Transfer:
        path, meta = self._names.checked(key), self._claims.meta_of(key)

        def look(server: Server) -> None:
            # One exchange with the server, for it is asked before each new file.
            folder = self._names.path(parent_of(key))
            taken, is_folder, claimed = server.look_before_a_file(path, folder, meta)
            if claimed and self._write_once:
                self._finish_for_another(server, key, path)
            if taken:
                raise AlreadyExists("the name is taken", backend=self.name, key=key)
            if not is_folder:
                self._must_have_directory(server, key)
            if claimed:
                self._claims.must_be_free(server, key)

        self.ask(key, look)
        return self._transfer(key, resumed=False)

    def resume(self, key: Key) -> Transfer:
        self._names.checked(key)
        self.ask(key, lambda server: self._must_have_directory(server, key))
        return self._transfer(key, resumed=True)

    def _transfer(self, key: Key, *, resumed: bool) -> Transfer:
        if self._write_once:
            return once.OnceTransfer(self._target(), key)
        return FtpTransfer(self._target(), key, resumed=resumed)

    def _finish_for_another(self, server: Server, key: Key, path: bytes) -> None:
        """What a host left that died before its last word becomes visible, if it is whole."""
        claim = self._claims.read(server, key)
        if claim is not None and claim.needs_done and not self._claims.done(server, key):
            once.finish_for_another(server, self._claims, claim, path)

    def _must_have_directory(self, server: Server, key: Key) -> None:
        """Raises NotFound, or NotADirectory when something on the way is a file."""
        directory = parent_of(key)
        if directory == ROOT:
            return
        seen = server.look(self._names.path(directory))
        if seen is None:
            self._must_have_directory(server, directory)
            raise NotFound("its directory does not exist", backend=self.name, key=key)
        if seen.type is not Type.DIRECTORY:
            raise NotADirectory("its directory is a file", backend=self.name, key=key)

    def _target(self) -> Target:
        return Target(
            name=self.name,
            pool=self.connected(),
            names=self._names,
            claims=self._claims,
            server=self.server,
            claim=self._claim,
            committed=self._committed,
            debris=self._debris,
            verify=self.options.verify_upload,
            ahead=self._ahead,
        )

    def _claim(self, server: Server, staging: bytes, key: Key) -> Won | None:
        if self._guarantee is Guarantee.ATOMIC:
            return self._claims.claim_and_look(server, staging, key)
        # The server would merge the two: asked first, one thread of this only daemon at a time.
        with self._claiming:
            taken = self._claims.read(server, key) is not None
            return None if taken else self._claims.claim_and_look(server, staging, key)

    def _committed(self, key: Key, record: Record) -> ObjectInfo:
        self._recent.forget(key)
        self._used.add(record.size_bytes)
        return _file(key, Seen(Type.FILE, record.size_bytes), record)

    def change_retention(self, key: Key, change: RetentionChange) -> Record:
        path = self._names.checked(key)

        def attempt(server: Server) -> Record | None:
            claim = self._claim_of_file(server, key, path)
            if claim is None:
                raise Unsupported("wormfs did not write this file", backend=self.name, key=key)
            number, record = self._claims.current(server, claim)
            wanted = dataclasses.replace(record, retention=retention.changed(record.retention, change))
            if wanted == record or self._append(server, claim, number + 1, wanted):
                return wanted
            return None

        # Another change took the number: what it says is looked at, and ours comes after it.
        for _ in range(_CHANGE_ATTEMPTS):
            record = self.ask(key, attempt)
            if record is not None:
                return record
        raise Unavailable("too many others change its retention at once", backend=self.name, key=key)

    def _append(self, server: Server, claim: Claim, number: int, record: Record) -> bool:
        if self._write_once:
            return once.append(server, self._claims, claim, number, record)
        return self._claims.append(server, claim, number, record)

    def erase(self, key: Key, *, early: bool = False) -> None:
        path = self._names.checked(key)
        if self._write_once:
            if self.stat(key).kind is Kind.DIRECTORY:
                raise IsADirectory("it is a directory", backend=self.name, key=key)
            raise AccessDenied(
                "this server lets nobody delete: who administers it can, at the server itself, the file and "
                f"its claim {show(self._names.claim(key))}",
                backend=self.name,
                key=key,
            )
        begun: list[tuple[Claim | None, Seen | None]] = []

        def attempt(server: Server) -> None:
            seen = server.look(path)
            if seen is not None and seen.type is Type.DIRECTORY:
                raise IsADirectory("it is a directory", backend=self.name, key=key)
            finished = self._claims.finish_leaving(server, key)
            claim = self._claims.read(server, key)
            if claim is None and seen is None:
                if not finished and not begun:
                    raise self._not_found(key)
                return
            if begun and not _is_still(claim, seen, *begun[0]):
                # An earlier attempt arrived though its reply was lost; the name has a new owner since.
                return
            begun.append((claim, seen))
            if claim is not None and not (seen is not None and self._claims.pending(server, key)):
                self._claims.erase(server, claim)
            else:
                reply = server.delete(path)
                if not reply.good and server.look(path) is not None:
                    raise server.fail(reply, key, "erase it")
            if server.look(path) is not None:
                raise BackendFault("it is still there after erasing", backend=self.name, key=key)

        self.ask(key, attempt)
        self._recent.forget(key)

    # Directories

    def make_directory(self, key: Key, attributes: DirectoryAttributes) -> ObjectInfo:
        path = self._names.checked(key)

        def make(server: Server) -> ObjectInfo:
            reply = server.make_directory(path)
            if not reply.good:
                if server.look(path) is not None:
                    raise AlreadyExists("the name is taken", backend=self.name, key=key)
                self._must_have_directory(server, key)
                raise server.fail(reply, key, "make the directory", storing=True)
            return _directory(key, Seen(Type.DIRECTORY))

        return self._once(key, make)

    def remove_directory(self, key: Key) -> None:
        if key == ROOT:
            raise InvalidArgument("the root of a backend cannot be removed", backend=self.name)
        path = self._names.checked(key)

        def remove(server: Server) -> None:
            reply = server.remove_directory(path)
            if reply.good:
                return
            seen = server.look(path)
            if seen is None:
                self._must_have_directory(server, key)
                raise self._not_found(key)
            if seen.type is not Type.DIRECTORY:
                raise NotADirectory("it is a file", backend=self.name, key=key)
            for _ in server.list(path, key):
                raise DirectoryNotEmpty("it is not empty", backend=self.name, key=key)
            raise server.fail(reply, key, "remove the directory")

        self._once(key, remove)

    def set_directory_attributes(self, key: Key, attributes: DirectoryAttributes) -> None:
        """FTP keeps none of them."""


def _is_still(claim: Claim | None, seen: Seen | None, first: Claim | None, first_seen: Seen | None) -> bool:
    """Whether a name still has the file whose erasing was begun."""
    if first is None or claim is None:
        # A file that wormfs did not write is the same as long as it looks the same.
        return claim is first and seen == first_seen
    return claim.record.entry_id == first.record.entry_id


def _directory(key: Key, seen: Seen, *, partial: bool = False) -> ObjectInfo:
    at_ns = seen.mtime_ns
    return ObjectInfo(
        key,
        Kind.DIRECTORY,
        mode=_DIRECTORY_MODE,
        atime_ns=at_ns,
        mtime_ns=at_ns,
        ctime_ns=at_ns,
        partial=partial,
    )


def _file(key: Key, seen: Seen, record: Record | None, *, partial: bool = False) -> ObjectInfo:
    if record is None:
        at_ns = seen.mtime_ns
        return ObjectInfo(
            key,
            Kind.FILE,
            seen.size_bytes,
            atime_ns=at_ns,
            mtime_ns=at_ns,
            ctime_ns=at_ns,
            recorded=partial,
            partial=partial,
        )
    attributes = record.attributes
    return ObjectInfo(
        key,
        Kind.FILE,
        seen.size_bytes,
        attributes.mode & ~_WRITE_BITS,
        attributes.uid,
        attributes.gid,
        attributes.atime_ns,
        attributes.mtime_ns,
        record.committed_at_ns,
        version=record.entry_id,
    )
