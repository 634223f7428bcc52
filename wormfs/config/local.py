"""Settings of the local driver: a directory of this machine."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from wormfs.config.base import BackendSettings
from wormfs.config.fields import AbsolutePath, Flag


class LocalSettings(BackendSettings):
    """A backend that keeps its files in a local directory."""

    data_keys: ClassVar[tuple[str, ...]] = ("path",)

    type: Literal["local"] = "local"
    path: AbsolutePath = Field(examples=["/srv/worm/exams"])
    immutable: Flag = False
    """Set chattr +i on every committed file."""
    kernel_reads: Flag = False
    """The kernel reads committed files by itself, without the daemon."""
