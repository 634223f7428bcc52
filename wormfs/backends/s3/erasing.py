"""Erasing a file: every version and delete marker, what wormfs keeps beside it, and a last look."""

from __future__ import annotations

from wormfs.backends.s3.names import Names
from wormfs.backends.s3.options import ObjectLock
from wormfs.backends.s3.retaining import Retaining
from wormfs.backends.s3.store import Head, Store
from wormfs.backends.s3.tree import Tree
from wormfs.errors import AccessDenied, BackendFault, IsADirectory, NotFound, Retained
from wormfs.model import Key


class Eraser:
    """Erases files of one bucket. Safe from any thread; what was cut off can be called again."""

    def __init__(self, store: Store, names: Names, tree: Tree, retaining: Retaining) -> None:
        self._store = store
        self._names = names
        self._tree = tree
        self._retaining = retaining

    def erase(self, key: Key, *, early: bool) -> int:
        """See ``Backend.erase``. Returns the bytes that were freed."""
        found = self._tree.file(key)
        if found is None:
            if self._tree.directory(key) is not None:
                raise IsADirectory("it is a directory", backend=self._store.backend, key=key)
            # What an erase that was cut off has left.
            left_over = self._kept_beside(key)
            if self._tree.file(key) is None:
                self._purge(key, left_over)
            raise NotFound("there is no such file", backend=self._store.backend, key=key)
        name = self._names.of(key)
        # Listed while the name is taken: once it is free, another host may store a new file's record there.
        beside = self._kept_beside(key)
        if self._store.versioned:
            # Newest first: as long as the committed version is there, nothing else can show.
            for each in self._store.versions(name, key):
                self._delete_version(key, name, each.version_id, early=early)
            left = bool(self._store.versions(name, key))
        else:
            self._store.delete(name, key)
            left = self._tree.file(key) is not None
        if left:
            raise BackendFault("it is still there after erasing", backend=self._store.backend, key=key)
        self._purge(key, beside)
        return found.info.size_bytes

    def _delete_version(self, key: Key, name: str, version_id: str | None, *, early: bool) -> None:
        bypass = early and self._store.options.object_lock is ObjectLock.GOVERNANCE
        try:
            self._store.delete(name, key, version_id, bypass=bypass)
        except AccessDenied as error:
            refused = self._refused(key, name, version_id, early=early)
            raise refused or error from error

    def _refused(self, key: Key, name: str, version_id: str | None, *, early: bool) -> Retained | None:
        """Retained, if it is the lock that keeps it and not a missing right."""
        head: Head = self._store.head(name, key, version_id)
        locked = head.held or (head.locked_until_ns or 0) > self._store.wall.now_ns()
        return self._retaining.refuse_erasing(key, head, early=early) if locked else None

    def _kept_beside(self, key: Key) -> list[str]:
        """Records, changes of retention and claims of a name."""
        prefixes = (self._names.records(key), self._names.retentions(key), self._names.claims(key))
        return [listed.name for prefix in prefixes for listed in self._store.names(prefix)]

    def _purge(self, key: Key, names: list[str]) -> None:
        for name in names:
            self._store.purge(name, key)
