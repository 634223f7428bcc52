"""Files that verification found damaged: reading them is an error until a later verification finds them
whole.

The daemon's worker looks here when it starts and whenever ``wormfs verify`` says that something changed. All
methods block.
"""

from __future__ import annotations

from pathlib import Path

from wormfs.model import Key
from wormfs.verify import catalog
from wormfs.verify.catalog import catalog_path, database


class DamageList:
    """The list of one backend, kept in its catalog."""

    def __init__(self, state_directory: str | Path, backend: str):
        self._path = catalog_path(state_directory, backend)
        self._backend = backend

    def load(self) -> frozenset[Key]:
        """All of it. Raises Unavailable, BackendFault when the catalog cannot be read."""
        with database(self._path, self._backend) as connection:
            if connection is None:
                return frozenset()
            return frozenset(Key(key) for (key,) in connection.execute("SELECT key FROM damaged"))

    def forget(self, key: Key) -> None:
        """The name stands for another file now, or for none. Durable. Raises Unavailable, BackendFault."""
        with database(self._path, self._backend) as connection:
            if connection is not None:
                with connection:
                    connection.execute("DELETE FROM damaged WHERE key = ?", (key,))

    def forget_erased(self, key: Key) -> None:
        """A file was erased: nothing of it stays in the catalog. Raises Unavailable, BackendFault.

        Without this its name stays until the next verification, which learns of it from the audit trail.
        """
        with database(self._path, self._backend) as connection:
            if connection is not None:
                with connection:
                    catalog.forget(connection, key)
