"""What all tests share. Fixtures of one kind of test live beside those tests or in tests/support."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline: two cores shared with real mounts make the time of one example meaningless.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None}
# The same examples each time: what is new is searched for by soak, not by chance in somebody's change.
settings.register_profile("default", max_examples=100, derandomize=True, **_COMMON)
settings.register_profile("soak", max_examples=5_000, **_COMMON)
# A shell starts what runs in the background with SIGINT ignored, and all that it starts inherits that. Some
# tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

_SOAK = bool(os.environ.get("WORMFS_SOAK"))
settings.load_profile("soak" if _SOAK else "default")


@pytest.fixture(scope="session")
def soak_factor() -> int:
    """By how much a test that repeats itself multiplies its rounds: 1, or 20 under ``make soak``."""
    return 20 if _SOAK else 1


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the source tree."""
    return Path(__file__).resolve().parent.parent
