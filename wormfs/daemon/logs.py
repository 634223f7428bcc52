"""The daemon's log: standard error, one line per event, ``level backend: message``."""

from __future__ import annotations

import logging

SUPERVISOR = "wormfs"
"""Stands where the supervisor has no backend to name."""


class LineFormatter(logging.Formatter):
    """``level backend: message``; only a traceback may follow on lines of its own."""

    def __init__(self, backend: str):
        super().__init__()
        self._backend = backend

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        # File names may hold line breaks: one must not be able to forge a line of the log.
        message = record.message.replace("\n", "\\n").replace("\r", "\\r")
        return f"{record.levelname.lower()} {self._backend}: {message}"


def set_up(backend: str, level: str) -> None:
    """Send this process's log to standard error.

    Args:
        backend: name that begins every line; the backend's, or ``SUPERVISOR``.
        level: a level name of ``logging``, in any case.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(backend))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
