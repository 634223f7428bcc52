"""Names of a bucket as files and directories: looking up, listing, directories.

A file is an object; a directory is whatever stands before a slash, or an empty object ``name/`` that keeps an
empty one and its mode and owner. In a versioned bucket a name stands for its oldest version: that is what
wormfs committed, and nothing that somebody puts on top of it is ever shown.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace

from wormfs.backends.s3 import metadata
from wormfs.backends.s3.failures import PreconditionFailed
from wormfs.backends.s3.listings import Listed, Page
from wormfs.backends.s3.names import Names
from wormfs.backends.s3.recent import Look, Recent
from wormfs.backends.s3.records import Records
from wormfs.backends.s3.store import Head, Store, version_of
from wormfs.errors import (
    AlreadyExists,
    BackendFault,
    DirectoryNotEmpty,
    InvalidArgument,
    NotADirectory,
    NotFound,
)
from wormfs.model import ROOT, DirectoryAttributes, Key, Kind, ObjectInfo, Record, parent_of
from wormfs.threads import Beside

WRITE_BITS = 0o222
_DIRECTORY_MODE = 0o777
"""Of directories that keep none: nothing in them can be changed, so whoever may enter the mount may add."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file in the bucket: the version that counts, and what is kept with it."""

    info: ObjectInfo
    head: Head
    record: Record | None
    """As committed; later changes of retention are not in it."""
    others: tuple[Listed, ...] = ()
    """Newer versions and delete markers on top of it."""


class Tree:
    """The names of one bucket. Safe from any thread."""

    def __init__(
        self, store: Store, names: Names, records: Records, recent: Recent, fetchers: Beside
    ) -> None:
        self._store = store
        self._fetchers = fetchers
        self._names = names
        self._records = records
        self._recent = recent

    # Looking up

    def info(self, key: Key) -> ObjectInfo:
        """File or directory. What was a directory a moment ago is one: every new file asks for its
        directory. Raises NotFound."""
        known = self._recent.directory(key)
        if known is not None:
            return known
        info = self._root() if key == ROOT else self._looked_up(key)
        self._recent.remember(key, info)
        if info is None:
            raise NotFound("there is no such name", backend=self._store.backend, key=key)
        return info

    def _looked_up(self, key: Key) -> ObjectInfo | None:
        """One request where that can be guessed: HEAD for what is there, a listing for what is not."""
        parent = parent_of(key)
        if self._recent.expects_absence(parent):
            look = None if self._store.versioned else self._recent.begin_look(parent)
            absent = self._surely_absent(key) if look is None else self._look_around(look, key)
            if absent:
                self._recent.looked_up(parent, absent=True)
                return None
        found = self.file(key)
        info = found.info if found is not None else self.directory(key)
        self._recent.looked_up(parent, absent=info is None)
        return info

    def _surely_absent(self, key: Key) -> bool:
        """One listing tells that there is neither the object nor anything below it, unless names that begin
        alike come between them."""
        name = self._names.of(key)
        page = self._store.page(name, at_most=2, versions=self._store.versioned, key=key)
        found, more = [each.name for each in page.objects], page.after is not None
        below = name + "/"
        if any(each == name or each.startswith(below) for each in found):
            return False
        return not more or (bool(found) and found[-1].encode() > below.encode())

    def _look_around(self, look: Look, key: Key) -> bool:
        """List the whole directory, if it fits into one answer: whether the name is free."""
        parent = parent_of(key)
        below = self._names.below(parent)
        # If this fails, the look stays without an end and shows nothing.
        page = self._store.page(below, delimiter="/", key=parent)
        if page.after is not None:
            self._recent.is_large(parent)
            return self._surely_absent(key)
        names = itertools.chain((each.name for each in page.objects), page.prefixes)
        taken = {_child(parent, below, name.removesuffix("/")) for name in names}
        self._recent.end_look(look, taken)
        return key not in taken

    def taken(self, key: Key) -> bool:
        """Whether the name is a file or a directory."""
        try:
            self.info(key)
        except NotFound:
            return False
        return True

    def file(self, key: Key) -> Found | None:
        """The file of that name, if there is one."""
        name = self._names.of(key)
        others: tuple[Listed, ...] = ()
        version_id: str | None = None
        if self._store.versioned:
            every = self._store.versions(name, key)
            versions = [each for each in every if not each.delete_marker]
            if not versions:
                return None
            oldest = versions[-1]
            others = tuple(each for each in every if each is not oldest)
            version_id = oldest.version_id
        try:
            head = self._store.head(name, key, version_id)
            if not metadata.is_recorded(head.metadata):
                # An answer cut in its headers passes for a whole one: ask again before believing.
                head = self._store.head(name, key, version_id)
        except NotFound:
            return None
        kept = self._records.of_head(key, head)
        return Found(_info(key, head, kept), head, kept, others)

    def directory(self, key: Key) -> ObjectInfo | None:
        """The directory of that name, if there is one."""
        below = self._names.below(key)
        page = self._store.page(below, at_most=1, versions=self._store.versioned, key=key)
        if not page.objects:
            return None
        return self._with_attributes(key)

    def _with_attributes(self, key: Key) -> ObjectInfo:
        try:
            head = self._store.head(self._names.attributes(key), key)
        except NotFound:
            return ObjectInfo(key, Kind.DIRECTORY, mode=_DIRECTORY_MODE)
        return _directory_info(key, _attributes_of(head), head.modified_ns)

    def _root(self) -> ObjectInfo:
        info = self._with_attributes(ROOT)
        if not info.ctime_ns:
            # The bucket itself may be gone, which a HEAD does not tell.
            self._store.page(self._names.root, at_most=1)
        return info

    def must_be_directory(self, key: Key) -> None:
        """Raises NotFound, NotADirectory. What was one a moment ago is one."""
        if key == ROOT or self._recent.directory(key) is not None:
            return
        try:
            info = self.info(key)
        except NotFound:
            above = parent_of(key)
            if above != ROOT:
                self.must_be_directory(above)
            raise
        if info.kind is not Kind.DIRECTORY:
            raise NotADirectory("it is a file", backend=self._store.backend, key=key)

    # Listing

    def list(self, key: Key) -> Generator[ObjectInfo, None, None]:
        """See ``Backend.list``. The first page is fetched at once, so that errors come from here."""
        below = self._names.below(key)
        pages = self._store.pages(
            below, delimiter="/", versions=self._store.versioned, key=key, ahead=self._fetchers
        )
        first = next(pages)
        if key != ROOT and not first.objects and not first.prefixes and first.after is None:
            if self.file(key) is not None:
                raise NotADirectory("it is a file", backend=self._store.backend, key=key)
            raise NotFound("there is no such directory", backend=self._store.backend, key=key)
        return self._entries(key, below, itertools.chain([first], pages))

    def _entries(self, key: Key, below: str, pages: Iterator[Page]) -> Generator[ObjectInfo, None, None]:
        # A file `a` and a directory `a/` are one name; between them come only names that begin with `a`.
        files: list[str] = []
        for item in _merged(pages):
            name = item.name.removesuffix("/")
            if not self._names.shows(name[len(below) :]):
                continue
            while files and not name.startswith(files[-1]):
                files.pop()
            if item.name.endswith("/"):
                if name not in files:
                    yield ObjectInfo(
                        _child(key, below, name), Kind.DIRECTORY, mode=_DIRECTORY_MODE, partial=True
                    )
                continue
            files.append(name)
            yield _listed_info(_child(key, below, name), item)

    # Directories

    def make_root(self) -> None:
        """The hidden object that keeps the root's attributes; without it, a HEAD could not tell an empty
        bucket from one that is gone."""
        with contextlib.suppress(PreconditionFailed):
            self._put_attributes(ROOT, DirectoryAttributes(_DIRECTORY_MODE), new=True)

    def make_directory(self, key: Key, attributes: DirectoryAttributes) -> ObjectInfo:
        """See ``Backend.make_directory``."""
        self.must_be_directory(parent_of(key))
        if not self._recent.absent(key) and self.taken(key):
            raise AlreadyExists("the name is taken", backend=self._store.backend, key=key)
        self._recent.forget(key)
        wanted = replace(attributes, mode=0o777 if attributes.mode is None else attributes.mode & 0o7777)
        try:
            self._store.put(self._names.below(key), b"", key)
        except PreconditionFailed as error:
            raise AlreadyExists("the name is taken", backend=self._store.backend, key=key) from error
        self._put_attributes(key, wanted)
        info = _directory_info(key, wanted, self._store.wall.now_ns())
        self._recent.remember(key, info)
        return info

    def set_attributes(self, key: Key, attributes: DirectoryAttributes) -> None:
        """What is not given stays as it is. Raises NotFound, NotADirectory."""
        self.must_be_directory(key)
        try:
            now = _attributes_of(self._store.head(self._names.attributes(key), key))
        except NotFound:
            now = DirectoryAttributes(_DIRECTORY_MODE)
        changes = {name: value for name, value in _fields(attributes).items() if value is not None}
        self._recent.forget(key)
        self._put_attributes(key, replace(now, **changes))

    def _put_attributes(self, key: Key, attributes: DirectoryAttributes, *, new: bool = False) -> None:
        name = self._names.attributes(key)
        put = self._store.put(name, b"", key, new=new, metadata={metadata.ATTRIBUTES: _text(attributes)})
        if self._store.versioned and not new:
            self._store.purge(name, key, keep=put.version_id)

    def remove_directory(self, key: Key) -> None:
        """See ``Backend.remove_directory``."""
        if key == ROOT:
            raise InvalidArgument("the root of a backend cannot be removed", backend=self._store.backend)
        below = self._names.below(key)
        page = self._store.page(below, at_most=1000, versions=self._store.versioned, key=key)
        if not page.objects:
            if self.file(key) is not None:
                raise NotADirectory("it is a file", backend=self._store.backend, key=key)
            raise NotFound("there is no such directory", backend=self._store.backend, key=key)
        if any(each.name != below for each in page.objects):
            raise DirectoryNotEmpty("it has entries", backend=self._store.backend, key=key)
        self._store.purge(below, key)
        self._store.purge(self._names.attributes(key), key)
        self._recent.forget(key)
        if any(each.name == below for each in self._store.page(below, at_most=1, key=key).objects):
            raise BackendFault("it is still there after removing it", backend=self._store.backend, key=key)


def _merged(pages: Iterator[Page]) -> Iterator[Listed]:
    """Objects and prefixes of all pages in order; of several versions of a name the oldest, of delete
    markers none."""
    oldest: Listed | None = None
    for page in pages:
        items = page.objects
        if page.prefixes:
            # Each kind comes in order; only the two of them have to be brought together.
            items = sorted(
                items + [Listed(prefix) for prefix in page.prefixes], key=lambda each: each.name.encode()
            )
        for item in items:
            if oldest is not None and oldest.name != item.name:
                yield oldest
                oldest = None
            if not item.delete_marker:
                oldest = item
    if oldest is not None:
        yield oldest


def _child(key: Key, below: str, name: str) -> Key:
    bare = name[len(below) :].encode()
    return Key(key + b"/" + bare) if key else Key(bare)


def _listed_info(key: Key, item: Listed) -> ObjectInfo:
    return ObjectInfo(
        key,
        Kind.FILE,
        item.size_bytes,
        atime_ns=item.modified_ns,
        mtime_ns=item.modified_ns,
        ctime_ns=item.modified_ns,
        version=version_of(item.version_id, item.etag),
        storage_class=item.storage_class,
        partial=True,
    )


def _info(key: Key, head: Head, record: Record | None) -> ObjectInfo:
    if record is None:
        return ObjectInfo(
            key,
            Kind.FILE,
            head.size_bytes,
            atime_ns=head.modified_ns,
            mtime_ns=head.modified_ns,
            ctime_ns=head.modified_ns,
            version=version_of(head.version_id, head.etag),
            recorded=False,
            storage_class=head.storage_class,
        )
    return recorded_info(key, record, version_of(head.version_id, head.etag), head)


def recorded_info(key: Key, record: Record, version: str, head: Head | None = None) -> ObjectInfo:
    """What stat shows of a committed file. ``head``: what the store says of it now; its size is the truth."""
    attributes = record.attributes
    return ObjectInfo(
        key,
        Kind.FILE,
        record.size_bytes if head is None else head.size_bytes,
        attributes.mode & 0o7777 & ~WRITE_BITS,
        attributes.uid,
        attributes.gid,
        attributes.atime_ns,
        attributes.mtime_ns,
        record.committed_at_ns,
        version,
        storage_class=None if head is None else head.storage_class,
    )


def _directory_info(key: Key, attributes: DirectoryAttributes, modified_ns: int) -> ObjectInfo:
    return ObjectInfo(
        key,
        Kind.DIRECTORY,
        mode=_DIRECTORY_MODE if attributes.mode is None else attributes.mode,
        uid=attributes.uid or 0,
        gid=attributes.gid or 0,
        atime_ns=modified_ns if attributes.atime_ns is None else attributes.atime_ns,
        mtime_ns=modified_ns if attributes.mtime_ns is None else attributes.mtime_ns,
        ctime_ns=modified_ns,
    )


def _fields(attributes: DirectoryAttributes) -> dict[str, int | None]:
    return {name: getattr(attributes, name) for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns")}


def _text(attributes: DirectoryAttributes) -> str:
    fields = {name: value for name, value in _fields(attributes).items() if value is not None}
    return metadata.escape(json.dumps(fields, separators=(",", ":")).encode())


def _attributes_of(head: Head) -> DirectoryAttributes:
    """A marker that somebody else made has none."""
    fields = {name.lower(): value for name, value in head.metadata.items()}
    text = fields.get(metadata.ATTRIBUTES)
    if text is None:
        return DirectoryAttributes(_DIRECTORY_MODE)
    try:
        kept = json.loads(metadata.unescape(text))
    except ValueError:
        return DirectoryAttributes(_DIRECTORY_MODE)
    known = _fields(DirectoryAttributes())
    if not isinstance(kept, Mapping):
        return DirectoryAttributes(_DIRECTORY_MODE)
    return DirectoryAttributes(**{name: kept[name] for name in known if isinstance(kept.get(name), int)})
