"""A record as object metadata.

Metadata is at most 2 KiB of ASCII; stores change the case of its keys, drop empty values and trim spaces
(see the design's servers.md). So there is one lower-case key with the record's JSON, percent-encoded where it
is not printable ASCII. What does not fit goes to an object of its own, which is written first.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from wormfs.backends import record_codec
from wormfs.errors import BackendFault
from wormfs.model import Record, Retention

RECORD = "wormfs-record"
MORE = "wormfs-more"
KEY = "wormfs-key"
ATTRIBUTES = "wormfs-directory"
ROOM_BYTES = 2000
"""Of 2,048, with some left for what a store counts besides."""

_PRINTABLE = "".join(chr(number) for number in range(0x21, 0x7F) if chr(number) not in "%")


@dataclass(frozen=True, slots=True)
class Kept:
    """What an object's metadata says: the record, or its essentials and where the whole one is."""

    record: Record | None
    more: str | None = None


def encode(record: Record, more: str) -> tuple[dict[str, str], bool]:
    """The metadata, and whether the record must be kept under the name ``more`` besides."""
    whole = {RECORD: escape(record_codec.encode(record))}
    if _size(whole) <= ROOM_BYTES:
        return whole, False
    essential = dataclasses.replace(
        record,
        attributes=dataclasses.replace(record.attributes, xattrs={}),
        retention=Retention(record.retention.retain_until_ns),
    )
    return {RECORD: escape(record_codec.encode(essential)), MORE: more}, True


def decode(metadata: Mapping[str, str]) -> Kept:
    """Raises BackendFault for a damaged record."""
    fields = {name.lower(): value for name, value in metadata.items()}
    text = fields.get(RECORD)
    return Kept(None if text is None else record_codec.decode(unescape(text)), fields.get(MORE))


def is_recorded(metadata: Mapping[str, str]) -> bool:
    """Whether it says anything of a record."""
    return any(name.lower() in (RECORD, MORE) for name in metadata)


def escape(text: bytes) -> str:
    """Printable ASCII for any bytes."""
    return urllib.parse.quote_from_bytes(text, safe=_PRINTABLE)


def unescape(text: str) -> bytes:
    """What ``escape`` was given. Raises BackendFault for what it cannot have made."""
    try:
        return urllib.parse.unquote_to_bytes(text.encode("ascii"))
    except UnicodeEncodeError as error:
        raise BackendFault("the record in the object's metadata is not ASCII") from error


def _size(metadata: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in metadata.items())
