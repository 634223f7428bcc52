"""What the journal says of one entry, as a value and as bytes. No I/O.

``encode`` makes canonical JSON of an :class:`EntryRecord`, ``decode`` makes it back and believes
nothing: every type, range and transition is checked. docs/spool-format.md describes the bytes.
:mod:`wormfs.spool.recordfile` puts them into record files, with a checksum around them.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from wormfs.errors import JournalError
from wormfs.model import FileAttributes, Key, Record, Retention
from wormfs.worm.lifecycle import EntryState, allowed

Transition: TypeAlias = tuple[EntryState, int, str]
"""A state, since when (nanoseconds since the epoch), and a note for people."""

HISTORY_LIMIT: Final = 16
"""Transitions that are kept; see ``bounded_history``."""
NOTE_LIMIT_BYTES: Final = 120
ERROR_LIMIT_BYTES: Final = 480
"""Texts for people are cut to this many bytes of JSON, so that a record cannot outgrow its place."""
MAX_KEY_BYTES: Final = 4095
UNKNOWN_KEY: Final = Key(b"")
"""The key of quarantined bytes whose record was lost."""

_HEADROOM_BYTES: Final = 4352
"""What history, last error and record may add to a record's first encoding; see ``payload_bound``."""
_HOLDS_ROOM_BYTES: Final = 512
_EASY_BYTES: Final = 768
_FIXED_BYTES: Final = 704
"""A record with nothing in it, all numbers at their longest."""
_XATTR_FRAME_BYTES: Final = 48
_MAX_INT64: Final = (1 << 63) - 1
_MAX_INT32: Final = (1 << 32) - 1
_ENTRY_ID: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_DATA_NAME: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.data")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PRINTABLE: Final = re.compile(rb"[^\x00-\x1f\x7f]*")
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_CANONICAL_ASCII: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_READABLE: Final = json.JSONEncoder(sort_keys=True, indent=2)
_STATES: Final = {state.value: state for state in EntryState}


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """All that is durably known of one file on its way. See docs/spool-format.md."""

    entry_id: str
    state: EntryState
    key: Key
    size_bytes: int
    sha256: str | None
    attributes: FileAttributes
    writer_uid: int
    writer_pid: int
    created_at_ns: int
    settle_until_ns: int | None
    record: Record | None
    """What the backend is to keep with the file; set when it is sealed."""
    history: tuple[Transition, ...]
    last_error: str | None
    data_name: str
    """The file with its bytes. Made ahead, so its name has an id of its own."""

    def moved(self, state: EntryState, at_ns: int, note: str = "") -> EntryRecord:
        """The same entry in ``state``. Raises JournalError for a transition that is not allowed."""
        if not allowed(self.state, state):
            raise JournalError(f"entry {self.entry_id} cannot go from {self.state.value} to {state.value}")
        history = bounded_history((*self.history, (state, at_ns, note)))
        return dataclasses.replace(self, state=state, history=history)


def new_entry_id(at_ns: int) -> str:
    """An id that sorts by time and is unique without asking anybody: 16 hex of time, 16 of chance."""
    return f"{at_ns:016x}-{secrets.token_hex(8)}"


def is_entry_id(text: str) -> bool:
    """Whether ``text`` has the form that ``new_entry_id`` gives; such a text is safe in a path."""
    return _ENTRY_ID.fullmatch(text) is not None


def data_name(unique_id: str) -> str:
    """The name of a data file."""
    return unique_id + ".data"


def bounded_history(history: Sequence[Transition]) -> tuple[Transition, ...]:
    """At most ``HISTORY_LIMIT`` transitions; the first and the newest always stay.

    What goes first is the oldest step there and back (written again and settled again, retried and
    quarantined again), so that the rest still reads as a life that is possible.
    """
    kept = list(history)
    while len(kept) > HISTORY_LIMIT:
        del kept[_removable(kept)]
    return tuple(kept)


def _removable(history: list[Transition]) -> slice:
    for index in range(1, len(history) - 1):
        for count in (1, 2):
            after = index + count
            if after < len(history) and allowed(history[index - 1][0], history[after][0]):
                return slice(index, after)
    # Only a history that is not a possible life gets here; decode would refuse it.
    raise JournalError("a history that breaks the rules of the life cycle")


# --- encode --------------------------------------------------------------------------------------


def encode(entry: EntryRecord) -> bytes:
    """Canonical JSON of an entry; the same entry always gives the same bytes.

    Raises JournalError when the entry breaks a rule that ``decode`` would refuse.
    """
    _require_sound(entry)
    value = _to_json(entry)
    try:
        return _CANONICAL.encode(value).encode("utf-8")
    except UnicodeEncodeError:
        # Lone surrogates (undecodable bytes in a name of a hold) only exist as JSON escapes.
        return _CANONICAL_ASCII.encode(value).encode("ascii")


def encode_readable(entry: EntryRecord) -> dict[str, Any]:
    """The same content as plain JSON values, to be put into a file for people."""
    _require_sound(entry)
    return _to_json(entry)


def readable_text(value: dict[str, Any]) -> str:
    """JSON with one field per line."""
    return _READABLE.encode(value) + "\n"


def payload_bound(entry: EntryRecord) -> int:
    """How long ``encode`` can become in any later state with this key, attributes and holds, in bytes."""
    holds_bytes = _HOLDS_ROOM_BYTES
    if entry.record is not None:
        holds_bytes = max(holds_bytes, len(_CANONICAL_ASCII.encode(list(entry.record.retention.holds))))
    xattrs = entry.attributes.xattrs
    free_bytes = len(entry.key) + sum(len(name) + len(value) for name, value in xattrs.items())
    if free_bytes < _EASY_BYTES:
        # No form of a byte takes more than three (two bytes of UTF-8 as one escape of six): an
        # estimate without encoding anything, because this runs for every file that is created.
        names = _FIXED_BYTES + 3 * free_bytes + _XATTR_FRAME_BYTES * len(xattrs)
    else:
        names = _bare_bytes(entry)
    return names + _HEADROOM_BYTES + holds_bytes


def _bare_bytes(entry: EntryRecord) -> int:
    """The length of an entry's record without what comes later in its life."""
    bare = dataclasses.replace(
        entry,
        state=EntryState.WRITING,
        size_bytes=_MAX_INT64,
        sha256=None,
        record=None,
        history=(),
        last_error=None,
        settle_until_ns=-_MAX_INT64,
    )
    _require_sound(bare)
    # The ASCII form is never shorter, and one odd character in a hold is enough to make it needed.
    return len(_CANONICAL_ASCII.encode(_to_json(bare)))


def _require_sound(entry: EntryRecord) -> None:
    """Refuse to write what could not be read back: a record that nobody can read is a lost file."""
    _require_consistent(entry)
    _require_ranges(entry.attributes)
    _integer(entry.size_bytes, 0, _MAX_INT64, "size_bytes")
    _integer(entry.writer_uid, 0, _MAX_INT32, "writer_uid")
    _integer(entry.writer_pid, 0, _MAX_INT32, "writer_pid")
    if entry.record is not None:
        _require_ranges(entry.record.attributes)
        _integer(entry.record.size_bytes, 0, _MAX_INT64, "record.size_bytes")
        _integer(entry.record.writer_uid, 0, _MAX_INT32, "record.writer_uid")
        _time(entry.record.committed_at_ns, "committed_at_ns")
        _optional_time(entry.record.retention.retain_until_ns, "retain_until_ns")
    _time(entry.created_at_ns, "created_at_ns")
    _optional_time(entry.settle_until_ns, "settle_until_ns")
    for _, at_ns, _ in entry.history:
        _time(at_ns, "history")


def _require_ranges(attributes: FileAttributes) -> None:
    _integer(attributes.mode, 0, 0o7777, "mode")
    _integer(attributes.uid, 0, _MAX_INT32, "uid")
    _integer(attributes.gid, 0, _MAX_INT32, "gid")
    _time(attributes.atime_ns, "atime_ns")
    _time(attributes.mtime_ns, "mtime_ns")


def _to_json(entry: EntryRecord) -> dict[str, Any]:
    attributes = entry.attributes
    return {
        "attributes": _attributes_to_json(attributes, _xattrs_to_json(attributes)),
        "created_at_ns": entry.created_at_ns,
        "data_name": entry.data_name,
        "entry_id": entry.entry_id,
        "history": [
            [state.value, at_ns, _cut(note, NOTE_LIMIT_BYTES) if note else ""]
            for state, at_ns, note in bounded_history(entry.history)
        ],
        "key": _bytes_to_json(entry.key),
        "last_error": None if entry.last_error is None else _cut(entry.last_error, ERROR_LIMIT_BYTES),
        "record": None if entry.record is None else _record_to_json(entry.record, attributes),
        "settle_until_ns": entry.settle_until_ns,
        "sha256": entry.sha256,
        "size_bytes": entry.size_bytes,
        "state": entry.state.value,
        "writer_pid": entry.writer_pid,
        "writer_uid": entry.writer_uid,
    }


def _record_to_json(record: Record, shared: FileAttributes) -> dict[str, Any]:
    # Up to 64 KiB of xattrs are nearly always those of the entry: they are written once.
    same = record.attributes.xattrs == shared.xattrs
    return {
        "attributes": _attributes_to_json(
            record.attributes, None if same else _xattrs_to_json(record.attributes)
        ),
        "committed_at_ns": record.committed_at_ns,
        "entry_id": record.entry_id,
        "holds": list(record.retention.holds),
        "retain_until_ns": record.retention.retain_until_ns,
        "sha256": record.sha256,
        "size_bytes": record.size_bytes,
        "wormfs_version": record.wormfs_version,
        "writer_uid": record.writer_uid,
    }


def _attributes_to_json(attributes: FileAttributes, xattrs: list[Any] | None) -> dict[str, Any]:
    return {
        "atime_ns": attributes.atime_ns,
        "gid": attributes.gid,
        "mode": attributes.mode,
        "mtime_ns": attributes.mtime_ns,
        "uid": attributes.uid,
        "xattrs": xattrs,
    }


def _xattrs_to_json(attributes: FileAttributes) -> list[Any]:
    return [
        [_bytes_to_json(name), _bytes_to_json(value)] for name, value in sorted(attributes.xattrs.items())
    ]


def _bytes_to_json(value: bytes) -> str | dict[str, str]:
    """Text where it is text that prints, base64 in an object where it is not: one form for each value."""
    if _PRINTABLE.fullmatch(value):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            pass  # not text: the other form holds it
    return {"base64": base64.b64encode(value).decode("ascii")}


def _cut(text: str, limit_bytes: int) -> str:
    """As much of a text for people as fits into ``limit_bytes`` of JSON, escapes counted."""
    if len(text) * 6 + 2 <= limit_bytes and text.isascii():
        return text
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    # An escape may take twelve bytes for one character (a surrogate pair in ASCII form).
    while (length := len(_CANONICAL_ASCII.encode(text))) > limit_bytes:
        text = text[: min(len(text) - 1, len(text) * limit_bytes // length)]
    return text


# --- decode --------------------------------------------------------------------------------------


def decode(payload: bytes) -> EntryRecord:
    """The entry that ``encode`` wrote. Raises JournalError for anything that is not exactly one."""
    try:
        value = json.loads(payload.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise JournalError(f"a journal record is not JSON: {error}") from error
    return decode_readable(value)


def decode_readable(value: object) -> EntryRecord:
    """The entry that ``encode_readable`` gave. Raises JournalError."""
    fields = _fields(value, _ENTRY_FIELDS, "entry")
    attributes = _attributes_from_json(fields["attributes"], None)
    entry = EntryRecord(
        entry_id=_text(fields["entry_id"], "entry_id"),
        state=_state(fields["state"]),
        key=Key(_bytes(fields["key"], "key")),
        size_bytes=_integer(fields["size_bytes"], 0, _MAX_INT64, "size_bytes"),
        sha256=_optional_text(fields["sha256"], "sha256"),
        attributes=attributes,
        writer_uid=_integer(fields["writer_uid"], 0, _MAX_INT32, "writer_uid"),
        writer_pid=_integer(fields["writer_pid"], 0, _MAX_INT32, "writer_pid"),
        created_at_ns=_time(fields["created_at_ns"], "created_at_ns"),
        settle_until_ns=_optional_time(fields["settle_until_ns"], "settle_until_ns"),
        record=None if fields["record"] is None else _record_from_json(fields["record"], attributes),
        history=tuple(_transition(item) for item in _list(fields["history"], "history")),
        last_error=_optional_text(fields["last_error"], "last_error"),
        data_name=_text(fields["data_name"], "data_name"),
    )
    _require_consistent(entry)
    return entry


_ENTRY_FIELDS: Final = frozenset(
    {
        "attributes",
        "created_at_ns",
        "data_name",
        "entry_id",
        "history",
        "key",
        "last_error",
        "record",
        "settle_until_ns",
        "sha256",
        "size_bytes",
        "state",
        "writer_pid",
        "writer_uid",
    }
)
_RECORD_FIELDS: Final = frozenset(
    {
        "attributes",
        "committed_at_ns",
        "entry_id",
        "holds",
        "retain_until_ns",
        "sha256",
        "size_bytes",
        "wormfs_version",
        "writer_uid",
    }
)
_ATTRIBUTE_FIELDS: Final = frozenset({"atime_ns", "gid", "mode", "mtime_ns", "uid", "xattrs"})


def _require_consistent(entry: EntryRecord) -> None:
    """What must hold between the fields; asked before writing and again after reading."""
    if not _ENTRY_ID.fullmatch(entry.entry_id):
        raise JournalError(f"{entry.entry_id!r} is not the id of an entry")
    if not _DATA_NAME.fullmatch(entry.data_name):
        raise JournalError(f"entry {entry.entry_id}: {entry.data_name!r} is not the name of a data file")
    problem = _problem(entry)
    if problem:
        raise JournalError(f"entry {entry.entry_id}: {problem}")


def _problem(entry: EntryRecord) -> str | None:
    if entry.sha256 is not None and not _SHA256.fullmatch(entry.sha256):
        return "sha256 is not 64 hex digits"
    if entry.record is not None and not _SHA256.fullmatch(entry.record.sha256):
        return "the record's sha256 is not 64 hex digits"
    if entry.state in (EntryState.SEALED, EntryState.COMMITTED):
        record = entry.record
        if record is None:
            return f"{entry.state.value} without a record"
        if (record.entry_id, record.sha256, record.size_bytes) != (
            entry.entry_id,
            entry.sha256,
            entry.size_bytes,
        ):
            return "its record belongs to other bytes"
    return _key_problem(entry) or _history_problem(entry)


def _key_problem(entry: EntryRecord) -> str | None:
    key = entry.key
    if key == UNKNOWN_KEY:
        lost = (EntryState.QUARANTINED, EntryState.DISCARDED)
        return None if entry.state in lost else "only quarantined bytes may have no key"
    if len(key) > MAX_KEY_BYTES or key.find(b"\0") >= 0:
        return "a key that no file can have"
    # One search instead of a split: this runs for every write of a record.
    if b"//" in b"/" + key + b"/":
        return "a key with an empty component"
    return None


def _history_problem(entry: EntryRecord) -> str | None:
    history = entry.history
    if not history:
        return None if entry.state is EntryState.WRITING else "no history"
    if history[0][0] not in (EntryState.WRITING, EntryState.QUARANTINED):
        return f"a history that begins with {history[0][0].value}"
    before: EntryState = history[0][0]
    for state, _, _ in history[1:]:
        if not allowed(before, state):
            return f"a history that goes from {before.value} to {state.value}"
        before = state
    return None if before is entry.state else "a history that ends in another state"


def _record_from_json(value: object, shared: FileAttributes) -> Record:
    fields = _fields(value, _RECORD_FIELDS, "record")
    holds = tuple(_text(hold, "holds") for hold in _list(fields["holds"], "holds"))
    return Record(
        entry_id=_text(fields["entry_id"], "record.entry_id"),
        sha256=_text(fields["sha256"], "record.sha256"),
        size_bytes=_integer(fields["size_bytes"], 0, _MAX_INT64, "record.size_bytes"),
        attributes=_attributes_from_json(fields["attributes"], shared),
        committed_at_ns=_time(fields["committed_at_ns"], "committed_at_ns"),
        writer_uid=_integer(fields["writer_uid"], 0, _MAX_INT32, "record.writer_uid"),
        wormfs_version=_text(fields["wormfs_version"], "wormfs_version"),
        retention=Retention(_optional_time(fields["retain_until_ns"], "retain_until_ns"), holds),
    )


def _attributes_from_json(value: object, shared: FileAttributes | None) -> FileAttributes:
    fields = _fields(value, _ATTRIBUTE_FIELDS, "attributes")
    if fields["xattrs"] is None and shared is not None:
        xattrs = dict(shared.xattrs)
    else:
        xattrs = _xattrs_from_json(_list(fields["xattrs"], "xattrs"))
    return FileAttributes(
        mode=_integer(fields["mode"], 0, 0o7777, "mode"),
        uid=_integer(fields["uid"], 0, _MAX_INT32, "uid"),
        gid=_integer(fields["gid"], 0, _MAX_INT32, "gid"),
        atime_ns=_time(fields["atime_ns"], "atime_ns"),
        mtime_ns=_time(fields["mtime_ns"], "mtime_ns"),
        xattrs=xattrs,
    )


def _xattrs_from_json(pairs: list[Any]) -> dict[bytes, bytes]:
    xattrs: dict[bytes, bytes] = {}
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2:
            raise JournalError("an extended attribute is not a pair of name and value")
        xattrs[_bytes(pair[0], "xattrs")] = _bytes(pair[1], "xattrs")
    if len(xattrs) != len(pairs):
        raise JournalError("an extended attribute is there twice")
    return xattrs


def _transition(value: object) -> Transition:
    if type(value) is not list or len(value) != 3:
        raise JournalError("a step of the history is not state, time and note")
    return _state(value[0]), _time(value[1], "history"), _text(value[2], "history")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a field is there twice")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} has no place in a record")


def _fields(value: object, names: frozenset[str], what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise JournalError(f"{what} is not an object")
    if value.keys() != names:
        odd = ", ".join(sorted(str(name) for name in value.keys() ^ names))
        raise JournalError(f"{what} lacks fields or has unknown ones: {odd}")
    return value


def _list(value: object, what: str) -> list[Any]:
    if type(value) is not list:
        raise JournalError(f"{what} is not a list")
    return value


def _integer(value: object, low: int, high: int, what: str) -> int:
    if type(value) is not int or not low <= value <= high:
        raise JournalError(f"{what} is not a whole number from {low} to {high}")
    return value


def _time(value: object, what: str) -> int:
    # Before 1970 is a time that utimensat() can set.
    return _integer(value, -_MAX_INT64 - 1, _MAX_INT64, what)


def _optional_time(value: object, what: str) -> int | None:
    return None if value is None else _time(value, what)


def _text(value: object, what: str) -> str:
    if type(value) is not str:
        raise JournalError(f"{what} is not text")
    return value


def _optional_text(value: object, what: str) -> str | None:
    return None if value is None else _text(value, what)


def _state(value: object) -> EntryState:
    state = _STATES.get(_text(value, "state"))
    if state is None:
        raise JournalError(f"{value!r} is not a state of an entry")
    return state


def _bytes(value: object, what: str) -> bytes:
    if type(value) is str:
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise JournalError(f"{what} is not UTF-8") from error
    fields = _fields(value, frozenset({"base64"}), what)
    try:
        return base64.b64decode(_text(fields["base64"], what), validate=True)
    except (binascii.Error, ValueError) as error:
        raise JournalError(f"{what} is not base64: {error}") from error
