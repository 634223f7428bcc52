"""What may be done to a name, as pure functions: the write-once rules and nothing else.

Each raises the error that the caller shall see, or returns. ``docs/semantics.md`` is the same in words.
"""

from __future__ import annotations

import os

from wormfs.errors import Busy, InvalidArgument, Sealed
from wormfs.worm.lifecycle import EntryState

WRITE_BITS = 0o222
RENAME_NOREPLACE = 1

_WRITES = (os.O_WRONLY, os.O_RDWR)


def wants_to_write(flags: int) -> bool:
    """Whether open(2) with these flags may change a file. O_TRUNC does, even with O_RDONLY."""
    return (flags & os.O_ACCMODE) in _WRITES or bool(flags & os.O_TRUNC)


def may_open_entry(state: EntryState, flags: int, *, same_process: bool, reopenable: bool) -> None:
    """Opening a file that is not a record yet."""
    if wants_to_write(flags):
        if state is EntryState.WRITING:
            raise Busy("another program is writing this file")
        if state is not EntryState.SETTLING or not reopenable:
            raise Sealed("the file has been closed; what is written once stays as it is")
    elif state is EntryState.WRITING and not same_process:
        raise Busy("another program is still writing this file")


def may_truncate_entry(state: EntryState, *, same_process: bool) -> None:
    """truncate(2) by name of a file that is not a record yet: as opening it for writing."""
    if state is EntryState.WRITING and not same_process:
        raise Busy("another program is writing this file")


def may_open_record(flags: int) -> None:
    """Opening a committed file."""
    if wants_to_write(flags):
        raise Sealed("the file is a record; it can be read, not changed")


def may_rename(flags: int) -> None:
    """Whether renameat2(2) with these flags could ever be right here."""
    if flags & ~RENAME_NOREPLACE:
        raise InvalidArgument("records cannot be exchanged or whited out")


def may_change_attributes(
    *,
    mode: tuple[int, int | None],
    uid: tuple[int, int | None],
    gid: tuple[int, int | None],
    size: int | None,
    times: tuple[tuple[int, int | None], ...],
) -> None:
    """chmod, chown, utimens, truncate on a record: (now, wanted) pairs; ``None`` asks for nothing.

    What changes nothing is allowed, and so is removing write bits, which a record has lost anyway.
    """
    if size is not None:
        raise Sealed("the file is a record; its length is fixed")
    now, wanted = mode
    if (wanted is not None and wanted | WRITE_BITS != now | WRITE_BITS) or (wanted or 0) & WRITE_BITS & ~now:
        raise Sealed("the file is a record; its mode is fixed")
    for now, wanted in (uid, gid, *times):
        if wanted is not None and wanted != now:
            raise Sealed("the file is a record; its owner and times are fixed")
