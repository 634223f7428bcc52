"""The boto3 client of one backend: credentials, TLS, time limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from wormfs.backends.s3.failures import translated
from wormfs.backends.s3.options import Addressing, S3Options
from wormfs.backends.s3.quick import Quick
from wormfs.config.secret import Secret
from wormfs.errors import SettingsError

CONNECT_TIMEOUT_S = 5.0
DEFAULT_REGION = "us-east-1"
"""Where an endpoint of one's own has no regions, this is what stores expect in a signature."""

Client = Any
"""boto3 makes its clients' classes at run time."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Both ways to the store."""

    client: Client
    quick: Quick | None
    """For small requests, where the settings allow it."""


def connect(backend: str, options: S3Options) -> Connection:
    """From files and the environment only: nobody is contacted but an instance's role service.

    Raises SettingsError, AccessDenied.
    """
    try:
        session = boto3.Session(
            aws_access_key_id=_revealed(options.access_key),
            aws_secret_access_key=_revealed(options.secret_key),
            aws_session_token=_revealed(options.session_token),
            profile_name=options.profile,
            region_name=options.region,
        )
        region = session.region_name or (DEFAULT_REGION if options.endpoint else None)
        client = session.client(
            "s3",
            region_name=region,
            endpoint_url=options.endpoint,
            verify=False if options.insecure else options.ca_file,
            config=_config(options),
        )
        return Connection(client, _quick(session, options, region))
    except ValueError as error:
        raise SettingsError(
            f"endpoint {options.endpoint!r} is no address: {error}", backend=backend
        ) from None
    except botocore.exceptions.BotoCoreError as error:
        raise translated(error, backend, None, "make an S3 client") from error


def _quick(session: boto3.Session, options: S3Options, region: str | None) -> Quick | None:
    credentials = session.get_credentials()
    if credentials is None or region is None or not Quick.possible(options):
        return None
    return Quick(options, credentials, region, min(CONNECT_TIMEOUT_S, options.timeout_s))


def _revealed(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()


def _config(options: S3Options) -> Config:
    return Config(
        connect_timeout=min(CONNECT_TIMEOUT_S, options.timeout_s),
        read_timeout=options.timeout_s,
        # Trying again is ours (backends/retry.py): a put that is repeated must know its own first attempt.
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=2 * options.connections + 16,
        proxies={"http": options.proxy, "https": options.proxy} if options.proxy else None,
        s3={"addressing_style": options.addressing.value if _styled(options) else "path"},
        # Newer checksum trailers break on several stores; ours are given with each upload.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        parameter_validation=False,
        tcp_keepalive=True,
    )


def _styled(options: S3Options) -> bool:
    """``auto`` is path style where an endpoint is given: few such hosts answer to names of buckets."""
    return options.endpoint is None or options.addressing is not Addressing.AUTO
