"""What servers say of names: facts of MLST and MLSD (RFC 3659), and lines of LIST where there are none."""

from __future__ import annotations

import calendar
import contextlib
import datetime
import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import ftputil.error
import ftputil.stat

from wormfs.clock import NS_PER_S


class Type(enum.Enum):
    """What a name stands for at the server."""

    FILE = "file"
    DIRECTORY = "directory"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Seen:
    """One name as the server tells of it. ``mtime_ns``: whole seconds, or a minute or a day in LIST."""

    type: Type
    size_bytes: int = 0
    mtime_ns: int = 0
    unique: str = ""
    """The server's own token of the object (RFC 3659, 7.5.2), where it has one."""
    name: bytes = b""


_TYPES: Final = {"file": Type.FILE, "dir": Type.DIRECTORY, "cdir": Type.OTHER, "pdir": Type.OTHER}
_TIME: Final = re.compile(r"(\d{14})(\.\d+)?")
# permissions, links, owner, group, size, then the date in one of two forms, one space, the name.
_LINE: Final = re.compile(
    rb"([-dlbcps])[-rwxsStTl]{9}[.+@]?\s+\d+\s+\S+\s+\S+\s+(\d+)\s+"
    rb"([A-Z][a-z]{2})\s+(\d{1,2})\s+(\d{4}|\d{1,2}:\d{2}) (.*)",
    re.DOTALL,
)
_MONTHS: Final = {name.encode(): number for number, name in enumerate(calendar.month_abbr) if name}


def facts(line: bytes) -> Seen | None:
    """A line of MLST or MLSD. ``None`` for one that cannot be understood."""
    told, space, name = line.partition(b" ")
    if not space:
        return None
    values: dict[str, str] = {}
    for fact in told.decode("latin-1").split(";"):
        key, _, value = fact.partition("=")
        values[key.lower()] = value
    type_ = _TYPES.get(values.get("type", "").lower(), Type.OTHER)
    size = values.get("size", "0")
    return Seen(
        type_,
        int(size) if size.isdecimal() else 0,
        time_ns(values.get("modify", "")) or 0,
        values.get("unique", ""),
        name,
    )


def time_ns(text: str) -> int | None:
    """YYYYMMDDHHMMSS[.fraction] in UTC as nanoseconds. ``None`` for anything else."""
    match = _TIME.match(text)
    if match is None:
        return None
    digits = match[1]
    with contextlib.suppress(ValueError):
        year, *rest = int(digits[:4]), *(int(digits[at : at + 2]) for at in range(4, 14, 2))
        month, day, hour, minute, second = rest
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
        fraction = int(float(match[2] or 0) * NS_PER_S)
        return calendar.timegm(moment.timetuple()) * NS_PER_S + fraction
    return None


def time_text(at_ns: int) -> str | None:
    """The same way back, whole seconds; ``None`` for years that have not four digits."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        moment = datetime.datetime.fromtimestamp(at_ns // NS_PER_S, datetime.UTC)
        if moment.year >= 1900:
            return moment.strftime("%Y%m%d%H%M%S")
    return None


def list_line(line: bytes, now_ns: int) -> Seen | None:
    """A line of LIST. ``None`` for what is no entry, such as ``total 4``."""
    match = _LINE.fullmatch(line)
    if match is None:
        return _foreign_line(line)
    kind, size, month, day, when, name = match.groups()
    type_ = {b"-": Type.FILE, b"d": Type.DIRECTORY}.get(kind, Type.OTHER)
    return Seen(type_, int(size), _listed_time(month, day, when, now_ns), "", name)


def _foreign_line(line: bytes) -> Seen | None:
    """Servers that do not list as ls does (DOS style, say): ftputil knows some."""
    for parser in (ftputil.stat.MSParser(), ftputil.stat.UnixParser()):
        with contextlib.suppress(ftputil.error.ParserError, ValueError):
            text = line.decode("latin-1")
            if parser.ignores_line(text):
                return None
            found = parser.parse_line(text)
            directory = (found.st_mode or 0) & 0o170000 == 0o040000
            regular = (found.st_mode or 0) & 0o170000 == 0o100000
            type_ = Type.DIRECTORY if directory else Type.FILE if regular else Type.OTHER
            name = str(found._st_name or "").encode("latin-1")  # noqa: SLF001 (its only way to tell)
            return Seen(type_, found.st_size or 0, int((found.st_mtime or 0) * NS_PER_S), "", name)
    return None


def _listed_time(month: bytes, day: bytes, when: bytes, now_ns: int) -> int:
    """LIST leaves out either the year or the hour."""
    now = datetime.datetime.fromtimestamp(now_ns // NS_PER_S, datetime.UTC)
    with contextlib.suppress(ValueError, KeyError):
        hour, _, minute = when.partition(b":")
        if not minute:
            moment = datetime.datetime(int(when), _MONTHS[month], int(day), tzinfo=datetime.UTC)
        else:
            moment = datetime.datetime(
                now.year, _MONTHS[month], int(day), int(hour), int(minute), tzinfo=datetime.UTC
            )
            if moment > now + datetime.timedelta(days=1):
                moment = moment.replace(year=now.year - 1)
        return calendar.timegm(moment.timetuple()) * NS_PER_S
    return 0


def entries(lines: Iterator[bytes], *, mlsd: bool, now_ns: int) -> Iterator[Seen]:
    """What a directory holds: files, directories and what is neither, without ``.`` and ``..``."""
    for raw in lines:
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        seen = facts(line) if mlsd else list_line(line, now_ns)
        if seen is None or seen.name in (b"", b".", b".."):
            continue
        if mlsd and _is_itself(line):
            continue
        yield seen


def _is_itself(line: bytes) -> bool:
    """cdir and pdir entries stand for the directory and its parent, by whatever name."""
    told = line.partition(b" ")[0].lower()
    return b"type=cdir" in told or b"type=pdir" in told
