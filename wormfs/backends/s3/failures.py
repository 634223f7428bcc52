"""What a store answers, and what boto3 raises, as errors of wormfs: the one table.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import botocore.exceptions as boto
import urllib3.exceptions

from wormfs import errors
from wormfs.errors import WormfsError


class PreconditionFailed(WormfsError):
    """412: the object is there, or is another one. Never leaves the driver."""


class NoSuchUpload(WormfsError):
    """The multipart upload was completed or aborted. Never leaves the driver."""


class RangeNotSatisfiable(WormfsError):
    """The object ends before the range. Never leaves the driver."""


Raised = (boto.BotoCoreError, boto.ClientError, urllib3.exceptions.HTTPError, OSError)
"""All that a call of boto3 or a read of its streams can raise for reasons that are not bugs."""

_CODES: Final[Mapping[str, tuple[type[WormfsError], str]]] = MappingProxyType(
    {
        "NoSuchKey": (errors.NotFound, "there is no such object"),
        "NoSuchVersion": (errors.NotFound, "there is no such version"),
        "NoSuchBucket": (errors.Unavailable, "the bucket does not exist: make it, or correct `bucket`"),
        "NoSuchUpload": (NoSuchUpload, "the multipart upload is gone"),
        "PreconditionFailed": (PreconditionFailed, "the name is taken or holds another object"),
        "ConditionalRequestConflict": (errors.Unavailable, "somebody else is writing this name just now"),
        "OperationAborted": (errors.Unavailable, "another operation on it is under way"),
        "InvalidRange": (RangeNotSatisfiable, "the object ends before that"),
        "SlowDown": (errors.Unavailable, "the store asks for fewer requests"),
        "ServiceUnavailable": (errors.Unavailable, "the store is not available"),
        "InternalError": (errors.Unavailable, "the store failed inside (it may be full)"),
        "RequestTimeout": (errors.Unavailable, "the store waited too long for the request"),
        "ThrottlingException": (errors.Unavailable, "the store asks for fewer requests"),
        "RequestTimeTooSkewed": (
            errors.Unavailable,
            "this machine's clock and the store's differ too much: set the clock (NTP)",
        ),
        "ExpiredToken": (errors.Unavailable, "the session token has expired: renew the credentials"),
        "ExpiredTokenException": (errors.Unavailable, "the session token has expired: renew the credentials"),
        "TokenRefreshRequired": (errors.Unavailable, "the session token must be renewed"),
        "AccessDenied": (errors.AccessDenied, "the store does not allow it with these credentials"),
        "AllAccessDisabled": (errors.AccessDenied, "the store has disabled all access"),
        "AccountProblem": (errors.AccessDenied, "the account has a problem"),
        "InvalidAccessKeyId": (errors.AccessDenied, "the store does not know the access key"),
        "InvalidToken": (errors.AccessDenied, "the session token is not valid"),
        "SignatureDoesNotMatch": (errors.AccessDenied, "the secret key is wrong"),
        "QuotaExceeded": (errors.QuotaExceeded, "the quota at the store is used up"),
        "XMinioStorageFull": (errors.OutOfSpace, "the store is full"),
        "EntityTooLarge": (errors.TooLarge, "larger than the store takes"),
        "KeyTooLongError": (errors.NameTooLong, "the name is longer than the store takes"),
        "BadDigest": (errors.DigestMismatch, "the bytes that arrived are not those that were sent"),
        "InvalidDigest": (errors.DigestMismatch, "the store does not accept the checksum"),
        "XAmzContentSHA256Mismatch": (
            errors.DigestMismatch,
            "the bytes that arrived are not those that were sent",
        ),
        "InvalidObjectState": (
            errors.BackendFault,
            "it lies in an archive of the store (see user.wormfs.storage_class): restore it there first",
        ),
        "NotImplemented": (errors.Unsupported, "the store does not know this request"),
        "MethodNotAllowed": (errors.Unsupported, "the store does not allow this request"),
        "InvalidStorageClass": (errors.Unsupported, "the store has no such storage class"),
        "PermanentRedirect": (errors.BackendFault, "the bucket is in another region: correct `region`"),
        "AuthorizationHeaderMalformed": (
            errors.BackendFault,
            "the request was signed for another region: correct `region`",
        ),
    }
)

_STATUSES: Final[Mapping[int, tuple[type[WormfsError], str]]] = MappingProxyType(
    {
        # HEAD has no body, so only the status tells.
        301: (errors.BackendFault, "the bucket is in another region: correct `region`"),
        400: (errors.BackendFault, "the store does not accept the request (an expired token, wrong region?)"),
        401: (errors.AccessDenied, "the store wants other credentials"),
        403: (errors.AccessDenied, "the store does not allow it with these credentials"),
        404: (errors.NotFound, "there is no such object"),
        405: (errors.Unsupported, "the store does not allow this request"),
        409: (errors.Unavailable, "something else is under way there"),
        412: (PreconditionFailed, "the name is taken or holds another object"),
        416: (RangeNotSatisfiable, "the object ends before that"),
        429: (errors.Unavailable, "the store asks for fewer requests"),
        501: (errors.Unsupported, "the store does not know this request"),
        507: (errors.OutOfSpace, "the store is full"),
    }
)

_RAISED: Final[tuple[tuple[type[Exception], type[WormfsError], str], ...]] = (
    (boto.SSLError, errors.Unavailable, "TLS failed: is `ca_file` right, is it the right host?"),
    (ssl.SSLError, errors.Unavailable, "TLS failed: is `ca_file` right, is it the right host?"),
    (TimeoutError, errors.Unavailable, "no answer in time"),
    (
        boto.NoCredentialsError,
        errors.AccessDenied,
        "no credentials: give access_key and secret_key, or a profile",
    ),
    (boto.PartialCredentialsError, errors.AccessDenied, "the credentials are incomplete"),
    (boto.ProfileNotFound, errors.SettingsError, "the AWS profile does not exist"),
    (boto.NoRegionError, errors.SettingsError, "no region: set `region`"),
    (boto.InvalidRegionError, errors.SettingsError, "`region` is no region's name"),
    (boto.ParamValidationError, errors.BackendFault, "boto3 does not accept the request"),
    (boto.ConnectTimeoutError, errors.Unavailable, "no connection in time"),
    (boto.ReadTimeoutError, errors.Unavailable, "no answer in time"),
    (boto.EndpointConnectionError, errors.Unavailable, "no connection"),
    (boto.ProxyConnectionError, errors.Unavailable, "no connection to the proxy"),
)


def translated(error: Exception, backend: str, key: bytes | None, doing: str) -> WormfsError:
    """The error of wormfs for one of ``Raised``. ``doing``: "put it", say. Holds no secret."""
    if isinstance(error, boto.ClientError):
        kind, why = _answered(error)
    else:
        kind, why = next(
            ((kind, why) for raised, kind, why in _RAISED if isinstance(error, raised)),
            (errors.Unavailable, "the connection broke"),
        )
    return kind(f"cannot {doing}: {why} ({_origin(error)})", backend=backend, key=key)


def _answered(error: boto.ClientError) -> tuple[type[WormfsError], str]:
    code, status = code_of(error), status_of(error)
    if code in _CODES:
        return _CODES[code]
    if status in _STATUSES:
        return _STATUSES[status]
    if status >= 500:
        return errors.Unavailable, "the store failed"
    return errors.BackendFault, "the store refuses it"


def _origin(error: Exception) -> str:
    if isinstance(error, boto.ClientError):
        return f"{code_of(error)}, HTTP {status_of(error)}"
    return type(error).__name__


def code_of(error: boto.ClientError) -> str:
    """The store's own word for what is wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: boto.ClientError) -> int:
    """The HTTP status."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
