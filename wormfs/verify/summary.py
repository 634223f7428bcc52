"""What ``wormfs status`` tells of verification."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from wormfs.model import FindingKind
from wormfs.verify.catalog import catalog_path, database


@dataclass(frozen=True, slots=True)
class LastRun:
    """A verification that came to its end."""

    ended_ns: int
    files: int
    size_bytes: int
    whole_backend: bool
    """It was not asked to look at a part of the tree only. (It may have been a sample.)"""
    findings: dict[FindingKind, int]
    oldest_ns: int | None
    """When that file was last found whole (or first seen) for which it is longest ago; ``None``: no files."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one backend."""

    last: LastRun | None
    unfinished: int
    """Runs that were interrupted, or are under way."""
    damaged: int
    """Files whose reading is refused."""


def summarize(state_directory: str | Path, backend: str) -> Summary | None:
    """``None`` if nothing was ever verified. Blocks. Raises Unavailable, BackendFault."""
    with database(catalog_path(state_directory, backend), backend) as connection:
        if connection is None:
            return None
        (unfinished,) = connection.execute("SELECT COUNT(*) FROM runs WHERE ended_ns IS NULL").fetchone()
        (damaged,) = connection.execute("SELECT COUNT(*) FROM damaged").fetchone()
        return Summary(_last(connection), unfinished, damaged)


def _last(connection: sqlite3.Connection) -> LastRun | None:
    row = connection.execute(
        "SELECT ended_ns, files, bytes, whole_backend, oldest_ns, id FROM runs "
        "WHERE ended_ns IS NOT NULL ORDER BY ended_ns DESC, id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    found = connection.execute("SELECT kind, COUNT(*) FROM findings WHERE run = ? GROUP BY kind", (row[5],))
    counts = Counter({FindingKind(kind): count for kind, count in found})
    return LastRun(row[0], row[1], row[2], bool(row[3]), dict(counts), row[4])
