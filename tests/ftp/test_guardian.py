"""No server outlives a test run that is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.ftpservers import PATIENCE_S, REPOSITORY, Kind

_RUN = """
import ftplib, shutil, sys
from tests.support.ftpservers import PASSWORD, USER, FtpServer, Kind
server = FtpServer(Kind(sys.argv[1]))
client = ftplib.FTP()
client.connect("127.0.0.1", server.port)
client.login(USER, PASSWORD)
print(server.home, *server.pids(), flush=True)
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("kind", Kind)
def test_a_server_ends_with_the_run_that_started_it(kind: Kind) -> None:
    run = subprocess.Popen(
        [sys.executable, "-B", "-c", _RUN, kind.value],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None
    home, *words = run.stdout.readline().split()
    server, *children = [int(word) for word in words]
    try:
        assert alive(server)
        # One that only looked at the password has ended by now.
        pids = [server, *filter(alive, children)]
    finally:
        run.kill()
        run.communicate()
        subprocess.run(["rm", "-r", home], check=True)
    until = time.monotonic() + PATIENCE_S
    while any(map(alive, pids)):
        assert time.monotonic() < until, f"{kind} lives on"
        time.sleep(0.01)
