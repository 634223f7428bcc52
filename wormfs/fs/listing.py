"""One pass over a directory, streamed.

The backend's own stream is read as far as the kernel asks, so memory does not grow with the directory.
Files on their way through this host come first, from a snapshot taken when the directory was opened; the
backend's stream leaves them out, so a file that is committed meanwhile is neither missed nor shown
twice.

Positions are counted from 1. The kernel may come back to a position that it has read ahead but not
delivered: the last entries are kept for that. For any earlier one the directory is read again from its
beginning.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator

from wormfs.fs.names import MAX_NAME_BYTES, hidden
from wormfs.model import Key, ObjectInfo, name_of
from wormfs.spool.entry import Entry

_KEPT = 4096
_BATCH = 256

Item = Entry | ObjectInfo


class Listing:
    """The entries of one directory, for one opendir."""

    def __init__(
        self,
        entries: Callable[[], list[Entry]],
        objects: Callable[[], Iterator[ObjectInfo]],
    ):
        """``entries`` snapshots the files on their way, ``objects`` starts the backend's stream."""
        self._entries = entries
        self._objects = objects
        self._kept: deque[Item] = deque(maxlen=_KEPT)
        self._read = 0
        self._stream: Iterator[Item] | None = None

    def fetch(self, after: int) -> list[Item]:
        """Some entries from position ``after`` on; empty at the end. Blocks where the backend does.

        Raises what the backend's ``list`` raises.
        """
        if self._stream is None or after < self._read - len(self._kept):
            self._rewind()
        assert self._stream is not None
        while self._read < after:
            item = next(self._stream, None)
            if item is None:
                return []
            self._keep(item)
        behind = self._read - after
        if behind:
            return list(itertools.islice(self._kept, len(self._kept) - behind, None))
        batch = list(itertools.islice(self._stream, _BATCH))
        for item in batch:
            self._keep(item)
        return batch

    def ready(self, after: int) -> bool:
        """Whether ``fetch`` would answer from what is kept."""
        return self._read - len(self._kept) <= after < self._read

    def close(self) -> None:
        """Free what the backend holds for the stream."""
        stream, self._stream = self._stream, None
        close = getattr(stream, "close", None)
        if close is not None:
            close()

    def _rewind(self) -> None:
        self.close()
        self._kept.clear()
        self._read = 0
        self._stream = self._merge()

    def _merge(self) -> Iterator[Item]:
        entries = [entry for entry in self._entries() if not entry.state.ended]
        shown = {name_of(entry.key) for entry in entries}
        yield from entries
        objects = self._objects()
        try:
            for info in objects:
                name = name_of(info.key)
                # No crap in, no crap out: what no program could use is not shown.
                if name in shown or hidden(name) or not name or len(name) > MAX_NAME_BYTES:
                    continue
                yield info
        finally:
            close = getattr(objects, "close", None)
            if close is not None:
                close()

    def _keep(self, item: Item) -> None:
        self._kept.append(item)
        self._read += 1


def key_of(item: Item) -> Key:
    """The key of whatever a listing yields."""
    return item.key
