"""Buckets of real servers as storages for the tests of the driver contract."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import s3servers
from wormfs.backends.s3.backend import S3Backend
from wormfs.backends.s3.options import ObjectLock, S3Options
from wormfs.config.secret import Secret, SecretSource
from wormfs.model import Key

PAGE_KEYS = 40
PART_BYTES = 5 << 20
"""The smallest that S3 allows: a file of 6 MB is a multipart upload then."""


def secret(value: str) -> Secret:
    return Secret(SecretSource.INLINE, value)


@functools.cache
def _client(endpoint: str) -> Any:
    return s3servers.make_client(endpoint)


@dataclass(frozen=True)
class S3Storage:
    """A prefix of a bucket."""

    endpoint: str
    bucket: str
    top: Path
    object_lock: str = "none"
    prefix: str = field(default_factory=lambda: f"tests/{secrets.token_hex(8)}/")

    @property
    def client(self) -> Any:
        return _client(self.endpoint)

    def options(self, **changes: Any) -> S3Options:
        settings: dict[str, Any] = {
            "bucket": self.bucket,
            "prefix": self.prefix,
            "endpoint": self.endpoint,
            "region": s3servers.REGION,
            "access_key": secret(s3servers.ACCESS_KEY),
            "secret_key": secret(s3servers.SECRET_KEY),
            "object_lock": ObjectLock(self.object_lock),
            "page_keys": PAGE_KEYS,
            "part_bytes": PART_BYTES,
        }
        return S3Options(**settings | changes)

    def backend(self, **changes: Any) -> S3Backend:
        return S3Backend("archive", self.options(**changes))

    def name_of(self, key: Key) -> str:
        return self.prefix + key.decode()

    def plain(self, key: Key) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=self.name_of(key))["Body"].read()
        return body

    def place_foreign(self, key: Key, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.name_of(key), Body=content)

    def alter(self, key: Key, content: bytes) -> None:
        """Other bytes with the same metadata: in place, or as a newer version on top."""
        place = {"Bucket": self.bucket, "Key": self.name_of(key)}
        metadata = self.client.head_object(**place)["Metadata"]
        self.client.put_object(Body=content, Metadata=metadata, **place)

    def lose(self, key: Key) -> None:
        """Also from a lock: whoever may bypass governance can take every version away."""
        if self.object_lock == "none":
            self._delete(key.decode())
            return
        for each in self.versions():
            if each["Key"] == self.name_of(key):
                self._delete_version(each)

    def visible(self) -> set[bytes]:
        names: set[bytes] = set()
        for name in self.all_keys():
            parts = name.rstrip("/").split("/")
            if not any(part.startswith(".wormfs") for part in parts):
                names.update("/".join(parts[:count]).encode() for count in range(1, len(parts) + 1))
        return names

    def all_keys(self) -> list[str]:
        """Every key below the prefix, hidden ones too."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        return [each["Key"][len(self.prefix) :] for page in pages for each in page.get("Contents", ())]

    def versions(self) -> list[dict[str, Any]]:
        """Every version and delete marker below the prefix."""
        pages = self.client.get_paginator("list_object_versions").paginate(
            Bucket=self.bucket, Prefix=self.prefix
        )
        return [
            each for page in pages for kind in ("Versions", "DeleteMarkers") for each in page.get(kind, ())
        ]

    def spool(self) -> Path:
        spool = self.top / "spool-files"
        spool.mkdir(exist_ok=True)
        return spool

    def rounds(self, full: int) -> int:
        """Requests take milliseconds, contended ones seconds: a twentieth of what a disk is asked."""
        return full if os.environ.get("WORMFS_SOAK") else max(min(full, 2), full // 20)

    def prove_beforehand(self) -> None:
        """Race once per bucket and not once per test: the driver looks whether that was done lately."""
        content = _proof(self.endpoint, self.bucket, self.object_lock)
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}.wormfs/proof", Body=content)

    def remove(self) -> None:
        """Everything away; governance is bypassed here and nowhere else."""
        with ThreadPoolExecutor(8) as pool:
            if self.object_lock == "none":
                list(pool.map(self._delete, self.all_keys()))
            else:
                list(pool.map(self._delete_version, self.versions()))
        self._end_uploads()

    def uploads(self) -> list[dict[str, Any]]:
        """Multipart uploads under way."""
        answer = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix)
        return list(answer.get("Uploads", ()))

    def _end_uploads(self) -> None:
        for upload in self.uploads():
            self.client.abort_multipart_upload(
                Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )

    def _delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def _delete_version(self, each: dict[str, Any]) -> None:
        place = {"Bucket": self.bucket, "Key": each["Key"], "VersionId": each["VersionId"]}
        with contextlib.suppress(self.client.exceptions.ClientError):
            self.client.put_object_legal_hold(LegalHold={"Status": "OFF"}, **place)
        self.client.delete_object(BypassGovernanceRetention=True, **place)


@functools.cache
def _bucket(endpoint: str, name: str, locked: bool) -> str:
    _client(endpoint).create_bucket(Bucket=name, ObjectLockEnabledForBucket=locked)
    return name


@functools.cache
def _proof(endpoint: str, bucket: str, object_lock: str) -> bytes:
    """A real one, from a start on a prefix of its own."""
    storage = S3Storage(endpoint, bucket, Path("/nonexistent"), object_lock)
    backend = storage.backend()
    backend.start()
    backend.close()
    name = f"{storage.prefix}.wormfs/proof"
    content: bytes = _client(endpoint).get_object(Bucket=bucket, Key=name)["Body"].read()
    assert json.loads(content)["at_ns"] <= time.time_ns()
    storage.remove()
    return content


def seaweedfs(top: Path) -> S3Storage:
    """A prefix of a plain bucket in SeaweedFS."""
    return _made(S3Storage(s3servers.seaweedfs().endpoint, "plain", top))


def seaweedfs_locked(top: Path) -> S3Storage:
    """A prefix of an Object Lock bucket in SeaweedFS, in governance mode so that tests can clean up."""
    return _made(S3Storage(s3servers.seaweedfs().endpoint, "locked", top, "governance"))


def moto(top: Path) -> S3Storage:
    """A prefix of a plain bucket in moto."""
    return _made(S3Storage(s3servers.moto().endpoint, "plain", top))


def _made(storage: S3Storage) -> S3Storage:
    _bucket(storage.endpoint, storage.bucket, storage.object_lock != "none")
    storage.prove_beforehand()
    return storage
