"""What is said again and again is said once, with how often: a loop must not fill the disk with its log.

Two limits, each for a minute from the first line on:

* the same text: ``SAME`` lines;
* lines that differ only in what they name (one place in the program, one ``volume``): ``ALIKE`` lines, and
  ``ALTOGETHER`` for all volumes. Not for errors: each of these may be the one that matters.

What is left out is counted and told in one line when the minute is over. No I/O, no clock of its own.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final

SAME: Final = 10
ALIKE: Final = 60
ALTOGETHER: Final = 600
WINDOW_S: Final = 60.0
_SAME, _ALIKE, _ALTOGETHER = "same", "alike", "altogether"
_MOST_WINDOWS: Final = 1024
"""A limit on memory; beyond it the oldest ends early."""

VOLUME: Final = "volume"
"""The attribute of a record (``extra={VOLUME: ...}``) that says with which others it shares a limit, besides
those of the same place in the program: the uid whose loop it may be, for example."""


@dataclass(slots=True)
class _Window:
    since: float
    limit: int
    written: int = 0
    left_out: int = 0
    last: logging.LogRecord | None = None
    """Of those left out; without what hangs on it."""

    @property
    def full(self) -> bool:
        return self.written >= self.limit


class Repeats:
    """Decides about one record after the other. Not for several threads at once."""

    def __init__(self) -> None:
        # A table for each kind of limit: many texts must not push out the window that counts them all.
        self._tables: dict[str, OrderedDict[Hashable, _Window]] = {
            kind: OrderedDict() for kind in (_SAME, _ALIKE, _ALTOGETHER)
        }

    def through(self, record: logging.LogRecord, now: float) -> Iterator[logging.LogRecord]:
        """What is to be written now: summaries that are due, and ``record`` unless it is left out.

        Args:
            now: seconds of a clock that never goes back.
        """
        yield from self.due(now)
        text = record.getMessage()
        windows = []
        for kind, key, limit in _limits(record, text):
            table = self._tables[kind]
            if key not in table:
                if len(table) >= _MOST_WINDOWS:
                    yield from _summary(table.popitem(last=False)[1], kind, now)
                table[key] = _Window(now, limit)
            window = table[key]
            if window.full:
                window.left_out += 1
                window.last = _bare(record, text)
                return
            windows.append(window)
        for window in windows:
            window.written += 1
        yield record

    def due(self, now: float) -> Iterator[logging.LogRecord]:
        """Summaries of what was left out in the minutes that are over."""
        for kind, table in self._tables.items():
            while table and next(iter(table.values())).since + WINDOW_S <= now:
                yield from _summary(table.popitem(last=False)[1], kind, now)

    def rest(self, now: float) -> Iterator[logging.LogRecord]:
        """All summaries, at the end."""
        for kind, table in self._tables.items():
            while table:
                yield from _summary(table.popitem(last=False)[1], kind, now)


def _summary(window: _Window, kind: str, now: float) -> Iterator[logging.LogRecord]:
    last, count = window.last, window.left_out
    if last is not None:
        told = f"repeated {count} times" if kind == _SAME else f"and {count} more lines like this one"
        took_s = min(WINDOW_S, max(1, now - window.since))
        yield _bare(last, f"{last.getMessage()} ({told} within {took_s:.0f} s)")


def _limits(record: logging.LogRecord, text: str) -> Iterator[tuple[str, Hashable, int]]:
    """The windows that a record falls into: kind, what it has in common, how many may pass."""
    place = (record.pathname, record.lineno)
    # The same last: a loop over many files, each again and again, is one summary and not one for each file.
    if record.levelno < logging.ERROR:
        yield _ALIKE, (*place, getattr(record, VOLUME, None)), ALIKE
        yield _ALTOGETHER, place, ALTOGETHER
    yield _SAME, (*place, record.levelno, text), SAME


def _bare(record: logging.LogRecord, text: str) -> logging.LogRecord:
    """A record of the same place: a traceback would keep alive what its frames hold."""
    return logging.LogRecord(
        record.name, record.levelno, record.pathname, record.lineno, text, (), None, record.funcName
    )
