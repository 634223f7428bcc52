"""The ``mimetype`` column, as Moodle would fill it for the names that archives have."""

from __future__ import annotations

import mimetypes as standard
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

UNKNOWN: Final = "document/unknown"
DIRECTORY: Final = None
_MAX_CHARACTERS: Final = 100

# Where Moodle's own list (lib/classes/filetypes.php) says something else than Python's.
_MOODLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "mbz": "application/vnd.moodle.backup",
        "gz": "application/g-zip",
        "tgz": "application/g-zip",
        "tar": "application/x-tar",
        "zip": "application/zip",
        "json": "application/json",
        "xml": "application/xml",
        "csv": "text/csv",
        "pdf": "application/pdf",
    }
)


def guess(filename: str) -> str:
    """The type of a file, from the end of its name."""
    ending = filename.rpartition(".")[2].lower() if "." in filename else ""
    found = _MOODLES.get(ending) or standard.guess_type(filename, strict=True)[0]
    return found if found is not None and len(found) <= _MAX_CHARACTERS else UNKNOWN
