"""S3 on its own: what the contract's tests do not ask of every driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_s3
from tests.conformance.storages_s3 import S3Storage
from wormfs.backends.s3.backend import S3Backend


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[S3Storage]:
    """A prefix of a plain bucket in SeaweedFS."""
    storage = storages_s3.seaweedfs(tmp_path)
    yield storage
    storage.remove()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[S3Storage]:
    """A prefix of an Object Lock bucket in SeaweedFS."""
    storage = storages_s3.seaweedfs_locked(tmp_path)
    yield storage
    storage.remove()


@pytest.fixture
def backend(plain: S3Storage) -> Iterator[S3Backend]:
    """A started backend on ``plain``."""
    backend = plain.backend()
    backend.start()
    yield backend
    backend.close()


@pytest.fixture
def locking(locked: S3Storage) -> Iterator[S3Backend]:
    """A started backend on ``locked``."""
    backend = locked.backend()
    backend.start()
    yield backend
    backend.close()
