"""Settings: one YAML file becomes typed, validated, frozen values; all problems are told at once.

See wormfs/__init__.py for the layers. Knows only of ``errors``. yaml is imported in ``document`` alone.
"""

from wormfs.config.base import BackendSettings
from wormfs.config.fields import Reserve
from wormfs.config.load import DEFAULT_PATH, dump, load, load_mountpoint, parse
from wormfs.config.local import LocalSettings
from wormfs.config.problems import InvalidSettings, Problem
from wormfs.config.secret import Secret
from wormfs.config.settings import Settings, embedded

__all__ = [
    "DEFAULT_PATH",
    "BackendSettings",
    "InvalidSettings",
    "LocalSettings",
    "Problem",
    "Reserve",
    "Secret",
    "Settings",
    "dump",
    "embedded",
    "load",
    "load_mountpoint",
    "parse",
]
