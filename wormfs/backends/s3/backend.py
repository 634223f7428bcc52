"""An S3 bucket as a backend. See the package's text for what lies where."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Generator, Iterator, Mapping

from wormfs.backends.base import Guarantee, Traits
from wormfs.backends.blockcache import BlockCache
from wormfs.backends.s3 import check, probe
from wormfs.backends.s3.claims import Claims
from wormfs.backends.s3.client import connect
from wormfs.backends.s3.counting import Usage
from wormfs.backends.s3.erasing import Eraser
from wormfs.backends.s3.findings import findings
from wormfs.backends.s3.multipart import MAX_OBJECT_BYTES, Uploads
from wormfs.backends.s3.names import Names
from wormfs.backends.s3.options import ObjectLock, S3Options, parse
from wormfs.backends.s3.reader import Budget, S3Reader
from wormfs.backends.s3.recent import Recent
from wormfs.backends.s3.records import Records
from wormfs.backends.s3.retaining import Retaining
from wormfs.backends.s3.store import Store
from wormfs.backends.s3.transfer import S3Transfer, Target
from wormfs.backends.s3.tree import Found, Tree
from wormfs.clock import Clock, SystemClock
from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    IsADirectory,
    NotFound,
    OutOfSpace,
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
    parent_of,
)
from wormfs.threads import Beside

log = logging.getLogger(__name__)

_SENDERS = 6
_FETCHERS = 8


def create(name: str, options: Mapping[str, object]) -> S3Backend:
    """For the registry. Raises SettingsError."""
    return S3Backend(name, parse(name, options))


@dataclasses.dataclass(frozen=True, slots=True)
class _Parts:
    """What a started backend is made of."""

    store: Store
    tree: Tree
    records: Records
    recent: Recent
    retaining: Retaining
    eraser: Eraser
    uploads: Uploads
    target: Target
    senders: Beside
    fetchers: Beside
    cache: BlockCache[bytearray]
    budget: Budget


class S3Backend:
    """See ``wormfs.backends.base.Backend`` for what each method promises."""

    def __init__(self, name: str, options: S3Options, clock: Clock | None = None) -> None:
        self.name = name
        self.options = options
        self.names = Names(name, options.root)
        self._clock = clock or SystemClock()
        self._usage = Usage(options.capacity_bytes)
        self._parts: _Parts | None = None

    @property
    def traits(self) -> Traits:
        """The longest name is known after the start: versions need room in some stores."""
        options = self.options
        return Traits(
            guarantee=Guarantee.EXCLUSIVE_WRITER if options.exclusive_writer else Guarantee.ATOMIC,
            connections=options.connections,
            max_object_bytes=MAX_OBJECT_BYTES,
            max_key_bytes=self.names.max_key_bytes,
            max_name_bytes=self.names.max_name_bytes,
            keeps_directory_attributes=True,
            compliance=options.object_lock is ObjectLock.COMPLIANCE,
        )

    # Life

    def start(self) -> None:
        """Connect and prove create-if-absent in the real bucket. Besides: AccessDenied."""
        store = self.connected()
        try:
            if not self.options.exclusive_writer:
                probe.prove(store, self.names)
            self._started().tree.make_root()
        except BaseException:
            self.close()
            raise
        self._started().fetchers.start(self._usage.count, store, self.names.root)

    def connected(self) -> Store:
        """A client that knows whether the bucket is versioned; nothing is written."""
        if self._parts is None:
            store = Store(self.name, self.options, connect(self.name, self.options), self._clock)
            try:
                store.page(self.names.root, at_most=1)
                store.versioned = _is_versioned(store)
                if store.versioned and self.options.endpoint is not None:
                    self.names.store_versions_as_files()
            except BaseException:
                store.close()
                raise
            self._parts = self._assembled(store)
        return self._parts.store

    def _assembled(self, store: Store) -> _Parts:
        recent = Recent()
        records = Records(store, self.names)
        senders, fetchers = Beside(_SENDERS), Beside(_FETCHERS)
        tree = Tree(store, self.names, records, recent, fetchers)
        retaining = Retaining(store, records)
        uploads = Uploads(store, self.names)
        target = Target(
            store, self.names, tree, records, recent, Claims(store, self.names), uploads, retaining, senders,
            self._usage.add, self.options.exclusive_writer,
            # AWS documents it; of others it was seen that they let several win.
            atomic_completion=self.options.endpoint is None,
        )  # fmt: skip
        half = self.options.read_memory_bytes // 2
        return _Parts(
            store, tree, records, recent, retaining, Eraser(store, self.names, tree, retaining), uploads,
            target, senders, fetchers, BlockCache(half), Budget(half),
        )  # fmt: skip

    def close(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.senders.close()
            parts.fetchers.close()
            parts.store.close()

    def spool_directory(self, instance_id: str) -> str | None:
        """Left to the state directory. The daemon's uploads of earlier runs are removed from now on."""
        if self._parts is not None:
            self._parts.uploads.belong_to(instance_id)
            self._parts.senders.start(self._remove_stale, self._parts.uploads)
        return None

    def _remove_stale(self, uploads: Uploads) -> None:
        try:
            removed = uploads.remove_stale()
        except WormfsError as error:
            log.warning("%s: uploads of an earlier run could not be removed: %s", self.name, error)
            return
        if removed:
            log.info("%s: removed %d uploads that an earlier run has left", self.name, removed)

    def check(self, *, light: bool = False) -> Iterator[CheckResult]:
        return check.run(self, light=light)

    def space(self) -> Space:
        return self._usage.space()

    def time_ns(self) -> int | None:
        return self._started().store.time_ns()

    def findings(self) -> Iterator[Finding]:
        return findings(self._started().store, self.names)

    # Names

    def validate(self, name: bytes) -> None:
        self.names.validate(name)

    def stat(self, key: Key) -> ObjectInfo:
        self.names.check(key)
        return self._started().tree.info(key)

    def stat_ready(self, key: Key) -> ObjectInfo | None:
        """Directories of a moment ago, which every new file asks for; and, while many files are made in one,
        that a name is free."""
        if self._parts is None:
            return None
        recent = self._parts.recent
        if recent.listed_free(key):
            raise NotFound("there is no such name", backend=self.name, key=key)
        return recent.directory(key)

    def list(self, key: Key) -> Generator[ObjectInfo, None, None]:
        self.names.check(key)
        return self._started().tree.list(key)

    # Files

    def open(self, info: ObjectInfo) -> S3Reader:
        """NotFound also when the name now holds another file than ``info`` tells of."""
        self.names.check(info.key)
        parts = self._started()
        if info.kind is Kind.DIRECTORY:
            raise IsADirectory("it is a directory", backend=self.name, key=info.key)
        if not parts.recent.holds(info):
            now = parts.tree.info(info.key)
            if (now.kind, now.version) != (info.kind, info.version):
                raise NotFound(
                    "the file was replaced since it was looked up", backend=self.name, key=info.key
                )
        assert info.version is not None, "what stat and list tell of a file has a version"
        return S3Reader(
            parts.store, parts.fetchers, parts.cache, parts.budget, info.key, self.names.of(info.key),
            info.version, info.size_bytes,
        )  # fmt: skip

    def record(self, key: Key) -> Record | None:
        found = self._file(key)
        return None if found.record is None else self._started().records.current(key, found.record)

    def begin(self, key: Key) -> S3Transfer:
        self.names.check(key)
        parts = self._started()
        parts.tree.must_be_directory(parent_of(key))
        if not parts.recent.absent(key) and parts.tree.taken(key):
            raise AlreadyExists("the name is taken", backend=self.name, key=key)
        return self._transfer(parts, key)

    def begin_ready(self, key: Key) -> S3Transfer | None:
        """Where the kernel has just looked for the name, and for its directory."""
        self.names.check(key)
        parts = self._started()
        parent = parent_of(key)
        if parts.recent.absent(key) and (parent == ROOT or parts.recent.directory(parent) is not None):
            return self._transfer(parts, key)
        return None

    def _transfer(self, parts: _Parts, key: Key) -> S3Transfer:
        if self._usage.full:
            raise OutOfSpace("the configured capacity is used up", backend=self.name, key=key)
        return S3Transfer(parts.target, key)

    def resume(self, key: Key) -> S3Transfer:
        self.names.check(key)
        parts = self._started()
        parts.recent.forget(key)
        # A directory without a marker is one as soon as the file is there; a file above is in the way.
        with contextlib.suppress(NotFound):
            parts.tree.must_be_directory(parent_of(key))
        return S3Transfer(parts.target, key)

    def change_retention(self, key: Key, change: RetentionChange) -> Record:
        found = self._file(key)
        if found.record is None:
            raise Unsupported("wormfs did not write this file", backend=self.name, key=key)
        retention = self._started().retaining.change(key, found.head, found.record, change)
        return dataclasses.replace(found.record, retention=retention)

    def erase(self, key: Key, *, early: bool = False) -> None:
        self.names.check(key)
        parts = self._started()
        try:
            self._usage.add(-parts.eraser.erase(key, early=early))
        finally:
            parts.recent.forget(key)

    # Directories

    def make_directory(self, key: Key, attributes: DirectoryAttributes) -> ObjectInfo:
        self.names.check(key)
        if not key:
            raise AlreadyExists("the root is there", backend=self.name)
        return self._started().tree.make_directory(key, attributes)

    def remove_directory(self, key: Key) -> None:
        self.names.check(key)
        self._started().tree.remove_directory(key)

    def set_directory_attributes(self, key: Key, attributes: DirectoryAttributes) -> None:
        self.names.check(key)
        self._started().tree.set_attributes(key, attributes)

    # Inside

    def _started(self) -> _Parts:
        if self._parts is None:
            raise Unavailable("the bucket is not connected", backend=self.name)
        return self._parts

    def _file(self, key: Key) -> Found:
        """Raises NotFound, IsADirectory."""
        self.names.check(key)
        tree = self._started().tree
        found = tree.file(key) if key else None
        if found is None:
            if not key or tree.directory(key) is not None:
                raise IsADirectory("it is a directory", backend=self.name, key=key)
            raise NotFound("there is no such file", backend=self.name, key=key)
        return found


def _is_versioned(store: Store) -> bool:
    """Also where it was suspended: old versions are still there."""
    try:
        answer = store.call("get_bucket_versioning", None, "ask for versioning")
    except (AccessDenied, Unsupported):
        # Without the right to ask: one with Object Lock is. Of others the first object that is put shows it.
        return store.options.object_lock is not ObjectLock.NONE
    return answer.get("Status") in ("Enabled", "Suspended")
