"""What Debian's own judge says of the package. The last of these tests: it has worked beside the others."""

from __future__ import annotations

from tests.packages.conftest import Package


def test_lintian_finds_nothing(package: Package) -> None:
    """Neither error nor warning, but for what debian/wormfs.lintian-overrides names, with reasons."""
    said, _ = package.lintian.communicate(timeout=300)
    assert (package.lintian.returncode, said) == (0, "")
