"""What the settings say about one FTP backend."""

from __future__ import annotations

import codecs
import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields

from wormfs.config.secret import Secret
from wormfs.errors import SettingsError

MIB = 1 << 20
DEFAULT_CONNECTIONS = 8


class Tls(enum.Enum):
    """How connections are protected."""

    EXPLICIT = "explicit"
    """AUTH TLS on the ordinary port (RFC 4217)."""
    IMPLICIT = "implicit"
    """TLS from the first byte, on a port of its own."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class FtpOptions:
    """See docs/ftp.md for what each means. Durations in seconds, sizes in bytes."""

    host: str
    user: str
    password: Secret
    port: int | None = None
    directory: str = "/"
    tls: Tls = Tls.EXPLICIT
    ca_file: str | None = None
    insecure: bool = False
    passive: bool = True
    encoding: str = "utf-8"
    exclusive_writer: bool = False
    verify_upload: bool = True
    capacity_bytes: int | None = None
    read_memory_bytes: int = 256 * MIB
    timeout_s: float = 30.0
    connections: int = DEFAULT_CONNECTIONS
    patience_s: float = 12.0
    """How long a call that may be repeated is tried again; tests make it shorter."""

    @property
    def server_port(self) -> int:
        """The port as written, or the usual one."""
        if self.port is not None:
            return self.port
        return 990 if self.tls is Tls.IMPLICIT else 21


def parse(name: str, options: Mapping[str, object]) -> FtpOptions:
    """Raises SettingsError for what is unknown, missing or impossible."""
    known = [field.name for field in fields(FtpOptions)]
    values = dict(options)
    for option in values:
        if option not in known:
            raise SettingsError(
                f"unknown option {option!r}; an ftp backend has {', '.join(known)}", backend=name
            )
    for option in ("host", "user"):
        text = values.get(option)
        if not isinstance(text, str) or not text or not text.isprintable():
            raise SettingsError(f"{option} must be text that prints", backend=name)
    if not isinstance(values.get("password"), Secret):
        raise SettingsError(
            "password must be a secret, such as {file: /etc/wormfs/ftp.password}", backend=name
        )
    values["tls"] = _tls(name, values.get("tls", Tls.EXPLICIT))
    values["directory"] = _directory(name, values.get("directory", "/"))
    values["encoding"] = _encoding(name, values.get("encoding", "utf-8"))
    parsed = FtpOptions(**values)  # type: ignore[arg-type]  # the settings model has checked the rest
    if parsed.tls is Tls.NONE and not parsed.insecure:
        raise SettingsError(
            "without TLS the password and all files cross the network readable: use tls: explicit or "
            "implicit, or write insecure: true",
            backend=name,
        )
    return parsed


def _tls(name: str, value: object) -> Tls:
    if isinstance(value, Tls):
        return value
    try:
        return Tls(value)
    except ValueError:
        raise SettingsError(f"tls must be explicit, implicit or none, not {value!r}", backend=name) from None


def _directory(name: str, value: object) -> str:
    """Absolute on the server, without a slash at its end; empty for its root."""
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise SettingsError(f"directory must be an absolute path at the server, not {value!r}", backend=name)
    parts = [part for part in value.split("/") if part]
    if any(part in (".", "..") or part.startswith(".wormfs") for part in parts):
        raise SettingsError(f"directory {value!r} has a dotted or reserved part", backend=name)
    return "".join("/" + part for part in parts)


def _encoding(name: str, value: object) -> str:
    try:
        return codecs.lookup(str(value)).name
    except LookupError:
        raise SettingsError(f"there is no encoding {value!r}; utf-8 is the usual one", backend=name) from None
