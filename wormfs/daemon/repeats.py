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
_MORE: Final = "and %d more lines like this one"
_MOST_WINDOWS: Final = 1024
"""A limit on memory; beyond it the oldest ends early."""

VOLUME: Final = "volume"
"""The attribute of a record (``extra={VOLUME: ...}``) that says with which others it shares a limit, besides
those of the same place in the program: the uid whose loop it may be, for example."""


@dataclass(slots=True)
class _Window:
    since: float
    limit: int
    told: str
    seen: int = 0
    last: logging.LogRecord | None = None
    """Of those left out; without what hangs on it."""

    @property
    def left_out(self) -> int:
        return max(0, self.seen - self.limit)


class Repeats:
    """Decides about one record after the other. Not for several threads at once."""

    def __init__(self) -> None:
        self._windows: OrderedDict[Hashable, _Window] = OrderedDict()

    def through(self, record: logging.LogRecord, now: float) -> Iterator[logging.LogRecord]:
        """What is to be written now: summaries that are due, and ``record`` unless it is left out.

        Args:
            now: seconds of a clock that never goes back.
        """
        yield from self.due(now)
        text = record.getMessage()
        for key, limit, told in _limits(record, text):
            if key not in self._windows:
                if len(self._windows) >= _MOST_WINDOWS:
                    yield from self._end(self._windows.popitem(last=False)[1], now)
                self._windows[key] = _Window(now, limit, told)
            window = self._windows[key]
            window.seen += 1
            if window.left_out:
                window.last = _bare(record, text)
                return
        yield record

    def due(self, now: float) -> Iterator[logging.LogRecord]:
        """Summaries of what was left out in the minutes that are over."""
        while self._windows and next(iter(self._windows.values())).since + WINDOW_S <= now:
            yield from self._end(self._windows.popitem(last=False)[1], now)

    def rest(self, now: float) -> Iterator[logging.LogRecord]:
        """All summaries, at the end."""
        while self._windows:
            yield from self._end(self._windows.popitem(last=False)[1], now)

    @staticmethod
    def _end(window: _Window, now: float) -> Iterator[logging.LogRecord]:
        last = window.last
        if last is not None:
            told = window.told % window.left_out
            took_s = min(WINDOW_S, max(1, now - window.since))
            yield _bare(last, f"{last.getMessage()} ({told} within {took_s:.0f} s)")


def _limits(record: logging.LogRecord, text: str) -> Iterator[tuple[Hashable, int, str]]:
    """The windows that a record falls into: what it has in common, how many may pass, what the others are."""
    place = (record.pathname, record.lineno)
    yield (*place, record.levelno, text), SAME, "repeated %d times"
    if record.levelno < logging.ERROR:
        yield (*place, getattr(record, VOLUME, None)), ALIKE, _MORE
        yield place, ALTOGETHER, _MORE


def _bare(record: logging.LogRecord, text: str) -> logging.LogRecord:
    """A record of the same place: a traceback would keep alive what its frames hold."""
    return logging.LogRecord(
        record.name, record.levelno, record.pathname, record.lineno, text, (), None, record.funcName
    )
