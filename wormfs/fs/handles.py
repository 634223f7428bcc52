"""Open files and directories: one type per state, never a bag of flags."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from wormfs.backends.base import Reader
from wormfs.errors import InvalidArgument
from wormfs.fs.listing import Listing
from wormfs.model import Key
from wormfs.spool.entry import Entry, Writer


@dataclass(slots=True, eq=False)
class WriteHandle:
    """The one handle through which a file is written."""

    entry: Entry
    inode: int
    writer: Writer
    read_back: Reader | None = None
    """Where the creator reads once the spool file is gone."""


@dataclass(slots=True, eq=False)
class SpoolReadHandle:
    """A file that is not at the backend yet, read from the spool. Owns its descriptor."""

    fd: int

    def close(self) -> None:
        os.close(self.fd)


@dataclass(slots=True, eq=False)
class ReadHandle:
    """A committed file."""

    key: Key
    reader: Reader


@dataclass(slots=True, eq=False)
class DirectoryHandle:
    """One opendir."""

    inode: int
    listing: Listing


FileHandle = WriteHandle | SpoolReadHandle | ReadHandle
Handle = FileHandle | DirectoryHandle


class HandleTable:
    """Numbers for handles, as the kernel knows them."""

    def __init__(self) -> None:
        self._next = 1
        self._handles: dict[int, Handle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[Handle]:
        return iter(list(self._handles.values()))

    def numbers(self) -> list[int]:
        """All that are given out now."""
        return list(self._handles)

    def add(self, handle: Handle) -> int:
        """A new number for ``handle``."""
        number = self._next
        self._next += 1
        self._handles[number] = handle
        return number

    def get(self, number: int) -> Handle:
        """Raises InvalidArgument for a number that was never given out or is closed."""
        try:
            return self._handles[number]
        except KeyError:
            raise InvalidArgument("no such handle") from None

    def directory(self, number: int) -> DirectoryHandle:
        """The handle of an opendir."""
        handle = self.get(number)
        if not isinstance(handle, DirectoryHandle):
            raise InvalidArgument("not a directory handle")
        return handle

    def drop(self, number: int) -> Handle | None:
        """Forget a number."""
        return self._handles.pop(number, None)
