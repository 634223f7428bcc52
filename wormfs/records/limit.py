"""How many refusals of one user go into the audit trail."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

A_MINUTE: Final = 60
"""Of one user. Nobody who works with files comes near it; a loop makes thousands a second."""
_WINDOW_S: Final = 60.0
_MOST_USERS: Final = 1000
"""A limit on memory; with more at a time, those that were forgotten begin anew."""


@dataclass(slots=True)
class _User:
    since: float
    admitted: int = 0
    left_out: int = 0


class RefusalLimit:
    """Admits so many a minute, and remembers how many it did not. For any thread; microseconds."""

    def __init__(self) -> None:
        self._users: OrderedDict[int, _User] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, uid: int, now: float) -> int | None:
        """``None``: leave this one out. Else how many were left out since the last that was admitted."""
        with self._lock:
            user = self._users.get(uid)
            if user is None:
                if len(self._users) >= _MOST_USERS:
                    self._users.popitem(last=False)
                user = self._users[uid] = _User(now)
            elif now - user.since >= _WINDOW_S:
                user.since, user.admitted = now, 0
            if user.admitted >= A_MINUTE:
                user.left_out += 1
                return None
            user.admitted += 1
            left_out, user.left_out = user.left_out, 0
            return left_out
