"""Files that verification found damaged: no byte of them is served."""

from __future__ import annotations

from collections.abc import Collection

from wormfs.backends.base import Reader
from wormfs.errors import DigestMismatch
from wormfs.fs.handles import HandleTable, ReadHandle
from wormfs.fs.inodes import InodeTable
from wormfs.model import Key


class Damage:
    """Which files of one backend are damaged. Lives on the event loop; asked at every open, so quick."""

    def __init__(self, backend: str, inodes: InodeTable, handles: HandleTable):
        self._backend = backend
        self._inodes = inodes
        self._handles = handles
        self._keys: frozenset[Key] = frozenset()

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    def check(self, key: Key) -> None:
        """Raises DigestMismatch for a damaged file."""
        if key in self._keys:
            raise _refusal(self._backend, key)

    def replace(self, keys: Collection[Key]) -> list[int]:
        """These are the damaged files from now on; open files among them cannot be read any more.

        Returns the inodes whose content the kernel may have cached and must drop.
        """
        new = frozenset(keys) - self._keys
        self._keys = frozenset(keys)
        if not new:
            return []
        for handle in self._handles:
            if isinstance(handle, ReadHandle) and handle.key in new:
                handle.reader = _DamagedReader(self._backend, handle.key, handle.reader)
        inodes = [inode for key in new if (inode := self._inodes.find_key(key)) is not None]
        for inode in inodes:
            # Like no content that a later open may find: what is cached is dropped then once more.
            self._inodes.node(inode).content = self
        return inodes

    def remove(self, key: Key) -> None:
        """The name stands for another file now."""
        self._keys -= {key}


class _DamagedReader:
    """Stands in the place of a reader that was open when the damage was found."""

    def __init__(self, backend: str, key: Key, reader: Reader):
        self._backend = backend
        self._key = key
        self.close = reader.close

    def read(self, offset: int, size: int) -> bytes:
        raise _refusal(self._backend, self._key)

    def read_ready(self, offset: int, size: int) -> bytes | None:
        raise _refusal(self._backend, self._key)


def _refusal(backend: str, key: Key) -> DigestMismatch:
    return DigestMismatch(
        "ALERT: verification found it damaged; it is not read until it was restored and "
        "'wormfs verify' finds it whole",
        backend=backend,
        key=key,
    )
