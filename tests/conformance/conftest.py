"""Every test here runs once per storage of ``drivers.STORAGES``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.drivers import FINAL, STORAGES, Storage
from wormfs.backends.base import Backend


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "storage" not in metafunc.fixturenames:
        return
    left_out: set[str] = set()
    if hasattr(metafunc.function, "removing"):
        left_out |= FINAL
    if metafunc.module.__name__.endswith("test_directories") and not os.environ.get("WORMFS_SOAK"):
        # Its directories and names are those of vsftpd, by the same code.
        left_out |= {"vsftpd-once"}
    metafunc.parametrize("storage", sorted(set(STORAGES) - left_out), indirect=True)


@pytest.fixture
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    storage = STORAGES[request.param](tmp_path)
    yield storage
    storage.remove()


@pytest.fixture
def backend(storage: Storage) -> Iterator[Backend]:
    backend = storage.backend()
    backend.start()
    yield backend
    backend.close()


@pytest.fixture
def other_host(storage: Storage, backend: Backend) -> Iterator[Backend]:
    """A second backend on the same storage, as another daemon has it."""
    other = storage.backend()
    other.start()
    yield other
    other.close()
