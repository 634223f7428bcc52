"""Settings of the FTP driver: a server that offers FTP or FTPS."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from wormfs.config.base import BackendSettings
from wormfs.config.fields import (
    Flag,
    OptionalPath,
    OptionalSize,
    PositiveDuration,
    SecretField,
    Text,
    one_of,
    optional,
    whole_number,
)
from wormfs.config.units import parse_size

OptionalPort = Annotated[int | None, BeforeValidator(optional(whole_number(1, 65535)))]
TlsMode = Annotated[str, BeforeValidator(one_of("explicit", "implicit", "none"))]
Size = Annotated[int, BeforeValidator(parse_size)]


class FtpSettings(BackendSettings):
    """A backend that keeps its files at an FTP server."""

    type: Literal["ftp"] = "ftp"
    host: Text = Field(examples=["ftp.example.edu"])
    user: Text = Field(examples=["archive"])
    password: SecretField = Field(examples=["{file: /etc/wormfs/ftp.password}"])
    port: OptionalPort = None
    """``None``: 21, or 990 with implicit TLS."""
    directory: Text = "/"
    """Absolute at the server; exists."""
    tls: TlsMode = "explicit"
    ca_file: OptionalPath = None
    """``None``: the system's own certificates."""
    insecure: Flag = False
    passive: Flag = True
    encoding: Text = "utf-8"
    exclusive_writer: Flag = False
    verify_upload: Flag = True
    capacity_bytes: OptionalSize = None
    read_memory_bytes: Size = 256 << 20
    timeout_s: PositiveDuration = 30.0
