"""The settings of one daemon, whole and validated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from wormfs.config.base import BackendSettings, Model
from wormfs.config.fields import AbsolutePath, Duration, FrozenMapping, LongEnough, nearest, one_of
from wormfs.config.local import LocalSettings
from wormfs.errors import SettingsError

DEFAULT_STATE_DIRECTORY = Path("/var/lib/wormfs")
LOG_LEVELS = ("debug", "info", "warning", "error")


def _freeze(backends: object) -> FrozenMapping[BackendSettings]:
    if not isinstance(backends, Mapping) or not backends:
        raise ValueError("must be a mapping of at least one backend")
    for name, backend in backends.items():
        if not isinstance(backend, BackendSettings) or backend.name != name:
            raise ValueError(f"{name!r} is not the settings of a backend of that name")
    return FrozenMapping(backends)


class Settings(Model):
    """Everything that ``wormfs mount`` needs to know. Made by ``load``, ``parse`` or ``embedded``."""

    mountpoint: AbsolutePath = Field(examples=["/mnt/worm"])
    state_directory: AbsolutePath = DEFAULT_STATE_DIRECTORY
    stop_timeout_s: Duration = 30.0
    """How long a stop waits for open files and commits."""
    hang_timeout_s: LongEnough = 30.0
    """How long a worker may be deaf before it is killed and started again."""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(one_of(*LOG_LEVELS))
    ] = "info"
    backends: Annotated[Mapping[str, BackendSettings], PlainValidator(_freeze)]

    def backend(self, name: str) -> BackendSettings:
        """The settings of one backend. Raises SettingsError, with the nearest name, if there is none."""
        try:
            return self.backends[name]
        except KeyError:
            known = list(self.backends)
            hint = nearest(name, known) or f"; there is {', '.join(known)}"
            raise SettingsError(f"no backend is named {name!r}{hint}") from None


def embedded(directory: str | os.PathLike[str]) -> Settings:
    """The settings of ``wormfs mount --embedded``: one local backend, everything under ``directory``.

    Files in ``var/archive``, state in ``var/state``, mounted at ``mnt``. Creates nothing.
    """
    base = Path(os.path.abspath(directory))
    archive = LocalSettings(name="archive", path=base / "var" / "archive")
    return Settings(
        mountpoint=base / "mnt",
        state_directory=base / "var" / "state",
        backends={archive.name: archive},
    )
