"""What systemd itself says of the shipped units."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.box import Box

MAX_EXPOSURE = 3.0


def units(repository: Path) -> list[str]:
    names = [
        path.name for path in (repository / "systemd").iterdir() if path.suffix in (".service", ".timer")
    ]
    assert len(names) >= 5
    return sorted(names)


def test_systemd_finds_nothing_wrong_with_them(box: Box, repository: Path) -> None:
    for unit in units(repository):
        done = box.run(f"systemd-analyze verify /etc/systemd/system/{unit}")
        # Unknown keys are told of, with exit status 0.
        assert (unit, done.stdout + done.stderr) == (unit, "")


def test_they_are_protected_as_far_as_systemd_can_measure(repository: Path) -> None:
    for unit in units(repository):
        if unit.endswith(".service"):
            done = subprocess.run(
                [
                    "systemd-analyze",
                    "security",
                    "--offline=true",
                    "--json=short",
                    repository / "systemd" / unit,
                ],
                capture_output=True,
                text=True,
                check=True,
            )
            assert json.loads(done.stdout)
            overall = subprocess.run(
                ["systemd-analyze", "security", "--offline=true", "--no-pager",
                 "--threshold", str(int(MAX_EXPOSURE * 10)), repository / "systemd" / unit],
                capture_output=True,
                text=True,
                check=False,
            )  # fmt: skip
            assert (unit, overall.returncode) == (unit, 0), overall.stdout.splitlines()[-1]
