"""The background check of a mounted server that goes away, hangs and comes back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.storages_ftp import FtpStorage
from tests.ftp.test_mount import Mount, mounted
from tests.support import ftpservers
from tests.support.faultproxy import BlackHole, Refuse
from tests.support.ftpproxy import FtpProxy
from tests.support.health import OFTEN, check_lines, wait_check

__all__ = ["mounted"]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FtpStorage]:
    made = storages_ftp.vsftpd(tmp_path)
    yield made
    made.remove()


def test_a_server_that_goes_away_or_hangs_turns_red_and_green_again(
    storage: FtpStorage, mounted: Mount
) -> None:
    with FtpProxy(storage.port) as proxy:
        daemon = mounted(storage, port=proxy.port, timeout="2s", connections=2, **OFTEN)
        wait_check(daemon, ok=True)
        # Checks and commits side by side, with few connections for both.
        for number in range(20):
            path = daemon.mountpoint / "archive" / f"f{number}"
            subprocess.run(["cp", "/etc/hostname", path], check=True, timeout=60)
        for fault in (Refuse(), BlackHole()):
            proxy.control.add(fault)
            proxy.cut()
            failed = wait_check(daemon, ok=False)
            assert failed["advice"] and failed["failing_since_ns"]
            done = daemon.run("status")
            assert done.returncode == 2 and "archive: critical: the check failed at '" in done.stdout
            proxy.clear()
            wait_check(daemon, ok=True)
        found = daemon.status()
        assert found["backends"]["archive"]["guarantee"] == "atomic"
        assert found["backends"]["archive"]["spool"]["waiting"] == 0
        assert check_lines(daemon) == ["failed", "passes"] * 2
        assert ftpservers.PASSWORD not in daemon.log_text() + daemon.run("status", "--json").stdout
    assert storage.visible() == {f"f{number}".encode() for number in range(20)}
    assert [name for name in storage.hidden() if name.startswith("s/")] == [], "each tidies up"
