"""What the settings say about one S3 backend."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

from wormfs.config.secret import Secret
from wormfs.errors import SettingsError

MIB = 1 << 20
DEFAULT_CONNECTIONS = 16

Choice = TypeVar("Choice", bound=enum.Enum)


class ObjectLock(enum.Enum):
    """What the store itself is asked to keep."""

    NONE = "none"
    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


class Checksum(enum.Enum):
    """What an upload carries so that the store can check its bytes."""

    SHA256 = "sha256"
    MD5 = "md5"
    NONE = "none"


class Addressing(enum.Enum):
    """Where the bucket stands in a URL."""

    AUTO = "auto"
    PATH = "path"
    VIRTUAL = "virtual"


@dataclass(frozen=True, slots=True)
class S3Options:
    """See docs/s3.md for what each means. Durations in seconds, sizes in bytes.

    The last four are the driver's own measures, which tests make smaller.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    addressing: Addressing = Addressing.AUTO
    profile: str | None = None
    access_key: Secret | None = None
    secret_key: Secret | None = None
    session_token: Secret | None = None
    ca_file: str | None = None
    insecure: bool = False
    proxy: str | None = field(default=None, repr=False)  # may hold a password
    object_lock: ObjectLock = ObjectLock.NONE
    exclusive_writer: bool = False
    checksum: Checksum = Checksum.SHA256
    storage_class: str | None = None
    capacity_bytes: int | None = None
    read_memory_bytes: int = 256 * MIB
    timeout_s: float = 30.0
    connections: int = DEFAULT_CONNECTIONS
    part_bytes: int = 16 * MIB
    page_keys: int = 1000
    patience_s: float = 12.0
    claim_age_s: float = 600.0

    @property
    def root(self) -> str:
        """What every key in the bucket begins with: empty, or ending with a slash."""
        return self.prefix


def parse(name: str, options: Mapping[str, object]) -> S3Options:
    """Raises SettingsError for what is unknown, missing or of the wrong kind."""
    known = [each.name for each in fields(S3Options)]
    values = dict(options)
    for option in values:
        if option not in known:
            raise SettingsError(
                f"unknown option {option!r}; an s3 backend has {', '.join(known)}", backend=name
            )
    if not isinstance(values.get("bucket"), str) or not values["bucket"]:
        raise SettingsError("bucket must be the name of a bucket", backend=name)
    for option, choices in (("object_lock", ObjectLock), ("checksum", Checksum), ("addressing", Addressing)):
        if option in values:
            values[option] = _chosen(name, option, choices, values[option])
    prefix = values.get("prefix") or ""
    if not isinstance(prefix, str):
        raise SettingsError(f"prefix must be text, not {prefix!r}", backend=name)
    values["prefix"] = checked_prefix(name, prefix)
    for option in ("access_key", "secret_key", "session_token"):
        value = values.get(option)
        if value is not None and not isinstance(value, Secret):
            raise SettingsError(f"{option} must be a secret", backend=name)
    if (values.get("access_key") is None) != (values.get("secret_key") is None):
        raise SettingsError("access_key and secret_key belong together: give both or neither", backend=name)
    if values.get("access_key") is not None and values.get("profile") is not None:
        raise SettingsError("give either access_key and secret_key or a profile, not both", backend=name)
    return S3Options(**values)  # type: ignore[arg-type]  # the settings model has checked the rest


def checked_prefix(name: str, prefix: str) -> str:
    """The prefix with one slash at its end; SettingsError for one that no path could be under."""
    bare = prefix.strip("/")
    if not bare:
        return ""
    parts = bare.split("/")
    if any(part in ("", ".", "..") or part.startswith(".wormfs") for part in parts) or not bare.isprintable():
        raise SettingsError(f"prefix {prefix!r} has an empty, dotted or reserved part", backend=name)
    return bare + "/"


def _chosen(name: str, option: str, choices: type[Choice], value: object) -> Choice:
    if isinstance(value, choices):
        return value
    try:
        return choices(value)
    except ValueError:
        words = ", ".join(str(choice.value) for choice in choices)
        raise SettingsError(f"{option} must be one of {words}, not {value!r}", backend=name) from None
