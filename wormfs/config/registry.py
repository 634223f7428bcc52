"""Which settings model belongs to which ``type``. A new driver adds its module and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from wormfs.config.base import BackendSettings
from wormfs.config.ftp import FtpSettings
from wormfs.config.local import LocalSettings
from wormfs.config.moodle import MoodleSettings
from wormfs.config.s3 import S3Settings

MODELS: Mapping[str, type[BackendSettings]] = MappingProxyType(
    {
        "ftp": FtpSettings,
        "local": LocalSettings,
        "moodle": MoodleSettings,
        "s3": S3Settings,
    }
)
