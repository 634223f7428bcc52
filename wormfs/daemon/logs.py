"""The daemon's log: one line per event, to the journal where it listens, else to standard error.

Levels: ``error``: somebody must act (``ALERT``: decide or repair); ``warning``: something went wrong, and
wormfs deals with it; ``info``: what happened, refusals included; ``debug``: for developers. In the journal
the lines have fields of their own, on standard error they read ``level backend: message``.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import trio

from wormfs.clock import Clock, SystemClock, monotonic, timestamp
from wormfs.daemon import journal
from wormfs.daemon.repeats import Repeats

SUPERVISOR = "wormfs"
"""Stands where the supervisor has no backend to name."""

LEVELS: Final = ("error", "warning", "info", "debug")
"""From the fewest lines to the most."""

_OWN: Final = ("wormfs", "__main__")
"""Our own loggers; a worker is a module that is run."""
_LOOK_EVERY_S: Final = 5.0


class LineFormatter(logging.Formatter):
    """``level backend: message``; only a traceback may follow on lines of its own."""

    def __init__(self, backend: str, clock: Clock | None = None):
        """``clock``: every line begins with the time; without it, whoever reads the stream adds that."""
        super().__init__()
        self._backend = backend
        self._clock = clock

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        line = f"{record.levelname.lower()} {plain(record, self._backend)}"
        return line if self._clock is None else f"{timestamp(self._clock.now_ns())} {line}"


class JournalFormatter(logging.Formatter):
    """``backend: message``, and the traceback: the journal knows level and time."""

    def __init__(self, backend: str):
        super().__init__()
        self._backend = backend

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        return plain(record, self._backend)


def plain(record: logging.LogRecord, backend: str) -> str:
    """``backend: message`` on one line."""
    # File names may hold line breaks: one must not be able to forge a line of the log.
    message = record.message.replace("\n", "\\n").replace("\r", "\\r")
    return f"{backend}: {message.removeprefix(f'{backend}: ')}"  # said already, perhaps


class Output(logging.Handler):
    """Where all records of this process go; counts them and leaves out repeats."""

    def __init__(self, writer: logging.Handler):
        super().__init__()
        self._writer = writer
        self._repeats = Repeats()
        self._counts: Counter[str] = Counter()

    def lines(self) -> Mapping[str, int]:
        """How many there were of each level."""
        return dict(self._counts)

    def emit(self, record: logging.LogRecord) -> None:
        self._counts[record.levelname.lower()] += 1
        try:
            self._write(self._repeats.through(record, monotonic()))
        except Exception:  # noqa: BLE001 (a line that cannot be written must not stop what it tells of)
            self.handleError(record)

    def say(self, level: int, message: str) -> None:
        """Write a line whatever the level of the log is."""
        self.handle(logging.LogRecord(__name__, level, __file__, 0, message, (), None))

    async def run(self) -> None:
        """Tell what was left out when its time is over. Until cancelled."""
        while True:
            await trio.sleep(_LOOK_EVERY_S)
            self.acquire()
            try:
                self._write(self._repeats.due(monotonic()))
            finally:
                self.release()

    def close(self) -> None:
        """Tell what was left out so far."""
        self._write(self._repeats.rest(monotonic()))
        self._writer.close()
        super().close()

    def _write(self, records: Iterable[logging.LogRecord]) -> None:
        for record in records:
            self._writer.emit(record)


def set_up(backend: str, level: str) -> Output:
    """Send this process's log to the journal or to standard error.

    Args:
        backend: name that begins every line; the backend's, or ``SUPERVISOR``.
        level: one of ``LEVELS``, in any case.
    """
    stream = logging.StreamHandler()
    # A terminal's user knows the time; a file does not.
    in_a_file = stat.S_ISREG(os.fstat(stream.stream.fileno()).st_mode)
    stream.setFormatter(LineFormatter(backend, SystemClock() if in_a_file else None))
    writer: logging.Handler = stream
    if journal.is_stderr(os.environ.get("JOURNAL_STREAM")):
        writer = journal.JournalHandler(backend, JournalFormatter(backend), stream)
    output = Output(writer)
    logging.getLogger().handlers[:] = [output]
    set_level(level)
    logging.captureWarnings(True)
    return output


def output() -> Output:
    """What ``set_up`` has made in this process."""
    [found] = (handler for handler in logging.getLogger().handlers if isinstance(handler, Output))
    return found


def set_level(level: str) -> None:
    """From now on, lines of this level and above.

    Of the libraries that wormfs uses never more than warnings: at ``debug`` they write what they send, and
    botocore's requests hold the access key and the session token.
    """
    wanted = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(max(wanted, logging.WARNING))
    for name in _OWN:
        logging.getLogger(name).setLevel(wanted)


def change_level(level: str) -> None:
    """As ``set_level`` while the daemon runs: the log says so, whatever the level is."""
    set_level(level)
    output().say(logging.INFO, f"log level is now {level}")


def next_level(level: str, *, more: bool) -> str:
    """The level beside ``level``, with more lines or with fewer; itself at the end of the row."""
    at = LEVELS.index(level) + (1 if more else -1)
    return LEVELS[min(max(at, 0), len(LEVELS) - 1)]
