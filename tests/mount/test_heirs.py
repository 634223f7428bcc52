"""Writers that inherited the file: how they end counts as if they had opened it."""

from __future__ import annotations

import time

import pytest

from tests.mount.test_descriptors import gone, whole
from tests.support.tools import Place, run


@pytest.mark.row("writer-killed")
def test_a_background_writer_is_killed_after_its_parent_has_ended(place: Place) -> None:
    pid = place.data / "pid"
    writer = f"sh -c 'echo $$ > {pid}; echo half; exec sleep 60' >&3"
    run("sh", "-c", f"exec 3>f; ({writer}) > /dev/null 2>&1 & exit 0", cwd=place.path)
    deadline = time.monotonic() + 10
    while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    # The whole family that has it: the shell in between and the one that writes.
    run("sh", "-c", f"kill -9 $(ps -o ppid= -p $(cat {pid})) $(cat {pid}); rm {pid}")
    gone(place, b"half\n")


@pytest.mark.row("writer-killed")
def test_a_program_is_killed_and_its_shell_goes_on(place: Place) -> None:
    run("sh", "-c", "{ sh -c 'echo half; kill -9 $$'; echo more; } > f; exit 0", cwd=place.path)
    gone(place, b"half\nmore\n")


def test_a_command_that_fails_is_nothing_special(place: Place) -> None:
    run("sh", "-c", "{ sh -c 'echo one; exit 3'; grep -s x /dev/null; echo two; } > f", cwd=place.path)
    whole(place, b"one\ntwo\n")


def test_a_background_writer_that_ends_well(place: Place) -> None:
    run("sh", "-c", "exec 3>f; (sleep 0.3; echo late >&3) > /dev/null 2>&1 & exit 0", cwd=place.path)
    whole(place, b"late\n")
