"""Content that no row uses any more: given up as Moodle does it, or erased for good.

Taking content from its place and then looking for rows once more is what makes this safe against whoever
looks at the content once more after adding a row, as wormfs does. Moodle itself does not look again: a file
that Moodle stores in the same moment with the very same bytes may lose its content, as it may by Moodle's
own clean-up.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from wormfs import clock
from wormfs.backends.moodle.database import NO_PATIENCE, PATIENCE, Database
from wormfs.backends.moodle.pool import Aside, Pool
from wormfs.backends.moodle.rows import Rows
from wormfs.backends.moodle.tables import EMPTY_CONTENT
from wormfs.backends.retry import Patience
from wormfs.errors import BackendFault, WormfsError
from wormfs.oserrors import translating

_log = logging.getLogger(__name__)

_ATTEMPTS: Final = 10
LOOK_AGAIN_S: Final = 20.0
"""Longer than Moodle takes from its look for rows to the trash."""
_LOOKS_AT_ONCE: Final = 200


class ContentKeeper:
    """Decides with the database what may leave the pool."""

    def __init__(self, backend: str, database: Database, pool: Pool, rows: Callable[[], Rows]):
        self._backend = backend
        self._database = database
        self._pool = pool
        self._rows = rows
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, str, int]] = deque()
        """Since when content is used by a row of ours, oldest first."""

    def stored(self, contenthash: str, size_bytes: int) -> None:
        """A row uses this content from now on; it is looked at once more a little later."""
        with self._lock:
            self._recent.append((clock.monotonic(), contenthash, size_bytes))
        self.look_again()

    def stored_before(self, contents: Iterable[tuple[str, int]]) -> None:
        """The same for what a daemon stored that was ended, perhaps before it had looked once more."""
        now = clock.monotonic()
        with self._lock:
            self._recent.extend((now, contenthash, size_bytes) for contenthash, size_bytes in contents)

    def look_again(self, after_s: float = LOOK_AGAIN_S) -> None:
        """Bring back what Moodle has moved to the trash although a row uses it by now.

        Moodle looks for rows and then moves; a row that comes in between, and our look at the content, are
        too early. The trash is emptied once a day, so nothing is lost if somebody looks before. Never raises.
        """
        until = clock.monotonic() - after_s
        for _ in range(_LOOKS_AT_ONCE):
            with self._lock:
                if not self._recent or self._recent[0][0] > until:
                    return
                since, contenthash, size_bytes = self._recent.popleft()
            try:
                if not self._pool.has(contenthash, size_bytes):
                    self._tell_if_lost(contenthash)
            except (OSError, WormfsError):
                # The pool or the database is away: with the next file, or the next question for space.
                with self._lock:
                    self._recent.appendleft((since, contenthash, size_bytes))
                return

    def _tell_if_lost(self, contenthash: str) -> None:
        if self._used(contenthash, NO_PATIENCE):
            _log.error(
                "%s: ALERT: content %s, which was just stored, is neither in the pool nor in Moodle's trash: "
                "see wormfs verify",
                self._backend, contenthash,
            )  # fmt: skip

    def give_up(self, contenthash: str, patience: Patience = PATIENCE) -> None:
        """Move content that no row uses to Moodle's trash. Raises the tree's errors."""
        self._remove(contenthash, lambda aside: aside.to_trash(self._pool.trash_path), patience)

    def erase(self, contenthash: str) -> None:
        """Remove content that no row uses, from pool and trash; it is gone when this returns.

        Raises BackendFault when it is not, and the tree's other errors.
        """
        self._remove(contenthash, Aside.erase, PATIENCE)
        if contenthash == EMPTY_CONTENT or self._used(contenthash, PATIENCE):
            return
        with translating(self._backend, None, "remove content from the trash"):
            self._pool.erase_from_trash(contenthash)
            if self._pool.size_of(contenthash) is not None and not self._used(contenthash, PATIENCE):
                raise BackendFault(
                    f"content {contenthash} is still there after erasing: erase again", backend=self._backend
                )

    def _remove(self, contenthash: str, finish: Callable[[Aside], None], patience: Patience) -> None:
        # Moodle keeps the empty content for its directories.
        if contenthash == EMPTY_CONTENT:
            return
        with translating(self._backend, None, f"remove content {contenthash}"):
            for _ in range(_ATTEMPTS):
                if self._used(contenthash, patience):
                    return
                self._pool.take_up_aside(contenthash)
                with self._pool.set_aside(contenthash) as aside:
                    if aside is None:
                        return
                    if not self._used(contenthash, patience):
                        finish(aside)

    def _used(self, contenthash: str, patience: Patience) -> bool:
        rows = self._rows()
        return self._database.read(
            lambda connection: rows.uses_content(connection, contenthash), patience=patience
        )
