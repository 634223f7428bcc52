"""``wormfs status --watch``: the same again and again, on a screen of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from wormfs import clock
from wormfs.cli.status import render
from wormfs.cli.status.judge import Level

if TYPE_CHECKING:
    from rich.console import Console

    from wormfs.cli.status.report import Report

EVERY_S = 1.0


class _Enough(Exception):
    """Somebody wants it to end."""


def watch(look: Callable[[], Report], screen: Console) -> Level:
    """Show what ``look`` finds, each second, until Ctrl-C or SIGTERM; what it was like at the end.

    The terminal is left as it was found: its own screen comes back, the cursor is there.
    """
    from rich.live import Live

    level = Level.OK
    with _until_told():
        try:
            with Live(console=screen, screen=True, auto_refresh=False, redirect_stderr=False) as live:
                while True:
                    report = look()
                    level = report.level
                    live.update(render.live(report, screen), refresh=True)
                    clock.pause(EVERY_S)
        except _Enough:
            return level


@contextmanager
def _until_told() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end it through the code that puts the terminal in order."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        # A second one must not come in the way of putting it in order.
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise _Enough

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for each in before:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
