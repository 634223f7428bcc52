"""How much the prefix holds: counted once in the background, then kept up to date by commits and erasing."""

from __future__ import annotations

import logging
import threading

from wormfs.backends.s3.store import Store
from wormfs.errors import WormfsError
from wormfs.model import Space

log = logging.getLogger(__name__)


class Usage:
    """The bytes below one prefix, against the capacity that the settings name. Safe from any thread."""

    def __init__(self, capacity_bytes: int | None) -> None:
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._counted = False
        self._lock = threading.Lock()

    def add(self, size_bytes: int) -> None:
        """A file came (or went, with a negative size)."""
        with self._lock:
            self._used_bytes += size_bytes

    def count(self, store: Store, prefix: str) -> None:
        """Walk over all objects once; for a thread. Until it has ended, what was seen so far counts."""
        if self._capacity_bytes is None or self._counted:
            return
        try:
            for page in store.pages(prefix, versions=store.versioned):
                self.add(sum(each.size_bytes for each in page.objects))
        except WormfsError as error:
            log.warning("%s: what the bucket holds could not be counted: %s", store.backend, error)
            return
        self._counted = True

    def space(self) -> Space:
        """Total and free; unknown without a capacity."""
        if self._capacity_bytes is None:
            return Space(None, None)
        with self._lock:
            return Space(self._capacity_bytes, max(0, self._capacity_bytes - self._used_bytes))

    @property
    def full(self) -> bool:
        """Nothing more fits."""
        return self.space().free_bytes == 0
