"""Requests to one bucket: each with a time limit, tried again where that is without harm, errors translated.

Names here are keys in the bucket, prefix included.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import email.utils
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

from wormfs import clock
from wormfs.backends.retry import Patience, retrying
from wormfs.backends.s3.client import Connection
from wormfs.backends.s3.failures import PreconditionFailed, Raised, RangeNotSatisfiable, translated
from wormfs.backends.s3.links import Into, Response, copied
from wormfs.backends.s3.listings import Listed, Page, page_of
from wormfs.backends.s3.options import Checksum, ObjectLock, S3Options
from wormfs.backends.s3.quick import MAX_BODY_BYTES
from wormfs.backends.s3.span import Span
from wormfs.errors import AccessDenied, BackendFault, DigestMismatch, NotFound, Unavailable
from wormfs.model import Record, Retention
from wormfs.threads import Beside

Result = TypeVar("Result")
NS = 1_000_000_000
_READ_CHUNK_BYTES = 256 << 10
_READ_AT_ONCE_BYTES = 64 << 20
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "head_object": ("ContentLength", "ETag", "LastModified"),
        "get_object": ("ContentLength", "ETag", "Body"),
        "put_object": ("ETag",),
        "create_multipart_upload": ("UploadId",),
        "upload_part": ("ETag",),
        "complete_multipart_upload": ("ETag",),
        "list_objects_v2": ("IsTruncated",),
        "list_object_versions": ("IsTruncated",),
    }
)
"""What every whole answer has."""
_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "IfNoneMatch": "If-None-Match",
        "StorageClass": "x-amz-storage-class",
        "ChecksumSHA256": "x-amz-checksum-sha256",
        "ContentMD5": "Content-MD5",
    }
)
"""Parameters of PutObject that are one header each."""
_QUERY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Prefix": "prefix",
        "Delimiter": "delimiter",
        "MaxKeys": "max-keys",
        "ContinuationToken": "continuation-token",
    }
)
"""Parameters of ListObjectsV2 as they stand in the address."""
_IN_HEADERS: Final = frozenset({*_HEADERS, "Metadata"})
_SLOWEST_BYTES_PER_S = 16 << 10
"""An answer that comes slower than this is treated as one that does not come."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a store says of one object or version without its bytes."""

    name: str
    size_bytes: int
    etag: str
    version_id: str | None
    modified_ns: int
    metadata: Mapping[str, str]
    storage_class: str | None = None
    locked_until_ns: int | None = None
    held: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """What a store says of an object that it has just taken."""

    etag: str
    version_id: str | None


class Store:
    """One bucket through one client. Safe from any thread."""

    def __init__(self, backend: str, options: S3Options, connection: Connection, wall: clock.Clock) -> None:
        self.wall = wall
        self.backend = backend
        self.options = options
        self.bucket = options.bucket
        self.versioned = False
        self._client = connection.client
        self._quick = connection.quick
        self._patience = Patience(options.patience_s)

    def call(self, operation: str, key: bytes | None, doing: str, /, **parameters: object) -> dict[str, Any]:
        """One request, again while it raises Unavailable and patience lasts. Raises the driver's errors."""
        return self.patiently(lambda: self.once(operation, key, doing, **parameters))

    def patiently(self, action: Callable[[], Result]) -> Result:
        """Again while it raises Unavailable and patience lasts. Blocks."""
        return retrying(action, self._patience)

    def once(self, operation: str, key: bytes | None, doing: str, /, **parameters: object) -> dict[str, Any]:
        """One request, once."""
        method = getattr(self._client, operation)
        given = {name: value for name, value in parameters.items() if value is not None}
        try:
            answer: dict[str, Any] = method(Bucket=self.bucket, **given)
        except Raised as error:
            raise translated(error, self.backend, key, doing) from error
        # An answer that is cut in its headers passes for a whole one.
        missing = [field for field in _NEEDED.get(operation, ()) if field not in answer]
        if missing:
            raise Unavailable(
                f"cannot {doing}: the answer is not whole (no {missing[0]})", backend=self.backend, key=key
            )
        return answer

    def close(self) -> None:
        self._client.close()
        if self._quick is not None:
            self._quick.close()

    def _quickly(self, action: Callable[[], Result], key: bytes | None, doing: str) -> Result:
        """A request that does not go through boto3; otherwise as ``call``."""
        return self.patiently(lambda: self._quickly_once(action, key, doing))

    def _quickly_once(self, action: Callable[[], Result], key: bytes | None, doing: str) -> Result:
        try:
            return action()
        except Raised as error:
            raise translated(error, self.backend, key, doing) from error
        except Unavailable as error:
            error.backend, error.key = self.backend, key
            raise

    # Objects

    def head(self, name: str, key: bytes | None = None, version_id: str | None = None) -> Head:
        """Raises NotFound, also for a delete marker."""
        answer = self.call("head_object", key, "look it up", Key=name, VersionId=version_id)
        until = answer.get("ObjectLockRetainUntilDate")
        return Head(
            name,
            answer["ContentLength"],
            answer.get("ETag", ""),
            answer.get("VersionId"),
            _ns(answer.get("LastModified")),
            answer.get("Metadata", {}),
            answer.get("StorageClass"),
            None if until is None else _ns(until),
            answer.get("ObjectLockLegalHoldStatus") == "ON",
        )

    def read(self, name: str, key: bytes | None, start: int, size: int, version: str | None = None) -> bytes:
        """Bytes ``[start, start + size)``, fewer at the end. ``version``: as ``version_of`` gives it.

        Raises NotFound also when the object is another one by now.
        """
        if size <= 0:
            return b""
        try:
            if self._quick is not None and size <= _READ_AT_ONCE_BYTES:
                buffer = bytearray(size)
                into = Into([memoryview(buffer)])
                got = self.patiently(lambda: self._read_quickly(name, key, start, into, version))
                return bytes(memoryview(buffer)[:got])
            return self.patiently(lambda: self._read_once(name, key, start, size, version))
        except RangeNotSatisfiable:
            return b""
        except PreconditionFailed as error:
            raise NotFound("it was replaced meanwhile", backend=self.backend, key=key) from error

    def read_into(self, name: str, key: bytes | None, start: int, into: Into, version: str) -> None:
        """Fill ``into`` from ``start`` on, by one request, once. Raises as ``read``, and BackendFault when
        there is less."""
        try:
            if self._quick is not None:
                got = self._read_quickly(name, key, start, into, version)
            else:
                got = copied(self._read_once(name, key, start, into.size_bytes, version), into)
        except PreconditionFailed as error:
            raise NotFound("it was replaced meanwhile", backend=self.backend, key=key) from error
        except RangeNotSatisfiable:
            got = 0
        if got != into.size_bytes:
            raise BackendFault("the store has fewer bytes than it said", backend=self.backend, key=key)

    def _read_quickly(self, name: str, key: bytes | None, start: int, into: Into, version: str | None) -> int:
        quick = self._quick
        assert quick is not None
        pinned = _pinned(version)
        headers = {"Range": f"bytes={start}-{start + into.size_bytes - 1}"}
        if "IfMatch" in pinned:
            headers["If-Match"] = pinned["IfMatch"]
        return self._quickly_once(
            lambda: quick.get(name, headers, pinned.get("VersionId"), into), key, "read it"
        )

    def _read_once(self, name: str, key: bytes | None, start: int, size: int, version: str | None) -> bytes:
        pinned = _pinned(version)
        span = f"bytes={start}-{start + size - 1}"
        answer = self.once("get_object", key, "read it", Key=name, Range=span, **pinned)
        expected = int(answer["ContentLength"])
        if expected > size:
            raise BackendFault("the store answers with more than was asked", backend=self.backend, key=key)
        return self._body(answer["Body"], expected, key)

    def _body(self, body: Any, expected: int, key: bytes | None) -> bytes:
        deadline = clock.monotonic() + self.options.timeout_s + expected / _SLOWEST_BYTES_PER_S
        parts: list[bytes] = []
        got = 0
        # What has arrived, at once: reading full pieces could take for ever from a server that drips.
        read = body._raw_stream.read1  # noqa: SLF001 (StreamingBody itself has none)
        try:
            while got < expected and (part := read(min(_READ_CHUNK_BYTES, expected - got))):
                parts.append(part)
                got += len(part)
                if clock.monotonic() > deadline:
                    raise Unavailable("the answer comes too slowly", backend=self.backend, key=key)
        except Raised as error:
            raise translated(error, self.backend, key, "read it") from error
        finally:
            body.close()
        if got != expected:
            raise Unavailable("the answer ended early", backend=self.backend, key=key)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_small(self, name: str, key: bytes | None = None) -> bytes:
        """One of wormfs's own small objects, whole. Raises NotFound."""
        return self.patiently(lambda: self._read_small_once(name, key))

    def _read_small_once(self, name: str, key: bytes | None) -> bytes:
        answer = self.once("get_object", key, "read what wormfs keeps of it", Key=name)
        return self._body(answer["Body"], int(answer["ContentLength"]), key)

    def put(
        self,
        name: str,
        content: bytes,
        key: bytes | None = None,
        *,
        new: bool = True,
        metadata: Mapping[str, str] | None = None,
        sha256: str | None = None,
        lock: Record | None = None,
        storage_class: str | None = None,
    ) -> Put:
        """Store an object in one request.

        Args:
            new: only if the name is free (``If-None-Match: *``).
            sha256: of ``content`` in hex, if it is known.
            lock: the record whose retention is set with the object, where Object Lock is on.

        Raises PreconditionFailed for a taken name, which may be this very put whose answer was lost.
        """
        given: dict[str, Any] = {
            "Metadata": dict(metadata) if metadata else None,
            "IfNoneMatch": "*" if new else None,
            "StorageClass": storage_class,
            **self.checksums(content, sha256),
            **self.lock_parameters(lock),
        }
        given = {field: value for field, value in given.items() if value is not None}
        if self._quick is not None and len(content) <= MAX_BODY_BYTES and given.keys() <= _IN_HEADERS:
            answer = self._put_quickly(name, content, key, given, sha256)
        else:
            answer = self.call("put_object", key, "store it", Key=name, Body=content, **given)
        return self._put_of(answer, sha256, key)

    def _put_quickly(
        self, name: str, content: bytes, key: bytes | None, given: Mapping[str, Any], sha256: str | None
    ) -> dict[str, Any]:
        quick = self._quick
        assert quick is not None
        fields = given.get("Metadata", {})
        headers = {f"x-amz-meta-{field}": value for field, value in fields.items()}
        headers |= {header: given[field] for field, header in _HEADERS.items() if field in given}
        digest = sha256 or hashlib.sha256(content).hexdigest()

        def put() -> Response:
            answer = quick.put(name, content, headers, digest)
            if "etag" not in answer.headers:
                raise Unavailable("the answer is not whole (no ETag)")
            return answer

        answered = self._quickly(put, key, "store it").headers
        return {
            "ETag": answered["etag"],
            "VersionId": answered.get("x-amz-version-id"),
            "ChecksumSHA256": answered.get("x-amz-checksum-sha256"),
        }

    def _put_of(self, answer: Mapping[str, Any], sha256: str | None, key: bytes | None) -> Put:
        returned = answer.get("ChecksumSHA256")
        if returned and sha256 and returned != base64.b64encode(bytes.fromhex(sha256)).decode():
            raise DigestMismatch("the store has other bytes than were sent", backend=self.backend, key=key)
        version_id = answer.get("VersionId")
        if version_id not in (None, "", "null"):
            self.versioned = True
        return Put(answer.get("ETag", ""), version_id)

    def checksums(self, content: bytes | Span, sha256: str | None = None) -> dict[str, str]:
        """What an upload of ``content`` carries for the store to check."""
        match self.options.checksum:
            case Checksum.SHA256:
                raw = bytes.fromhex(sha256) if sha256 else _digest(hashlib.sha256(), content)
                return {"ChecksumSHA256": base64.b64encode(raw).decode()}
            case Checksum.MD5:
                raw = _digest(hashlib.md5(usedforsecurity=False), content)
                return {"ContentMD5": base64.b64encode(raw).decode()}
            case Checksum.NONE:
                return {}

    def lock_parameters(self, record: Record | None) -> dict[str, object]:
        """Object Lock for an upload: date and hold, where the settings ask for it."""
        if record is None or self.options.object_lock is ObjectLock.NONE:
            return {}
        held = "ON" if native_hold(record.retention) else "OFF"
        parameters: dict[str, object] = {"ObjectLockLegalHoldStatus": held}
        until = self.native_date(record, record.retention)
        if until is not None:
            parameters["ObjectLockMode"] = self.options.object_lock.name
            parameters["ObjectLockRetainUntilDate"] = until
        return parameters

    def native_date(self, record: Record, retention: Retention) -> datetime.datetime | None:
        """The date for the store's own lock; ``None`` when it is over, which stores refuse."""
        until = retention.retain_until_ns
        if until is None:
            until = record.committed_at_ns + FOREVER_YEARS * _YEAR_NS
        if until <= self.wall.now_ns():
            return None
        # Up to the second, not down: the store must not let go early.
        return datetime.datetime.fromtimestamp(-(-until // NS), datetime.UTC)

    def delete(
        self, name: str, key: bytes | None = None, version_id: str | None = None, *, bypass: bool = False
    ) -> None:
        """Remove one object or version. What is gone already is a success. Raises AccessDenied."""
        with contextlib.suppress(NotFound):
            self.call(
                "delete_object",
                key,
                "erase it",
                Key=name,
                VersionId=version_id,
                BypassGovernanceRetention=True if bypass else None,
            )

    def purge(self, name: str, key: bytes | None = None, *, keep: str | None = None) -> None:
        """Remove one of wormfs's own objects with all its versions, but ``keep``. What a default retention of
        the bucket keeps stays, under a delete marker."""
        if not self.versioned:
            self.delete(name, key)
            return
        for each in self.versions(name, key):
            if each.version_id == keep:
                continue
            try:
                self.delete(name, key, each.version_id)
            except AccessDenied:
                if keep is None and not each.delete_marker:
                    self.delete(name, key)
                return

    # Listings

    def page(
        self, prefix: str, *, delimiter: str | None = None, at_most: int | None = None,
        after: Mapping[str, str] | None = None, versions: bool = False, key: bytes | None = None,
    ) -> Page:  # fmt: skip
        """One answer of a listing: the latest objects, or all versions and delete markers, newest first."""
        given: dict[str, Any] = {
            "Prefix": prefix,
            "Delimiter": delimiter,
            "MaxKeys": at_most or self.options.page_keys,
            **(after or {}),
        }
        if versions:
            answer = self.call("list_object_versions", key, "list it", **given)
            prefixes = [each["Prefix"] for each in answer.get("CommonPrefixes", ())]
            return Page(_versions(answer), prefixes, _after_versions(answer))
        quick = self._quick
        if quick is not None:
            query = {_QUERY[name]: str(value) for name, value in given.items() if value is not None}
            return self._quickly(lambda: page_of(quick.list(query)), key, "list it")
        answer = self.call("list_objects_v2", key, "list it", **given)
        prefixes = [each["Prefix"] for each in answer.get("CommonPrefixes", ())]
        objects = [_listed(each) for each in answer.get("Contents", ())]
        token = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
        return Page(objects, prefixes, {"ContinuationToken": token} if token else None)

    def pages(
        self, prefix: str, *, delimiter: str | None = None, versions: bool = False, key: bytes | None = None,
        ahead: Beside | None = None,
    ) -> Iterator[Page]:  # fmt: skip
        """All answers, one after the other. ``ahead``: where the next one is fetched while one is read."""

        def following(after: Mapping[str, str]) -> Page:
            return self.page(prefix, delimiter=delimiter, after=after, versions=versions, key=key)

        page = self.page(prefix, delimiter=delimiter, versions=versions, key=key)
        while page.after is not None:
            coming = None if ahead is None else ahead.start(following, page.after)
            yield page
            page = following(page.after) if coming is None else coming.result()
        yield page

    def names(self, prefix: str) -> Iterator[Listed]:
        """All latest objects below a prefix."""
        for page in self.pages(prefix):
            yield from page.objects

    def versions(self, name: str, key: bytes | None = None) -> list[Listed]:
        """All versions and delete markers of exactly this name, newest first."""
        found: list[Listed] = []
        after: Mapping[str, str] | None = None
        at_most = 4
        while True:
            page = self.page(name, at_most=at_most, after=after, versions=True, key=key)
            found += [each for each in page.objects if each.name == name]
            if page.after is None or any(each.name != name for each in page.objects):
                return found
            after, at_most = page.after, self.options.page_keys

    def time_ns(self) -> int:
        """The store's clock, from the Date of an answer; whole seconds."""
        answer = self.call("list_objects_v2", None, "ask for its time", Prefix=self.options.root, MaxKeys=1)
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            raise BackendFault("the store answers without a date", backend=self.backend)
        return int(email.utils.parsedate_to_datetime(date).timestamp()) * NS


FOREVER_YEARS = 99
"""How far ahead the native date of a record without end is set; its hold has no end."""
_YEAR_NS = int(365.25 * 86400 * NS)


def native_hold(retention: Retention) -> bool:
    """Whether the store's own legal hold is on: also for what is kept for ever."""
    return bool(retention.holds) or retention.retain_until_ns is None


def _digest(digest: hashlib._Hash, content: bytes | Span) -> bytes:
    if isinstance(content, Span):
        while part := content.read(_READ_CHUNK_BYTES):
            digest.update(part)
        content.seek(0)
    else:
        digest.update(content)
    return digest.digest()


def version_of(version_id: str | None, etag: str) -> str:
    """The token that ``read`` takes: by version where there is one, else by ETag."""
    return f"v{version_id}" if version_id is not None else f"e{etag}"


def _pinned(version: str | None) -> dict[str, str]:
    if version is None:
        return {}
    return {"VersionId": version[1:]} if version.startswith("v") else {"IfMatch": version[1:]}


def _ns(date: datetime.datetime | None) -> int:
    return 0 if date is None else int(date.timestamp() * 1_000_000) * 1000


def _listed(each: Mapping[str, Any], *, delete_marker: bool = False) -> Listed:
    return Listed(
        each["Key"],
        int(each.get("Size") or 0),
        each.get("ETag", ""),
        each.get("VersionId"),
        _ns(each.get("LastModified")),
        each.get("StorageClass"),
        delete_marker,
    )


def _versions(answer: Mapping[str, Any]) -> list[Listed]:
    """Versions and delete markers in one row: by name, those of one name as the store orders each kind."""
    both = [_listed(each) for each in answer.get("Versions", ())]
    both += [_listed(each, delete_marker=True) for each in answer.get("DeleteMarkers", ())]
    # Stable: within one name, versions stay newest first.
    return sorted(both, key=lambda each: each.name.encode())


def _after_versions(answer: Mapping[str, Any]) -> Mapping[str, str] | None:
    if not answer.get("IsTruncated"):
        return None
    after = {"KeyMarker": answer["NextKeyMarker"], "VersionIdMarker": answer.get("NextVersionIdMarker")}
    return {name: value for name, value in after.items() if value}
