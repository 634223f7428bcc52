"""Sizes, durations and percentages as people write them, and back to text.

Sizes: ``10TiB`` (2^40), ``500 GB`` (10^9), a plain number is bytes; letters in any case, no bits.
Durations: ``30s``, ``1h30m``, ``10y``, a plain number is seconds. A year is 365.25 days (31,557,600 s),
so that ten years come out right on average; there are no months, because they differ in length.

Periods of retention are something else: there a year is a calendar year (``10y`` from 3 March end on
3 March), and there are months (``mo``).

Everything raises ValueError with a text that says what would be right.
"""

from __future__ import annotations

import re
from decimal import Decimal

from wormfs.model import Period

MAX_SIZE_BYTES = (1 << 63) - 1
MAX_DURATION_S = 200 * 31_557_600
"""200 years: in nanoseconds this still fits in 63 bits."""

_MAX_TEXT = 100
_NS_DIGITS = 9
"""Durations are kept to the nanosecond: no clock knows more."""
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_SIZE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.ASCII)
_DURATION_PART = re.compile(rf"({_NUMBER})\s*([a-z]+)\s*", re.ASCII)
_PERCENT = re.compile(rf"({_NUMBER})\s*%", re.ASCII)

_BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")
_SIZE_UNITS: dict[str, int] = {
    "b": 1,
    **{unit.lower(): 1024**power for power, unit in enumerate(_BINARY_UNITS, 1)},
    **{unit.lower(): 1000**power for power, unit in enumerate(_DECIMAL_UNITS, 1)},
}

_DURATION_NAMES: dict[str, tuple[str, ...]] = {
    "y": ("y", "year", "years"),
    "w": ("w", "week", "weeks"),
    "d": ("d", "day", "days"),
    "h": ("h", "hour", "hours"),
    "m": ("m", "min", "minute", "minutes"),
    "s": ("s", "sec", "second", "seconds"),
    "ms": ("ms",),
}
_DURATION_S: dict[str, Decimal] = {
    "y": Decimal(31_557_600),
    "w": Decimal(604_800),
    "d": Decimal(86_400),
    "h": Decimal(3_600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}
_DURATION_UNITS = {name: unit for unit, names in _DURATION_NAMES.items() for name in names}
_PERIOD_PART = re.compile(r"([0-9]{1,9})\s*([a-z]+)\s*", re.ASCII)
_PERIOD_UNITS = {
    **{name: unit for name, unit in _DURATION_UNITS.items() if unit != "ms"},
    **dict.fromkeys(("mo", "mon", "month", "months"), "mo"),
}
_SHOWN_UNITS = ("y", "d", "h", "m")


def quote(value: object) -> str:
    """A value from the settings file for a message; shortened, never over several lines."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


def parse_size(value: object) -> int:
    """Bytes of a size such as ``10TiB``, ``500 GB`` or ``4096``. Raises ValueError."""
    expected = "must be a size such as 10TiB, 500GB or a number of bytes"
    if isinstance(value, int) and not isinstance(value, bool):
        return _size_in_range(Decimal(value), value)
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"{expected}, not {quote(value)}")
    match = _SIZE.fullmatch(value.strip().lower())
    if match is None:
        raise ValueError(f"{expected}, not {quote(value)}")
    number, unit = match.groups()
    if unit and unit not in _SIZE_UNITS:
        raise ValueError(f"unknown unit in {quote(value)}; write {_unit_hint(number, unit)}")
    return _size_in_range(Decimal(number) * _SIZE_UNITS[unit or "b"], value)


def _unit_hint(number: str, unit: str) -> str:
    if unit in ("k", "m", "g", "t", "p", "e"):
        letter = unit.upper()
        decimal = "kB" if unit == "k" else f"{letter}B"
        return f"{number}{letter}iB (powers of 1024) or {number}{decimal} (powers of 1000)"
    return "one of B, " + ", ".join((*_BINARY_UNITS, *_DECIMAL_UNITS))


def _size_in_range(size: Decimal, written: object) -> int:
    if size < 0 or size > MAX_SIZE_BYTES:
        raise ValueError(f"must be from 0 to 2^63-1 bytes (just under 8EiB), not {quote(written)}")
    if size != size.to_integral_value():
        raise ValueError(f"{quote(written)} is not a whole number of bytes")
    return int(size)


def parse_duration(value: object) -> float:
    """Seconds of a duration such as ``30s``, ``1h30m``, ``10y`` or ``90``. Raises ValueError."""
    expected = "must be a duration such as 30s, 1h30m, 10y or a number of seconds"
    if isinstance(value, int | float) and not isinstance(value, bool):
        # The comparison is false for NaN, too.
        if not 0 <= value <= MAX_DURATION_S:
            raise ValueError(f"must be from 0s to 200y, not {quote(value)}")
        return round(float(value), _NS_DIGITS)
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_TEXT:
        raise ValueError(f"{expected}, not {quote(value)}")
    text = value.strip().lower()
    if re.fullmatch(_NUMBER, text, re.ASCII):
        return parse_duration(float(text))
    total, position, seen = Decimal(0), 0, set[str]()
    while position < len(text):
        match = _DURATION_PART.match(text, position)
        if match is None:
            raise ValueError(f"{expected}, not {quote(value)}")
        unit = _duration_unit(match[2], value)
        if unit in seen:
            raise ValueError(f"the unit {unit} stands twice in {quote(value)}")
        seen.add(unit)
        total += Decimal(match[1]) * _DURATION_S[unit]
        position = match.end()
    if total > MAX_DURATION_S:
        raise ValueError(f"must be from 0s to 200y, not {quote(value)}")
    return round(float(total), _NS_DIGITS)


def parse_period(value: object) -> Period | None:
    """A length of retention such as ``10y``, ``6mo``, ``5y6mo`` or ``30d``; ``None`` for ``forever``.

    Years and months are those of the calendar, a day has 24 hours. Raises ValueError.
    """
    expected = "must be a period such as 10y, 6mo, 30d or forever"
    if isinstance(value, Period) or value is None:
        return value
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_TEXT:
        raise ValueError(f"{expected}, not {quote(value)}")
    text = value.strip().lower()
    if text == "forever":
        return None
    counts: dict[str, int] = {}
    position = 0
    while position < len(text):
        match = _PERIOD_PART.match(text, position)
        unit = match and _PERIOD_UNITS.get(match[2])
        if match is None or unit is None or unit in counts:
            raise ValueError(f"{expected}, not {quote(value)}; whole numbers with y, mo, w, d, h, m, s")
        counts[unit] = int(match[1])
        position = match.end()
    seconds = sum(int(_DURATION_S[unit]) * count for unit, count in counts.items() if unit not in ("y", "mo"))
    period = Period(counts.get("y", 0), counts.get("mo", 0), seconds)
    if nominal_s(period) > MAX_DURATION_S:
        raise ValueError(f"must be at most 200y, or forever, not {quote(value)}")
    return period


def nominal_s(period: Period) -> int:
    """About how long a period is: to compare settings with each other."""
    return int((12 * period.years + period.months) * _DURATION_S["y"] / 12) + period.seconds


def show_period(period: Period | None) -> str:
    """The text that ``parse_period`` reads back."""
    if period is None:
        return "forever"
    parts = [f"{period.years}y" if period.years else "", f"{period.months}mo" if period.months else ""]
    days, rest = divmod(period.seconds, 86_400)
    parts += [f"{days}d" if days else "", show_duration(rest) if rest else ""]
    return "".join(parts) or "0s"


def _duration_unit(name: str, written: object) -> str:
    if name in ("mo", "mon", "month", "months"):
        raise ValueError(
            f"months differ in length: write {quote(written)} in days (d), weeks (w) or years (y)"
        )
    if name not in _DURATION_UNITS:
        raise ValueError(f"unknown unit in {quote(written)}; write one of ms, s, m, h, d, w, y")
    return _DURATION_UNITS[name]


def parse_percent(value: str) -> float:
    """The number in a percentage such as ``5%``, from 0 to 100. Raises ValueError."""
    match = _PERCENT.fullmatch(value.strip()) if len(value) <= _MAX_TEXT else None
    if match is None or float(match[1]) > 100:
        raise ValueError(f"must be a percentage from 0% to 100%, not {quote(value)}")
    return float(match[1])


def show_size(size_bytes: int) -> str:
    """The shortest exact text that ``parse_size`` reads back."""
    for power in range(len(_BINARY_UNITS), 0, -1):
        for base, units in ((1024, _BINARY_UNITS), (1000, _DECIMAL_UNITS)):
            count, rest = divmod(size_bytes, base**power)
            if count and not rest:
                return f"{count}{units[power - 1]}"
    return f"{size_bytes}B"


def show_duration(duration_s: float) -> str:
    """An exact text that ``parse_duration`` reads back, such as ``1h30m``."""
    rest = Decimal(repr(round(float(duration_s), _NS_DIGITS)))
    parts: list[str] = []
    for unit in _SHOWN_UNITS:
        count = rest // _DURATION_S[unit]
        # Mixed with years, days would be hard to check by head; 10y stays 10y, 400d stays 400d.
        if count and not (unit == "y" and rest % _DURATION_S[unit]):
            parts.append(f"{int(count)}{unit}")
            rest -= count * _DURATION_S[unit]
    if rest:
        number = format(rest.normalize(), "f")
        parts.append(f"{number}s")
    return "".join(parts) or "0s"
