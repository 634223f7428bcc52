"""Which names are taken on this host by files on their way."""

from __future__ import annotations

from collections.abc import Iterator

from wormfs.model import Key, parent_of
from wormfs.spool.entry import Entry


class Reservations:
    """Live entries by key and by directory. Lives on the event loop."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._below: dict[Key, dict[Key, Entry]] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key) -> Entry | None:
        """The entry that stands for ``key``."""
        return self._entries.get(key)

    def below(self, directory: Key) -> list[Entry]:
        """The entries directly in ``directory``."""
        return list(self._below.get(directory, {}).values())

    def add(self, entry: Entry, key: Key | None = None) -> None:
        """Take the entry's key, or a further one that it is about to have."""
        taken = entry.key if key is None else key
        assert taken not in self._entries, "a name is taken once"
        self._entries[taken] = entry
        self._below.setdefault(parent_of(taken), {})[taken] = entry

    def remove(self, key: Key) -> None:
        """Free a key."""
        self._entries.pop(key, None)
        directory = parent_of(key)
        siblings = self._below.get(directory)
        if siblings is not None:
            siblings.pop(key, None)
            if not siblings:
                del self._below[directory]
