"""Frequent requests without botocore's layers, which cost several times what the request itself does.

Only where an address is the whole story: an endpoint is given, path style, no proxy. Everything else goes
through boto3. Signing is botocore's own; the body's SHA-256 is known already and not counted again.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html and API_ListObjectsV2.html
"""

from __future__ import annotations

import contextlib
import ssl
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.httpsession
import botocore.utils
from botocore.exceptions import ClientError

from wormfs.backends.s3.links import Into, Links, Response
from wormfs.backends.s3.options import Addressing, S3Options
from wormfs.errors import Unavailable

MAX_BODY_BYTES = 1 << 20
"""Larger bodies ask for leave first (Expect: 100-continue), which boto3 does."""
_EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_UNRESERVED = "-._~"


class _Signer(botocore.auth.S3SigV4Auth):  # type: ignore[misc]
    def payload(self, request: Any) -> str:
        digest: str = request.context["sha256"]
        return digest


class Quick:
    """Requests to one bucket. Safe from any thread."""

    def __init__(self, options: S3Options, credentials: Any, region: str, connect_timeout_s: float) -> None:
        """``credentials``: botocore's, which renew themselves. ``options`` must be ``possible``."""
        self._endpoint = (options.endpoint or "").rstrip("/")
        self._bucket = options.bucket
        self._credentials = credentials
        self._region = region
        self._host = urllib.parse.urlsplit(self._endpoint).netloc.rpartition("@")[2]
        self._links = Links(
            self._endpoint,
            _trust(options),
            connect_timeout_s,
            options.timeout_s,
            kept=2 * options.connections + 16,
        )

    @staticmethod
    def possible(options: S3Options) -> bool:
        """Whether these settings leave nothing for boto3 to find out."""
        return (
            options.endpoint is not None
            and not urllib.parse.urlsplit(options.endpoint).path.strip("/")
            and options.addressing is not Addressing.VIRTUAL
            and options.proxy is None
            and not botocore.utils.get_environ_proxies(options.endpoint)
        )

    def put(self, name: str, body: bytes, headers: Mapping[str, str], sha256: str) -> Response:
        """PutObject. Blocks. Raises what ``failures.Raised`` holds, and Unavailable."""
        return self._send("PUT", f"/{_quoted(name)}", headers, body, sha256, "PutObject")

    def get(self, name: str, headers: Mapping[str, str], version_id: str | None, into: Into) -> int:
        """GetObject; how many bytes came, all of them in ``into``. Raises as ``put``."""
        query = "" if version_id is None else f"?versionId={urllib.parse.quote(version_id, safe=_UNRESERVED)}"
        target = f"/{_quoted(name)}{query}"
        return self._send("GET", target, headers, b"", _EMPTY_SHA256, "GetObject", into).size_bytes

    def list(self, parameters: Mapping[str, str]) -> ElementTree.Element:
        """ListObjectsV2; the answer's root, whose names are to be unquoted. Raises as ``put``."""
        query = {"encoding-type": "url", "list-type": "2", **parameters}
        text = "&".join(
            f"{name}={urllib.parse.quote(query[name], safe=_UNRESERVED)}" for name in sorted(query)
        )
        answer = self._send("GET", f"?{text}", {}, b"", _EMPTY_SHA256, "ListObjectsV2")
        try:
            return _parsed(answer.body)
        except ElementTree.ParseError as error:
            raise Unavailable("the answer is not whole") from error

    def close(self) -> None:
        self._links.close()

    def _send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, sha256: str, operation: str,
        into: Into | None = None,
    ) -> Response:  # fmt: skip
        path = f"/{_quoted(self._bucket)}{target}"
        request = botocore.awsrequest.AWSRequest(method, self._endpoint + path, headers=dict(headers))
        request.context["sha256"] = sha256
        _Signer(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        response = self._links.exchange(method, path, {"Host": self._host, **request.headers}, body, into)
        if response.status >= 300:
            raise ClientError(_error(response.status, response.body), operation)
        return response


def _trust(options: S3Options) -> ssl.SSLContext | None:
    """How the server's certificate is verified: as boto3 does."""
    if not (options.endpoint or "").startswith("https:"):
        return None
    if options.insecure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    return ssl.create_default_context(cafile=options.ca_file or botocore.httpsession.get_cert_path(True))


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="/" + _UNRESERVED)


def _parsed(body: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(body)  # noqa: S314 (expat expands no external entities; botocore parses alike)


def _error(status: int, body: bytes) -> dict[str, Any]:
    """An answer as boto3 puts it into its errors."""
    code = str(status)
    with contextlib.suppress(ElementTree.ParseError):  # then the status says enough
        code = next(
            (e.text or code for e in _parsed(body).iter() if e.tag.rpartition("}")[2] == "Code"), code
        )
    return {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
