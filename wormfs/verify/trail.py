"""What the audit trail tells verification: which files must be there, and which are rightly gone.

The trail names files by salted hashes (subjects), so it cannot give names; but of a name that is seen the
subject can be computed. Per subject the catalog remembers one of: ``committed`` (and its file was not listed
yet), ``erased``, ``recommitted`` (erased, and committed again).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from wormfs.errors import BackendFault
from wormfs.model import Key
from wormfs.verify.catalog import Catalog

_STATES: Final = {
    "committed": "committed",
    "erasing": "erased",
    "erased": "erased",
    "not-erased": "committed",
}
"""An erasure that was cut off may have happened: its file is not missed. One that failed did not."""
_BATCH: Final = 1000
_INTERESTING: Final = (b'"committed"', b"erased", b'"erasing"')


@dataclass(frozen=True, slots=True)
class Trail:
    """The audit trail of one backend, as verification needs it."""

    path: Path
    subject: Callable[[Key], str]
    """What stands for a key in the trail."""

    def catch_up(self, catalog: Catalog) -> None:
        """Take in what was written since the last time. Blocks. Raises BackendFault."""
        try:
            with open(self.path, "rb") as lines:
                start = _start(catalog.fact("trail"), lines)
                lines.seek(start)
                for events, position in _batches(lines, start):
                    catalog.hear(events, f"{os.fstat(lines.fileno()).st_ino} {position}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise BackendFault(f"the audit trail {self.path} cannot be read: {error.strerror}") from error


def _start(remembered: str | None, lines: BinaryIO) -> int:
    """Where to go on: at the beginning when it is another file now (logrotate)."""
    if remembered is not None:
        inode, _, offset = remembered.partition(" ")
        status = os.fstat(lines.fileno())
        if int(inode) == status.st_ino and int(offset) <= status.st_size:
            return int(offset)
    return 0


def _batches(lines: BinaryIO, position: int) -> Iterator[tuple[list[tuple[str, str, str]], int]]:
    events: list[tuple[str, str, str]] = []
    for line in lines:
        if not line.endswith(b"\n"):
            break  # it is being written, or was cut by a power loss
        position += len(line)
        if any(word in line for word in _INTERESTING):
            events += _event(line)
        if len(events) >= _BATCH:
            yield events, position
            events = []
    yield events, position


def _event(line: bytes) -> list[tuple[str, str, str]]:
    with contextlib.suppress(ValueError):
        parsed = json.loads(line)
        if isinstance(parsed, dict) and isinstance(parsed.get("file"), str):
            state = _STATES.get(str(parsed.get("event")))
            if state is not None:
                return [(parsed["file"], state, str(parsed.get("at", "")))]
    return []
