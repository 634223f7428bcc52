"""The settings that every backend has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ValidationInfo, field_validator

from wormfs.config.fields import (
    DEFAULT_RESERVE,
    CheckInterval,
    Duration,
    Flag,
    OptionalCount,
    OptionalDuration,
    OptionalPath,
    OptionalSize,
    OptionalText,
    PositiveDuration,
    SpoolReserve,
)
from wormfs.config.parts import Model, yaml_name
from wormfs.config.retention import Erase, Retention, RetentionSettings

__all__ = ["BackendSettings", "Model", "yaml_name"]


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
    check_interval_s: CheckInterval = 900.0
    """Between background checks; 0 for none."""
    retention: Retention = RetentionSettings()
    erase: Erase = "never"
    atime_retention: Flag = False
    """A later access time (``touch -a -d DATE``) extends retention."""

    @field_validator("erase")
    @classmethod
    def _fits_retention(cls, erase: str, info: ValidationInfo) -> str:
        retention = info.data.get("retention")
        if erase == "always" and retention is not None and (retention.given or retention.compliance):
            raise ValueError(
                "'always' is for scratch directories, where nothing is retained: remove 'retention'"
            )
        return erase
