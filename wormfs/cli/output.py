"""How numbers, times and names look on a terminal, and that none of them can harm one."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wormfs.clock import NS_PER_S
from wormfs.model import show

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """Where tables go: 80 columns wide when it is no terminal.

    Where the terminal's character set lacks a letter, its number is shown.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return Console(stderr=stderr, highlight=False, emoji=False, markup=False)


def plain(text: str) -> str:
    """Text on one line without anything that a terminal would obey."""
    return show(text.encode("utf-8", "backslashreplace"))


def size_text(size_bytes: int | None) -> str:
    """For example ``12.0 MiB``."""
    if size_bytes is None:
        return "unknown"
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or unit == "PiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def age_text(age_s: float) -> str:
    """For example ``3h``: the largest unit that is there once, rounded down."""
    seconds = max(0, int(age_s))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def time_text(at_ns: int) -> str:
    """In UTC, to the second."""
    try:
        return datetime.fromtimestamp(at_ns // NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{at_ns} ns since 1970"


def count_text(count: int, one: str, many: str) -> str:
    """``1 entry``, ``2 entries``."""
    return f"{count} {one if count == 1 else many}"


def shortened(text: str, length: int) -> str:
    """At most ``length`` characters; the end of a text says more than its beginning where it is a path."""
    return text if len(text) <= length else "…" + text[len(text) - length + 1 :]
