"""What Debian's own judge says of the package. The last of these tests: it has worked beside the others."""

from __future__ import annotations

import pytest

from tests.packages.conftest import Package

# Building and pip take long on a busy machine.
pytestmark = pytest.mark.timeout(900)


def test_lintian_finds_nothing(package: Package) -> None:
    """Neither error nor warning, but for what debian/wormfs.lintian-overrides names, with reasons."""
    said, _ = package.lintian.communicate(timeout=300)
    assert (package.lintian.returncode, said) == (0, "")
