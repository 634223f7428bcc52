"""The model of a file system against an FTP server: the same machine as for a local directory."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.conformance import storages_ftp
from tests.model.machine import FileSystemMachine
from wormfs.backends.base import Backend
from wormfs.model import Key

_EXAMPLES = 400 if os.environ.get("WORMFS_SOAK") else 3
_STEPS = 50 if os.environ.get("WORMFS_SOAK") else 25

# Under soak it takes hours.
pytestmark = pytest.mark.timeout(6 * 3600 if os.environ.get("WORMFS_SOAK") else 120)


class ServerMachine(FileSystemMachine):
    """A directory of its own for each run."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = storages_ftp.vsftpd(self.base)
        self.cleanup.callback(self.storage.remove)

    def new_backend(self) -> Backend:
        return self.storage.backend()

    def visible(self) -> dict[bytes, bytes | None]:
        return {
            name: None if self.storage.path_of(Key(name)).is_dir() else self.storage.plain(Key(name))
            for name in self.storage.visible()
        }


TestServer = ServerMachine.TestCase
TestServer.settings = settings(max_examples=_EXAMPLES, stateful_step_count=_STEPS)
