"""PostgreSQL connections on which no wait is without an end.

The server's own limit for a statement helps only while the server lives: a machine that stands still, or a
pooler in between that has lost its server, keeps the connection open and says nothing. And a COMMIT that
waits for a standby has no limit at the server at all. psycopg by itself would wait for ever.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

from wormfs import clock

Result = TypeVar("Result")


class LimitedConnection(psycopg.Connection[Any]):
    """One that is closed when the server has not answered in time; raises OperationalError then."""

    limit_s: float | None = None
    """For all that one call waits for. ``None``: none yet."""

    def wait(self, gen: Any, *arguments: Any, **others: Any) -> Any:
        """As psycopg's, to whose ``gen`` it puts the limit."""
        if self.limit_s is None:
            return super().wait(gen, *arguments, **others)
        return super().wait(self._limited(gen, clock.monotonic() + self.limit_s), *arguments, **others)

    def _limited(self, gen: Generator[Any, Any, Result], deadline: float) -> Generator[Any, Any, Result]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                # Nothing is ready: psycopg looks so ten times a second.
                if not ready and clock.monotonic() >= deadline:
                    # Whatever comes now would be taken for the answer to something else.
                    self.close()
                    raise psycopg.OperationalError("the server does not answer in time")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result
