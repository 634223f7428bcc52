"""What a spool directory holds, and what is to become of it. Reads only; changes nothing.

``classify`` is the whole of the rule, as a pure function. :class:`wormfs.spool.store.SpoolStore` acts
on it at start. ``read_entries`` serves the command line, while a daemon runs or not.
"""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Iterator
from typing import Final

from wormfs.errors import JournalError
from wormfs.spool import recordfile
from wormfs.spool.journal import EntryRecord
from wormfs.worm.lifecycle import EntryState

ENTRIES: Final = "entries"
QUARANTINE: Final = "quarantine"
FORMAT: Final = "format"
LOCK: Final = "lock"
FORMAT_NAME: Final = "wormfs spool"
FORMAT_VERSION: Final = 1

_RECORD_NAME: Final = re.compile(r"([0-9]{6,9})\.record")
_DATA_NAME: Final = re.compile(r"([0-9a-f]{16}-[0-9a-f]{16})\.data")
_TEMPORARY_NAME: Final = re.compile(r".+\.[0-9a-f]{8}\.tmp")
_READ_ATTEMPTS: Final = 10


class Action(enum.Enum):
    """What recovery does with one thing that it found."""

    RESUME = "resume the commit, or the settling"
    RESUME_WITHOUT_DATA = "ask the backend whether the commit had arrived"
    QUARANTINE = "keep the bytes, publish nothing"
    DISCARD = "remove an entry without bytes"
    FINISH_QUARANTINE = "finish the move to quarantine"
    CLEAN_UP = "remove what an ended entry left"


def classify(entry: EntryRecord | None, size_bytes: int | None, links: int = 1) -> Action:
    """What a crash calls for.

    Args:
        entry: what the journal says; ``None`` for a data file that no record speaks of.
        size_bytes: of the data file; ``None`` when there is none.
        links: the names that the data file has. More than one means that the bytes are safe elsewhere
            whatever the journal has forgotten: published, or in quarantine.
    """
    if entry is None:
        return Action.QUARANTINE if size_bytes and links == 1 else Action.CLEAN_UP
    if entry.state is EntryState.QUARANTINED:
        # Only the last step of the move removes the data file.
        return Action.CLEAN_UP if size_bytes is None else Action.FINISH_QUARANTINE
    if entry.state.ended:
        return Action.CLEAN_UP
    if entry.state is EntryState.WRITING:
        if size_bytes is None or links > 1:
            return Action.CLEAN_UP
        return Action.QUARANTINE if size_bytes else Action.DISCARD
    if size_bytes is None:
        # A release that was under way ends like this; anything else that does is for people to see.
        return Action.RESUME_WITHOUT_DATA if entry.state is EntryState.SEALED else Action.QUARANTINE
    return Action.RESUME if size_bytes == entry.size_bytes else Action.QUARANTINE


def record_number(name: str) -> int | None:
    """The number in the name of a record file; ``None`` for other names."""
    match = _RECORD_NAME.fullmatch(name)
    return int(match[1]) if match else None


def entry_id_of(name: str) -> str | None:
    """The entry id in the name of a data file; ``None`` for other names."""
    match = _DATA_NAME.fullmatch(name)
    return match[1] if match else None


def is_temporary(name: str) -> bool:
    """Whether this is what a crash inside ``durability.write_file_durably`` leaves."""
    return _TEMPORARY_NAME.fullmatch(name) is not None


def parse_format(content: bytes, directory: str) -> str:
    """The backend's name from the ``format`` file. Raises JournalError for what is not known."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise JournalError(f"{directory}/{FORMAT} is not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise JournalError(f"{directory} is not a spool of wormfs")
    if value.get("version") != FORMAT_VERSION:
        raise JournalError(
            f"{directory} has spool format {value.get('version')!r}; this wormfs knows {FORMAT_VERSION}. "
            "Use the version of wormfs that wrote it."
        )
    backend = value.get("backend")
    if not isinstance(backend, str):
        raise JournalError(f"{directory}/{FORMAT} does not say which backend it belongs to")
    return backend


def read_format(directory: str) -> str | None:
    """The backend that a spool belongs to; ``None`` where there is no spool yet. Raises JournalError."""
    try:
        with open(os.path.join(directory, FORMAT), "rb") as file:
            return parse_format(file.read(), directory)
    except FileNotFoundError:
        return None


def read_entries(directory: str) -> Iterator[EntryRecord]:
    """Every entry that is on its way, oldest first; also those whose move to quarantine is not done.

    Needs no lock and works while the daemon runs: a record that is being rewritten is read again.
    A snapshot, not a transaction: entries come and go meanwhile. Raises JournalError.
    """
    if read_format(directory) is None:
        return
    entries = os.path.join(directory, ENTRIES)
    try:
        directory_fd = os.open(entries, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        newest: dict[str, recordfile.Stored] = {}
        for name in os.listdir(directory_fd):
            number = record_number(name)
            stored = None if number is None else _read_steadily(directory_fd, number)
            if stored is None:
                continue
            known = newest.get(stored.entry.entry_id)
            if known is None or known.sequence < stored.sequence:
                newest[stored.entry.entry_id] = stored
        for entry_id in sorted(newest):
            entry = newest[entry_id].entry
            if not entry.state.ended or _waits_for_quarantine(directory_fd, entry):
                yield entry
    finally:
        os.close(directory_fd)


def _read_steadily(directory_fd: int, number: int) -> recordfile.Stored | None:
    """The newest record of a file that may be written to at this moment."""
    stored = None
    for _ in range(_READ_ATTEMPTS):
        try:
            image = recordfile.parse(number, recordfile.read_image(directory_fd, number))
        except FileNotFoundError:
            return None
        stored = image.stored
        if image.torn == 0:
            break
    return stored


def _waits_for_quarantine(directory_fd: int, entry: EntryRecord) -> bool:
    if entry.state is not EntryState.QUARANTINED:
        return False
    try:
        os.stat(entry.data_name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
