"""Over the files of a backend, streamed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from wormfs.backends.base import Backend
from wormfs.errors import NotADirectory, NotFound
from wormfs.model import Key, Kind, ObjectInfo


@contextlib.contextmanager
def listing(backend: Backend, folder: Key) -> Iterator[Iterator[ObjectInfo]]:
    """One directory, freed at the end. Raises NotFound, NotADirectory, Unavailable."""
    entries = backend.list(folder)
    try:
        yield entries
    finally:
        close = getattr(entries, "close", None)
        if close is not None:
            close()


def files_below(backend: Backend, scope: Key) -> Iterator[ObjectInfo]:
    """Every file at or below ``scope``, a directory's before those of its directories; no other order.

    Memory grows with the number of directories, not of files. What comes or goes meanwhile may be in or not.
    Raises NotFound when there is no ``scope``, Unavailable.
    """
    info = backend.stat(scope)
    if info.kind is Kind.FILE:
        yield info
        return
    waiting = [scope]
    while waiting:
        folders = []
        # It may be removed while the walk goes on.
        with contextlib.suppress(NotFound, NotADirectory), listing(backend, waiting.pop()) as entries:
            for entry in entries:
                if entry.kind is Kind.DIRECTORY:
                    folders.append(entry.key)
                else:
                    yield entry
        waiting += reversed(folders)
