"""systemd's journal, with fields: its native protocol, spoken directly.

The protocol is a datagram and documented as stable (systemd.io/JOURNAL_NATIVE_PROTOCOL). The bindings that
speak it (systemd-python, cysystemd) are compiled against libsystemd at installation: a compiler and
headers on every archive's host, for these lines. What does not fit into a datagram is cut instead of sent
in a memfd: whoever reads the journal wants to know what happened, not all of a megabyte.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Final

from wormfs.errors import WormfsError, show

SOCKET: Final = "/run/systemd/journal/socket"
FIELDS: Final = "fields"
"""The attribute of a record (``extra={FIELDS: {...}}``) with facts about the event: lower-case names, which
become ``WORMFS_<NAME>`` in the journal."""

_MOST_BYTES: Final = 8192
"""Of one field; a datagram of all of them is far below the kernel's limit of some 200 KB."""
_ALERT: Final = "ALERT"


def is_stderr(variable: str | None) -> bool:
    """Whether ``JOURNAL_STREAM`` says that standard error goes to the journal (systemd.exec(5))."""
    status = os.fstat(2)
    return variable == f"{status.st_dev}:{status.st_ino}"


def priority(record: logging.LogRecord, message: str) -> int:
    """syslog's level: what somebody must decide or repair is an alert."""
    if record.levelno >= logging.ERROR:
        return 1 if _ALERT in message else 3
    if record.levelno >= logging.WARNING:
        return 4
    return 6 if record.levelno >= logging.INFO else 7


class JournalHandler(logging.Handler):
    """Sends records to the journal. Never blocks: what the journal does not take at once is counted, and said
    with the next line that it does take."""

    def __init__(
        self, backend: str, formatter: logging.Formatter, otherwise: logging.Handler, path: str = SOCKET
    ):
        """
        Args:
            formatter: makes the message, a traceback included.
            otherwise: gets the records when no journal is there.
        """
        super().__init__()
        self._backend = backend
        self._otherwise = otherwise
        self._path = path
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        lost = (
            f" ({self._lost} lines before this one were lost: the journal did not take them)"
            if self._lost
            else ""
        )
        try:
            self._socket.sendto(
                encode({"MESSAGE": message + lost, **self._fields(record, message)}), self._path
            )
        except (BlockingIOError, InterruptedError):
            self._lost += 1
        except OSError:
            self._otherwise.emit(record)
        else:
            self._lost = 0

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord, message: str) -> dict[str, str]:
        return {
            "PRIORITY": str(priority(record, message)),
            "SYSLOG_IDENTIFIER": "wormfs",
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            "WORMFS_BACKEND": self._backend,
            **{f"WORMFS_{name.upper()}": str(value) for name, value in _facts(record).items()},
        }


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """What the record says of itself, and of the file that one of its arguments is about."""
    facts: dict[str, object] = {}
    arguments = record.args if isinstance(record.args, tuple) else ()
    for error in (argument for argument in arguments if isinstance(argument, WormfsError)):
        facts["error"] = type(error).__name__
        if error.key is not None:
            facts["file"] = show(error.key)
    given = getattr(record, FIELDS, None)
    return {**facts, **given} if isinstance(given, Mapping) else facts


def encode(fields: Mapping[str, str]) -> bytes:
    """One datagram. Every value is sent with its length, so that no value can be taken for a field."""
    return b"".join(_encoded(fields))


def _encoded(fields: Mapping[str, str]) -> Iterator[bytes]:
    for name, value in fields.items():
        data = value.encode("utf-8", "backslashreplace")
        if len(data) > _MOST_BYTES:
            data = data[:_MOST_BYTES].decode("utf-8", "ignore").encode() + " … (cut)".encode()
        yield name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
