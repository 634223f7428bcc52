"""What all settings models share, and the settings that every backend has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from wormfs.config.fields import (
    DEFAULT_RESERVE,
    Duration,
    OptionalCount,
    OptionalDuration,
    OptionalPath,
    OptionalSize,
    OptionalText,
    PositiveDuration,
    SpoolReserve,
)

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


class BackendSettings(Model):
    """Settings that every driver has. A driver's own model derives from this and adds ``type``."""

    given_keys: ClassVar[frozenset[str]] = frozenset({"name"})
    data_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that hold directories of this machine in which stored files lie."""

    name: str
    """The key under ``backends``: the directory under the mount point."""
    type: str
    description: OptionalText = None
    directory_cache_s: Duration = 1.0
    settle_s: Duration = 0.0
    empty_grace_s: Duration = 60.0
    commit_timeout_s: PositiveDuration = 60.0
    spool: OptionalPath = None
    """``None``: where the driver wants it, else under the state directory."""
    spool_reserve: SpoolReserve = DEFAULT_RESERVE
    quarantine_keep_s: OptionalDuration = None
    """``None``: for ever."""
    quarantine_max_size_bytes: OptionalSize = None
    """``None``: no limit."""
    connections: OptionalCount = None
    """``None``: as many as the driver thinks right."""
    space_cache_s: Duration = 30.0
