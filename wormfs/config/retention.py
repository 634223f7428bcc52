"""Settings of retention: how long files stay, by path, and what may be erased."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, field_validator

from wormfs.config.fields import Flag, one_of
from wormfs.config.parts import Model
from wormfs.config.units import nominal_s, parse_period, quote, show_period
from wormfs.model import Period

ROUNDINGS = ("none", "end-of-year")
UTC = "UTC"
ERASE_MODES = ("never", "expired", "always")

Round = Literal["none", "end-of-year"]
Erase = Annotated[Literal["never", "expired", "always"], BeforeValidator(one_of(*ERASE_MODES))]
OptionalPeriod = Annotated[Period | None, PlainValidator(parse_period)]


def _round(value: object) -> object:
    return None if value is None else one_of(*ROUNDINGS)(value)


def parse_pattern(value: object) -> str:
    """A path pattern such as ``exams/**``. Raises ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a pattern of paths such as exams/**, not {quote(value)}")
    names = value.split("/")
    if not all(names):
        raise ValueError(f"has an empty name in {quote(value)}: no '/' at the ends, none twice")
    if any("**" in name and name != "**" for name in names):
        raise ValueError(f"'**' stands for whole directories, as in exams/**/*.zip, not as in {quote(value)}")
    return value


def parse_zone(value: object) -> str:
    """A time zone of the tz database. Reads its file. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"must be a time zone such as UTC or Europe/Berlin, not {quote(value)}")
    if value == UTC:
        return value  # known without any file
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"{quote(value)} is no time zone that is known here; write UTC or one such as Europe/Berlin"
        ) from error
    return value


def mapping_or(example: str) -> Callable[[object], object]:
    """Lets a mapping through to its model. Raises ValueError that shows how one looks."""

    def check(value: object) -> object:
        if isinstance(value, dict | Model):
            return value
        raise ValueError(f"must be a mapping such as {example}, not {quote(value)}")

    return check


def _list_of_rules(value: object) -> object:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, list):
        raise ValueError(f"must be a list such as [{_RULE}], not {quote(value)}")
    return tuple(value)


_RULE = "{match: exams/**, period: 5y}"


class RuleSettings(Model):
    """One rule: for which files which period."""

    match: Annotated[str, PlainValidator(parse_pattern)] = Field(examples=["exams/**"])
    period: OptionalPeriod = Field(examples=["5y"])
    round: Annotated[Round | None, BeforeValidator(_round)] = None
    """``None``: as for all files."""


Rule = Annotated[RuleSettings, BeforeValidator(mapping_or(_RULE))]


class RetentionSettings(Model):
    """How long the files of a backend stay."""

    period: OptionalPeriod = None
    """``None``: for ever."""
    round: Annotated[Round, BeforeValidator(one_of(*ROUNDINGS))] = "none"
    min: OptionalPeriod = None
    """``None``: no limit; likewise ``max``."""
    max: OptionalPeriod = None
    time_zone: Annotated[str, PlainValidator(parse_zone)] = "UTC"
    compliance: Flag = False
    """Not even ``wormfs erase`` removes a file before its date."""
    rules: Annotated[tuple[Rule, ...], BeforeValidator(_list_of_rules)] = ()

    @field_validator("max")
    @classmethod
    def _fits_min(cls, most: Period | None, info: ValidationInfo) -> Period | None:
        least = info.data.get("min")
        if most is not None and least is not None and nominal_s(most) < nominal_s(least):
            raise ValueError(f"must not be shorter than min ({show_period(least)})")
        if most is not None and "period" in info.data:
            _fits_max(info.data["period"], most)
        return most

    @field_validator("rules")
    @classmethod
    def _rules_fit_max(
        cls, rules: tuple[RuleSettings, ...], info: ValidationInfo
    ) -> tuple[RuleSettings, ...]:
        most = info.data.get("max")
        if most is not None:
            for rule in rules:
                _fits_max(rule.period, most, rule.match)
        return rules

    @property
    def given(self) -> bool:
        """Whether anything is said of a length."""
        return any((self.period, self.min, self.max, self.rules))


Retention = Annotated[RetentionSettings, BeforeValidator(mapping_or("{period: 10y, round: end-of-year}"))]


def _fits_max(period: Period | None, most: Period, match: str = "") -> None:
    if period is None or nominal_s(period) > nominal_s(most):
        where = f" of {match}" if match else ""
        raise ValueError(
            f"max ({show_period(most)}) is shorter than the period{where} ({show_period(period)})"
        )


def to_yaml(settings: Model) -> dict[str, Any]:
    """As it would stand in the settings file, defaults written out."""
    shown: dict[str, Any] = {}
    for key, field in settings.yaml_keys().items():
        value = getattr(settings, field)
        if field in ("period", "min", "max"):
            limit = field != "period"
            shown[key] = None if value is None and limit else show_period(value)
        elif isinstance(value, tuple):
            shown[key] = [to_yaml(rule) for rule in value]
        else:
            shown[key] = value
    return shown
