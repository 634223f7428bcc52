"""One box for all tests here: booting is quick, but not free. Each test has the service to itself."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.box import DISK, Box
from tests.systemd.service import MOUNT, Service, install, prepare

_DAEMON = re.compile(r"\bwormfs\0mount\b|\bwormfs\.daemon\.worker\b")


@pytest.fixture(scope="session")
def box() -> Iterator[Box]:
    # Not below pytest's own directory: nspawn would show its mode 0700.
    base = Path(tempfile.mkdtemp(prefix="wormfs-box-"))
    with Box(base, prepare=prepare) as booted:
        install(booted)
        yield booted
    shutil.rmtree(base)


@pytest.fixture
def service(box: Box) -> Iterator[Service]:
    """The installed service, stopped and without files; and so it is left."""
    yield Service(box)
    box.run(
        "systemctl stop wormfs; systemctl disable -q wormfs; systemctl reset-failed;"
        f"rm -rf /var/lib/wormfs /etc/wormfs/credentials/*; find {DISK} -mindepth 1 -delete",
        timeout_s=90,
    )
    left = [pid for pid in box.pids() if _DAEMON.search(_command(pid))]
    assert (left, Service(box).mounted()) == ([], [])
    assert box.run(f"ls -A {MOUNT}").stdout == ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
