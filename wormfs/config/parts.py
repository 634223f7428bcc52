"""What every part of the settings shares: frozen, strict, and how its keys are written."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

_UNIT_SUFFIXES = ("_s", "_bytes")


def yaml_name(field: str) -> str:
    """The key of a field in the settings file: there the value carries the unit, not the name."""
    for suffix in _UNIT_SUFFIXES:
        field = field.removesuffix(suffix)
    return field


class Model(BaseModel):
    """A part of the settings: frozen, strict, keys by their YAML names."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=yaml_name,
        validate_by_name=True,
        validate_by_alias=True,
        # A value may be a secret: it must not travel in an exception.
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    given_keys: ClassVar[frozenset[str]] = frozenset()
    """YAML names of fields that are not written in the mapping itself."""

    @classmethod
    def yaml_keys(cls) -> dict[str, str]:
        """The keys that may stand in the file, each with the name of its field."""
        keys = {yaml_name(field): field for field in cls.model_fields}
        return {key: field for key, field in keys.items() if key not in cls.given_keys}
