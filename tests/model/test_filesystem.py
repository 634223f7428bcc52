"""The state machine, and each failure that it has found, by name."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.model.machine import FileSystemMachine

# Half an hour under soak; here what fits.
_EXAMPLES = 2500 if os.environ.get("WORMFS_SOAK") else 40

# Under soak it takes hours.
pytestmark = pytest.mark.timeout(6 * 3600 if os.environ.get("WORMFS_SOAK") else 300)

TestFileSystem = FileSystemMachine.TestCase
TestFileSystem.settings = settings(max_examples=_EXAMPLES, stateful_step_count=50)
