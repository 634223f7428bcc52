"""A record as compact JSON, for drivers that keep it as text beside the bytes.

The text is UTF-8 JSON that any tool can read in ten years. It carries a version; a version or
a field that is not known is refused, never guessed at. Bytes that are not UTF-8 (names and
values of extended attributes may be anything) stand as ``{"base64": "..."}``.

::

    {"v":1,"entry":"3f…","sha256":"9f…","size":1234,"mode":"0444","uid":33,"gid":33,
     "atime_ns":…,"mtime_ns":…,"xattrs":[["user.course","101"],["user.raw",{"base64":"/w=="}]],
     "committed_ns":…,"writer_uid":33,"wormfs":"1.0.0","retain_until_ns":null,"holds":["case 7"]}
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Final

from wormfs.errors import BackendFault, InvalidArgument
from wormfs.model import FileAttributes, Record, Retention

VERSION: Final = 1

_FIELDS: Final = frozenset(
    (
        "v",
        "entry",
        "sha256",
        "size",
        "mode",
        "uid",
        "gid",
        "atime_ns",
        "mtime_ns",
        "xattrs",
        "committed_ns",
        "writer_uid",
        "wormfs",
        "retain_until_ns",
        "holds",
    )
)
_SHA256: Final = re.compile("[0-9a-f]{64}")
_MODE: Final = re.compile("0[0-7]{3,4}")

# Made once: json.dumps would make a new one for every file.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def encode(record: Record, *, xattrs: Mapping[bytes, bytes] | None = None) -> bytes:
    """The record as one line of JSON. The same record always gives the same bytes.

    ``xattrs`` stand in place of the record's own, for a driver that keeps those elsewhere.

    Raises InvalidArgument for text that is not Unicode (half of a surrogate pair).
    """
    attributes = record.attributes
    kept = attributes.xattrs if xattrs is None else xattrs
    document = {
        "v": VERSION,
        "entry": record.entry_id,
        "sha256": record.sha256,
        "size": record.size_bytes,
        "mode": f"0{attributes.mode:03o}",
        "uid": attributes.uid,
        "gid": attributes.gid,
        "atime_ns": attributes.atime_ns,
        "mtime_ns": attributes.mtime_ns,
        "xattrs": [[_to_json(n), _to_json(v)] for n, v in sorted(kept.items())],
        "committed_ns": record.committed_at_ns,
        "writer_uid": record.writer_uid,
        "wormfs": record.wormfs_version,
        "retain_until_ns": record.retention.retain_until_ns,
        "holds": list(record.retention.holds),
    }
    try:
        return _ENCODER.encode(document).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument("a text of the record (a hold, say) is not Unicode") from error


def decode(text: bytes) -> Record:
    """The record that ``encode`` made ``text`` from.

    Raises BackendFault for anything else: damaged text, an unknown version, an unknown or
    missing field, a value of the wrong type.
    """
    document = _parse(text)
    version = document.get("v")
    if version != VERSION or isinstance(version, bool):
        raise BackendFault(
            f"the record has version {version!r}, this wormfs knows version {VERSION}: use the wormfs "
            "that wrote it, or a newer one"
        )
    if document.keys() != _FIELDS:
        odd = ", ".join(sorted(document.keys() ^ _FIELDS))
        raise BackendFault(f"the record's fields are not those of version {VERSION}: {odd}")
    return _record(document)


def _parse(text: bytes) -> dict[str, object]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BackendFault("the record is not JSON: it was damaged, or wormfs did not write it") from error
    if not isinstance(document, dict):
        raise BackendFault("the record is not a JSON object")
    return document


def _record(document: Mapping[str, object]) -> Record:
    until = document["retain_until_ns"]
    return Record(
        entry_id=_text(document, "entry"),
        sha256=_matching(document, "sha256", _SHA256),
        size_bytes=_integer(document, "size"),
        attributes=FileAttributes(
            mode=int(_matching(document, "mode", _MODE), 8),
            uid=_integer(document, "uid"),
            gid=_integer(document, "gid"),
            atime_ns=_integer(document, "atime_ns", signed=True),
            mtime_ns=_integer(document, "mtime_ns", signed=True),
            xattrs=_xattrs(document["xattrs"]),
        ),
        committed_at_ns=_integer(document, "committed_ns"),
        writer_uid=_integer(document, "writer_uid"),
        wormfs_version=_text(document, "wormfs"),
        retention=Retention(
            None if until is None else _integer(document, "retain_until_ns", signed=True),
            _holds(document["holds"]),
        ),
    )


def _text(document: Mapping[str, object], field: str) -> str:
    value = document[field]
    if not isinstance(value, str):
        raise BackendFault(f"the record's {field} is not text")
    return value


def _matching(document: Mapping[str, object], field: str, pattern: re.Pattern[str]) -> str:
    value = _text(document, field)
    if pattern.fullmatch(value) is None:
        raise BackendFault(f"the record's {field} is {value!r}, which it cannot be")
    return value


def _integer(document: Mapping[str, object], field: str, *, signed: bool = False) -> int:
    """A whole number; ``signed`` allows one before the epoch."""
    value = document[field]
    if not isinstance(value, int) or isinstance(value, bool) or (value < 0 and not signed):
        raise BackendFault(f"the record's {field} is {value!r}, which it cannot be")
    return value


def _holds(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(hold, str) for hold in value):
        raise BackendFault("the record's holds are not a list of texts")
    return tuple(value)


def _xattrs(value: object) -> dict[bytes, bytes]:
    if not isinstance(value, list):
        raise BackendFault("the record's xattrs are not a list")
    xattrs: dict[bytes, bytes] = {}
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BackendFault("one of the record's xattrs is not a pair of name and value")
        xattrs[_from_json(pair[0])] = _from_json(pair[1])
    if len(xattrs) != len(value):
        raise BackendFault("the record has the same xattr twice")
    return xattrs


def _to_json(content: bytes) -> str | dict[str, str]:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def _from_json(value: object) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise BackendFault("one of the record's xattrs is not Unicode text") from error
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise BackendFault("one of the record's xattrs is not base64") from error
    raise BackendFault("one of the record's xattrs is neither text nor base64")
