"""Settings of the S3 driver: a bucket of any S3-compatible store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from wormfs.config.base import BackendSettings
from wormfs.config.fields import (
    Flag,
    OptionalPath,
    OptionalSecret,
    OptionalSize,
    OptionalText,
    PositiveDuration,
    Text,
    one_of,
)
from wormfs.config.units import parse_size, quote

_SCHEMES = ("http://", "https://")


def _address(value: str | None) -> str | None:
    if value is not None and not (value.startswith(_SCHEMES) and value.split("//", 1)[1].strip("/")):
        raise ValueError(f"must be an address such as https://s3.example.org, not {quote(value)}")
    return value


def _bucket(value: str) -> str:
    if not value or "/" in value or not value.isprintable():
        raise ValueError(f"must be the name of a bucket, not {quote(value)}; folders in it go to `prefix`")
    return value


def _prefix(value: str) -> str:
    parts = value.strip("/").split("/") if value.strip("/") else []
    if (
        any(part in ("", ".", "..") or part.startswith(".wormfs") for part in parts)
        or not value.isprintable()
    ):
        raise ValueError(f"must be a folder in the bucket such as archive/exams, not {quote(value)}")
    return value


Address = Annotated[OptionalText, AfterValidator(_address)]


class S3Settings(BackendSettings):
    """A backend that keeps its files in a bucket."""

    type: Literal["s3"] = "s3"
    bucket: Annotated[Text, AfterValidator(_bucket)] = Field(examples=["exams"])
    prefix: Annotated[Text, AfterValidator(_prefix)] = ""
    endpoint: Address = None
    """``None``: AWS."""
    region: OptionalText = None
    addressing: Annotated[
        Literal["auto", "path", "virtual"], BeforeValidator(one_of("auto", "path", "virtual"))
    ] = "auto"
    access_key: OptionalSecret = None
    """``None``: what boto3 finds (environment, profile, role of the instance)."""
    secret_key: OptionalSecret = None
    session_token: OptionalSecret = None
    profile: OptionalText = None
    ca_file: OptionalPath = None
    insecure: Flag = False
    """Do not verify the server's certificate."""
    proxy: Address = None
    object_lock: Annotated[
        Literal["none", "governance", "compliance"],
        BeforeValidator(one_of("none", "governance", "compliance")),
    ] = "none"
    exclusive_writer: Flag = False
    """This host is the only one that ever writes: the store need not honour conditional writes."""
    checksum: Annotated[
        Literal["sha256", "md5", "none"], BeforeValidator(one_of("sha256", "md5", "none"))
    ] = "sha256"
    storage_class: OptionalText = None
    capacity_bytes: OptionalSize = None
    """``None``: unknown, shown as very large."""
    read_memory_bytes: Annotated[int, BeforeValidator(parse_size)] = 256 << 20
    timeout_s: PositiveDuration = 30.0
    """How long one request may wait for the network."""
