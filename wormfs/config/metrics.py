"""Settings of the metrics: where Prometheus finds them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, ValidationInfo, field_validator

from wormfs.config.fields import Flag, OptionalPath, PositiveDuration, optional
from wormfs.config.parts import Model
from wormfs.config.units import quote, show_duration

_WRITTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+|localhost)):([0-9]{1,5})", re.ASCII)
_EXAMPLE = "127.0.0.1:9477"
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Listen:
    """An address of this host and a TCP port."""

    address: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this host can connect."""
        return ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        """As it stands in the settings file."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def parse_listen(value: object) -> Listen:
    """``127.0.0.1:9477`` or ``[::1]:9477``. No name is looked up. Raises ValueError."""
    if isinstance(value, Listen):
        return value
    expected = f"must be an address and a port such as {_EXAMPLE} or [::1]:9477"
    found = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{expected}, not {quote(value)}")
    address = found[1] or found[2]
    try:
        parsed = ipaddress.ip_address("127.0.0.1" if address == "localhost" else address)
    except ValueError:
        raise ValueError(f"{expected}, not {quote(value)}") from None
    port = int(found[3])
    if not 0 < port <= _LARGEST_PORT:
        raise ValueError(f"must have a port from 1 to {_LARGEST_PORT}, not {quote(value)}")
    return Listen(str(parsed), port)


class MetricsSettings(Model):
    """Where the metrics are offered. Nowhere, if neither ``listen`` nor ``textfile`` is set."""

    public: Flag = False
    """``listen`` may be an address that other hosts can reach."""
    listen: Annotated[Listen | None, PlainValidator(optional(parse_listen))] = None
    textfile: OptionalPath = None
    """For node_exporter's textfile collector."""
    every_s: PositiveDuration = 15.0
    """How often the text file is written."""

    @field_validator("listen")
    @classmethod
    def _only_here(cls, listen: Listen | None, info: ValidationInfo) -> Listen | None:
        if listen is not None and not listen.loopback and not info.data.get("public"):
            raise ValueError(
                f"{listen} can be reached by other hosts, and whoever reaches it can read the metrics: write "
                f"{_EXAMPLE}, or add 'public: true' if that is meant"
            )
        return listen

    @field_validator("textfile")
    @classmethod
    def _is_collected(cls, path: Any) -> Any:
        if path is not None and path.suffix != ".prom":
            raise ValueError(f"must end with .prom, or node_exporter overlooks it, not {quote(str(path))}")
        return path


def _short_or_mapping(value: object) -> object:
    if isinstance(value, dict | Model):
        return value
    if value is None:
        return {}
    try:
        return {"listen": parse_listen(value)}
    except ValueError as error:
        raise ValueError(f"{error}, nor a mapping such as {{textfile: /var/lib/x/wormfs.prom}}") from None


Metrics = Annotated[MetricsSettings, BeforeValidator(_short_or_mapping)]
"""``127.0.0.1:9477`` is short for ``{listen: 127.0.0.1:9477}``."""


def to_yaml(settings: MetricsSettings) -> dict[str, Any]:
    """As it would stand in the settings file, defaults written out."""
    return {
        "listen": None if settings.listen is None else str(settings.listen),
        "public": settings.public,
        "textfile": None if settings.textfile is None else str(settings.textfile),
        "every": show_duration(settings.every_s),
    }
