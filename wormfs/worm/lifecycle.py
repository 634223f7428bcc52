"""The life of a file, as states and the transitions between them. No I/O.

::

    WRITING ──► SETTLING ──► SEALED ──► COMMITTED
       │  ▲        │  │          │
       │  └────────┘  │          └──► QUARANTINED   (another host won the name)
       ├──► SEALED ◄──┘
       ├──► DISCARDED     (unlinked before it was a record)
       └──► QUARANTINED   (killed writer, failed write, crash)

``SETTLING``: closed and durable, but still open to rename, chmod, utimens and one more writer:
an empty file within ``empty_grace``, or any file within the ``settle`` window.
"""

from __future__ import annotations

import enum


class EntryState(enum.Enum):
    """Where an entry of the spool is on its way."""

    WRITING = "writing"
    SETTLING = "settling"
    SEALED = "sealed"
    COMMITTED = "committed"
    DISCARDED = "discarded"
    QUARANTINED = "quarantined"

    @property
    def changeable(self) -> bool:
        """Name, attributes and content may still change: it has not been accepted as a record."""
        return self in (EntryState.WRITING, EntryState.SETTLING)

    @property
    def ended(self) -> bool:
        """The entry no longer stands for its name here."""
        return self in (EntryState.COMMITTED, EntryState.DISCARDED, EntryState.QUARANTINED)


_ALLOWED: dict[EntryState, frozenset[EntryState]] = {
    EntryState.WRITING: frozenset(
        {EntryState.SETTLING, EntryState.SEALED, EntryState.DISCARDED, EntryState.QUARANTINED}
    ),
    EntryState.SETTLING: frozenset(
        {EntryState.WRITING, EntryState.SEALED, EntryState.DISCARDED, EntryState.QUARANTINED}
    ),
    EntryState.SEALED: frozenset({EntryState.COMMITTED, EntryState.QUARANTINED}),
    EntryState.COMMITTED: frozenset(),
    EntryState.DISCARDED: frozenset(),
    # An administrator may retry a quarantined entry or throw it away.
    EntryState.QUARANTINED: frozenset({EntryState.SEALED, EntryState.DISCARDED}),
}


def allowed(before: EntryState, after: EntryState) -> bool:
    """Whether an entry may go from ``before`` to ``after``. Staying is allowed (new facts)."""
    return before is after or after in _ALLOWED[before]
