"""The model of a file system against a bucket: the same machine as for a local directory."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.conformance import storages_s3
from tests.model.machine import FileSystemMachine
from wormfs.backends.base import Backend
from wormfs.model import Key

_EXAMPLES = 400 if os.environ.get("WORMFS_SOAK") else 3
_STEPS = 50 if os.environ.get("WORMFS_SOAK") else 25

# Under soak it takes hours.
pytestmark = pytest.mark.timeout(6 * 3600 if os.environ.get("WORMFS_SOAK") else 120)


class BucketMachine(FileSystemMachine):
    """A prefix of its own for each run."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = storages_s3.seaweedfs(self.base)
        self.cleanup.callback(self.storage.remove)

    def new_backend(self) -> Backend:
        return self.storage.backend()

    def visible(self) -> dict[bytes, bytes | None]:
        names = self.storage.visible()
        folders = {name.rpartition(b"/")[0] for name in names}
        markers = {name.rstrip("/").encode() for name in self.storage.all_keys() if name.endswith("/")}
        return {name: None if name in folders | markers else self.storage.plain(Key(name)) for name in names}


TestBucket = BucketMachine.TestCase
TestBucket.settings = settings(max_examples=_EXAMPLES, stateful_step_count=_STEPS)
