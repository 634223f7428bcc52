"""The daemon's log: standard error, one line per event, ``level backend: message``."""

from __future__ import annotations

import logging
import os
import stat

from wormfs.clock import Clock, SystemClock, timestamp

SUPERVISOR = "wormfs"
"""Stands where the supervisor has no backend to name."""


class LineFormatter(logging.Formatter):
    """``level backend: message``; only a traceback may follow on lines of its own."""

    def __init__(self, backend: str, clock: Clock | None = None):
        """``clock``: every line begins with the time; without it, whoever reads the stream adds that."""
        super().__init__()
        self._backend = backend
        self._clock = clock

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        # File names may hold line breaks: one must not be able to forge a line of the log.
        message = record.message.replace("\n", "\\n").replace("\r", "\\r")
        message = message.removeprefix(f"{self._backend}: ")  # said already, one word before
        line = f"{record.levelname.lower()} {self._backend}: {message}"
        return line if self._clock is None else f"{timestamp(self._clock.now_ns())} {line}"


def set_up(backend: str, level: str) -> None:
    """Send this process's log to standard error.

    Args:
        backend: name that begins every line; the backend's, or ``SUPERVISOR``.
        level: a level name of ``logging``, in any case.
    """
    handler = logging.StreamHandler()
    # The journal and a terminal's user know the time; a file does not.
    in_a_file = stat.S_ISREG(os.fstat(handler.stream.fileno()).st_mode)
    handler.setFormatter(LineFormatter(backend, SystemClock() if in_a_file else None))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """From now on, say this and what is worse; a level name of ``logging``, in any case."""
    logging.getLogger().setLevel(level.upper())
