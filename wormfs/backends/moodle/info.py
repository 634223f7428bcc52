"""From rows to what the layers above see."""

from __future__ import annotations

from typing import Final

from wormfs.backends.moodle.rows import NS_PER_S, FileRow
from wormfs.backends.moodle.sidecar import Sidecar
from wormfs.model import Key, Kind, ObjectInfo

_FOREIGN_MODE: Final = 0o440
"""Of what Moodle itself stored: who may see it there, Moodle decides; here its own user may."""
_DIRECTORY_MODE: Final = 0o750
_WRITE_BITS: Final = 0o222

Owner = tuple[int, int]
"""uid and gid."""


def of_file(key: Key, row: FileRow, beside: Sidecar | None, owner: Owner) -> ObjectInfo:
    """A file that has a row."""
    if beside is None:
        created_ns, modified_ns = row.created_s * NS_PER_S, row.modified_s * NS_PER_S
        return ObjectInfo(
            key, Kind.FILE, row.size_bytes, _FOREIGN_MODE, *owner, modified_ns, modified_ns, created_ns,
            version=row.contenthash, recorded=False,
        )  # fmt: skip
    return of_record(key, beside, row.contenthash, row.size_bytes)


def of_record(key: Key, beside: Sidecar, contenthash: str, size_bytes: int) -> ObjectInfo:
    """A file by its record."""
    attributes = beside.record.attributes
    return ObjectInfo(
        key, Kind.FILE, size_bytes, attributes.mode & 0o7777 & ~_WRITE_BITS, attributes.uid, attributes.gid,
        attributes.atime_ns, attributes.mtime_ns, beside.record.committed_at_ns, version=contenthash,
    )  # fmt: skip


def of_directory(key: Key, row: FileRow | None, owner: Owner) -> ObjectInfo:
    """A directory; without a row, one that stands for a course or for all."""
    created_ns = row.created_s * NS_PER_S if row is not None else 0
    return ObjectInfo(key, Kind.DIRECTORY, 0, _DIRECTORY_MODE, *owner, created_ns, created_ns, created_ns)
