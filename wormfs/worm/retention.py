"""How long a file stays: pure arithmetic on retention, no I/O and no clock of its own."""

from __future__ import annotations

from wormfs.errors import InvalidArgument, Retained
from wormfs.model import Retention, RetentionChange
from wormfs.worm import dates

MAX_HOLDS = 32
MAX_HOLD_BYTES = 64


def changed(now: Retention, change: RetentionChange) -> Retention:
    """``now`` after ``change``. Holds are kept sorted, each once; the date never comes earlier.

    Raises Retained when the date would come earlier; InvalidArgument for a case number that cannot be kept.
    """
    until = now.retain_until_ns
    if change.extend:
        if earlier(change.extend_to_ns, until):
            raise Retained(
                f"it is retained until {dates.show(until)}, which can be extended, never shortened"
            )
        until = change.extend_to_ns
    holds = (set(now.holds) | set(change.add_holds)) - set(change.remove_holds)
    for case in change.add_holds:
        must_be_case(case)
    if len(holds) > max(MAX_HOLDS, len(now.holds)):
        raise InvalidArgument(f"a file can be under {MAX_HOLDS} legal holds at most")
    return Retention(until, tuple(sorted(holds)))


def must_be_case(case: str) -> None:
    """A case number is 1 to 64 bytes of printable text without commas. Raises InvalidArgument."""
    if not case or "," in case or case != case.strip() or not case.isprintable():
        raise InvalidArgument(f"{case!r} is no case number: printable text without commas, please")
    if len(case.encode("utf-8", "surrogatepass")) > MAX_HOLD_BYTES:
        raise InvalidArgument(f"a case number has at most {MAX_HOLD_BYTES} bytes")


def earlier(a_ns: int | None, b_ns: int | None) -> bool:
    """Whether the date ``a_ns`` comes before ``b_ns``; ``None`` is for ever."""
    if a_ns is None:
        return False
    return b_ns is None or a_ns < b_ns
