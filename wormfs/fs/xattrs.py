"""Extended attributes: what a program may keep with its file, and what wormfs tells of it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from wormfs.clock import timestamp
from wormfs.errors import InvalidArgument, NoSuchAttribute, OutOfSpace, Sealed, Unsupported
from wormfs.model import Record, Retention
from wormfs.spool.entry import Entry
from wormfs.worm import dates
from wormfs.worm.lifecycle import EntryState
from wormfs.worm.retention import must_be_case

OWN_PREFIX = b"user.wormfs."
RETAIN_UNTIL = b"user.wormfs.retain_until"
HOLD = b"user.wormfs.hold"
USER_PREFIX = b"user."

MAX_TOTAL_BYTES = 2048
"""Names and values of one file together: what every backend can hold."""


def must_be_user(name: bytes) -> None:
    """Anything but ``user.*`` is answered as by a file system without it: EPERM would fail ``cp -a``."""
    if not name.startswith(USER_PREFIX):
        raise Unsupported(f"{name.decode('utf-8', 'replace')}: only user.* attributes are kept")


def set_on_entry(xattrs: Mapping[bytes, bytes], name: bytes, value: bytes) -> dict[bytes, bytes]:
    """The attributes of a file that is not a record yet, with one more.

    Raises OutOfSpace early, at setxattr, not at the close that nobody looks at.
    """
    _must_not_be_own(name)
    changed = {**xattrs, name: value}
    if sum(len(key) + len(data) for key, data in changed.items()) > MAX_TOTAL_BYTES:
        raise OutOfSpace(f"extended attributes of one file may hold {MAX_TOTAL_BYTES} bytes in all")
    return changed


def remove_from_entry(xattrs: Mapping[bytes, bytes], name: bytes) -> dict[bytes, bytes]:
    """The attributes of a file that is not a record yet, without one."""
    _must_not_be_own(name)
    if name not in xattrs:
        raise NoSuchAttribute("no such attribute")
    return {key: data for key, data in xattrs.items() if key != name}


def _must_not_be_own(name: bytes) -> None:
    """A date or a hold is kept in the record, with a line in the audit trail; before there is one it would
    bind nobody: its writer can still remove the file."""
    if name in (RETAIN_UNTIL, HOLD):
        what = "legal hold" if name == HOLD else "date"
        raise Sealed(
            f"the file is not committed yet, and only a committed file takes a {what}: set it when "
            "user.wormfs.state is 'committed' (after the settle window, if the backend has one)"
        )
    if name.startswith(OWN_PREFIX):
        raise Sealed("user.wormfs.* is written by wormfs")


def of_entry(entry: Entry, backend: str) -> dict[bytes, bytes]:
    """All attributes of a file on its way."""
    shown = dict(entry.xattrs)
    # The backend has it, and in a moment the record stands for the name. Who is told "committed" may set a
    # date or a hold at once, and that needs the record.
    state = EntryState.SEALED if entry.state is EntryState.COMMITTED else entry.state
    shown[b"user.wormfs.state"] = state.value.encode()
    shown[b"user.wormfs.backend"] = backend.encode()
    if entry.record is not None:
        shown |= _of_retention(entry.record.retention)
        shown[b"user.wormfs.sha256"] = entry.record.sha256.encode()
    return shown


def of_record(record: Record | None, backend: str) -> dict[bytes, bytes]:
    """All attributes of a committed file; without a record it was not written by wormfs."""
    if record is None:
        return {b"user.wormfs.state": b"unrecorded", b"user.wormfs.backend": backend.encode()}
    shown = dict(record.attributes.xattrs)
    shown[b"user.wormfs.state"] = b"committed"
    shown[b"user.wormfs.backend"] = backend.encode()
    shown[b"user.wormfs.sha256"] = record.sha256.encode()
    shown[b"user.wormfs.committed_at"] = timestamp(record.committed_at_ns).encode()
    return shown | _of_retention(record.retention)


def cases_in(value: bytes) -> tuple[str, ...]:
    """The case numbers in a value of ``user.wormfs.hold``: separated by commas. Raises InvalidArgument."""
    try:
        cases = tuple(case.strip() for case in value.decode().split(",") if case.strip())
    except UnicodeDecodeError as error:
        raise InvalidArgument("case numbers are text in UTF-8") from error
    if not cases:
        raise InvalidArgument("name the case; 'setfattr -x' and 'wormfs hold remove' take holds off")
    for case in cases:
        must_be_case(case)
    return cases


def date_in(value: bytes, zone: datetime.tzinfo) -> int | None:
    """The date in a value of ``user.wormfs.retain_until``. Raises InvalidArgument."""
    return dates.parse(value.decode("utf-8", "replace").rstrip("\0"), zone)


def _of_retention(retention: Retention) -> dict[bytes, bytes]:
    return {
        RETAIN_UNTIL: dates.show(retention.retain_until_ns).encode(),
        HOLD: ",".join(retention.holds).encode(),
    }
