"""The types of single settings, each with messages that say what would be right."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator

from wormfs.config.secret import Secret, parse_secret
from wormfs.config.units import (
    parse_duration,
    parse_percent,
    parse_size,
    quote,
    show_duration,
    show_size,
)

T = TypeVar("T")
_MAX_PATH_BYTES = 4095


def nearest(name: str, known: list[str]) -> str:
    """``; did you mean 'path'?`` for a mistyped name, else an empty text."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def parse_path(value: object) -> Path:
    """An absolute path without ``..``, normalised. Nothing is looked up. Raises ValueError."""
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be an absolute path such as /srv/worm, not {quote(value)}")
    if not value.isprintable():
        raise ValueError(f"holds characters that do not print: {quote(value)}")
    if not value.startswith("/"):
        raise ValueError(f"must be an absolute path, not {quote(value)}; write {quote('/' + value)}?")
    if ".." in value.split("/"):
        raise ValueError(f"must not hold '..' ({quote(value)}); write the path in full")
    if len(os.fsencode(value)) > _MAX_PATH_BYTES:
        raise ValueError(f"is longer than {_MAX_PATH_BYTES} bytes")
    return Path("/" + os.path.normpath(value).lstrip("/"))


def _parse_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {quote(value)}")
    return value


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, in quotes if it looks like a number, not {quote(value)}")
    return value


def whole_number(least: int, most: int) -> Callable[[object], int]:
    """A parser for whole numbers in a range, both ends included."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not {quote(value)}")
        return value

    return parse


def one_of(*choices: str) -> Callable[[object], str]:
    """A parser for a word out of a closed list."""

    def parse(value: object) -> str:
        if value not in choices:
            hint = nearest(value, list(choices)) if isinstance(value, str) else ""
            raise ValueError(f"must be one of {', '.join(choices)}, not {quote(value)}{hint}")
        return str(value)

    return parse


def _positive_duration(value: object) -> float:
    duration_s = parse_duration(value)
    if duration_s <= 0:
        raise ValueError(f"must be longer than 0s, not {quote(value)}")
    return duration_s


def _a_second_or_more(value: object) -> float:
    duration = parse_duration(value)
    if duration < 1:
        raise ValueError("must be 1s or more")
    return duration


def optional(parse: Callable[[object], T]) -> Callable[[object], T | None]:
    """The same parser, with null allowed."""

    def parse_or_none(value: object) -> T | None:
        return None if value is None else parse(value)

    return parse_or_none


@dataclass(frozen=True, slots=True)
class Reserve:
    """Room that stays free: a size, a share of the file system, or the smaller of both."""

    size_bytes: int | None = None
    percent: float | None = None

    def of(self, total_bytes: int) -> int:
        """Bytes to keep free on a file system of ``total_bytes``."""
        limits = [] if self.size_bytes is None else [self.size_bytes]
        if self.percent is not None:
            limits.append(int(total_bytes * self.percent / 100))
        return min(limits, default=0)

    def to_yaml(self) -> object:
        """As it stands in the settings file: null for the default, which is both at once."""
        if self.size_bytes is not None and self.percent is not None:
            return None
        if self.percent is not None:
            return f"{Decimal(repr(self.percent)):f}%"
        return show_size(self.size_bytes or 0)


DEFAULT_RESERVE = Reserve(size_bytes=1 << 30, percent=5.0)


def parse_reserve(value: object) -> Reserve:
    """A size, a percentage, or null for the default. Raises ValueError."""
    if value is None:
        return DEFAULT_RESERVE
    if isinstance(value, Reserve):
        return value
    if isinstance(value, str) and "%" in value:
        return Reserve(percent=parse_percent(value))
    return Reserve(size_bytes=parse_size(value))


AbsolutePath = Annotated[Path, BeforeValidator(parse_path)]
OptionalPath = Annotated[Path | None, BeforeValidator(optional(parse_path))]
Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds."""
LongEnough = Annotated[float, BeforeValidator(_a_second_or_more)]
"""A second at least."""
PositiveDuration = Annotated[float, BeforeValidator(_positive_duration)]
OptionalDuration = Annotated[float | None, BeforeValidator(optional(parse_duration))]
OptionalSize = Annotated[int | None, BeforeValidator(optional(parse_size))]
"""Bytes."""
Flag = Annotated[bool, BeforeValidator(_parse_flag)]
Text = Annotated[str, BeforeValidator(_parse_text)]
OptionalText = Annotated[str | None, BeforeValidator(optional(_parse_text))]
OptionalCount = Annotated[int | None, BeforeValidator(optional(whole_number(1, 256)))]
SpoolReserve = Annotated[Reserve, BeforeValidator(parse_reserve)]
SecretField = Annotated[Secret, BeforeValidator(parse_secret)]
OptionalSecret = Annotated[Secret | None, BeforeValidator(optional(parse_secret))]


class FrozenMapping(Mapping[str, T]):
    """A mapping that cannot change and, unlike MappingProxyType, can be pickled for a worker."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, T]):
        self._items = dict(items)

    def __getitem__(self, key: str) -> T:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items))


def to_yaml(name: str, value: Any, *, mask: bool) -> object:
    """A setting as it would stand in the file. ``name`` is the field's: its unit says how to show it."""
    if isinstance(value, Secret):
        return value.to_yaml(mask=mask)
    if isinstance(value, Reserve):
        return value.to_yaml()
    if isinstance(value, Path):
        return str(value)
    if value is None:
        return None
    if name.endswith("_s"):
        return show_duration(value)
    if name.endswith("_bytes"):
        return show_size(value)
    return value
