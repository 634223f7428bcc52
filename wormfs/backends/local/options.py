"""What the settings say about one local backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from wormfs.errors import SettingsError

DEFAULT_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """``path``: absolute, an existing directory when the backend starts. ``connections``: how
    many calls may run at once. ``kernel_reads``: hand files to the kernel to read."""

    path: str
    immutable: bool = False
    connections: int = DEFAULT_CONNECTIONS
    kernel_reads: bool = False


def parse(name: str, options: Mapping[str, object]) -> LocalOptions:
    """Raises SettingsError for what is unknown, missing or of the wrong kind."""
    known = [field.name for field in fields(LocalOptions)]
    for option in options:
        if option not in known:
            raise SettingsError(
                f"unknown option {option!r}; a local backend has {', '.join(known)}", backend=name
            )
    path = options.get("path")
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise SettingsError(f"path must be an absolute path of a directory, not {path!r}", backend=name)
    immutable, kernel_reads = (_flag(name, options, key) for key in ("immutable", "kernel_reads"))
    connections = options.get("connections", DEFAULT_CONNECTIONS)
    if not isinstance(connections, int) or isinstance(connections, bool) or connections < 1:
        raise SettingsError(f"connections must be a number from 1, not {connections!r}", backend=name)
    return LocalOptions(path, immutable, connections, kernel_reads)


def _flag(name: str, options: Mapping[str, object], key: str) -> bool:
    value = options.get(key, False)
    if not isinstance(value, bool):
        raise SettingsError(f"{key} must be true or false, not {value!r}", backend=name)
    return value
