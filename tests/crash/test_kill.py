"""kill -9 of a worker at every durable step, and of worker or whole daemon at random moments under load."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.crash.real import examine, kill_family, wait_settled, wait_until, worker_pids, writers
from tests.support.daemon import Daemon, daemons
from wormfs import durability

__all__ = ["daemons"]

# Under soak it takes hours.
pytestmark = pytest.mark.timeout(6 * 3600 if os.environ.get("WORMFS_SOAK") else 300)

KILLED_WRITER = r"""
import os, signal, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
os.write(fd, b"half of it")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("step", [one for one in durability.STEPS if one.startswith(("spool.", "local."))])
def test_kill_at_every_durable_step(
    step: str, count: int, daemons: Callable[..., Daemon], tmp_path_factory: pytest.TempPathFactory
) -> None:
    daemon = daemons()
    # Immutable, or one of the steps would not be reached. And only what does not become a record at once
    # needs a durable promise that it will.
    settle = "50ms" if step == "spool.sealed-synced" else "0s"
    daemon.write_config(
        {
            "archive": daemon.local(
                "archive", immutable=True, empty_grace="0s", spool_reserve="0", settle=settle
            )
        }
    )
    daemon.start(wait=True, **{durability.CRASH_VARIABLE: f"{step}:{count}"})
    first = worker_pids(daemon)
    try:
        with writers(daemon.mountpoint / "archive", daemon.base / "logs") as load:
            if step.startswith("spool.quarantine"):
                for number in range(count):
                    path = daemon.mountpoint / "archive" / f"killed-{number}"
                    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False)
            else:
                load.start(1, "first")
                load.wait()
            # The step was reached: the worker that began is dead.
            wait_until(lambda: not set(first) & set(worker_pids(daemon)))
            kill_family(daemon)
            daemon.start()
            load.start(2, "after", limit=5)
            load.wait()
            examine(daemon, load.logged())
            if step.startswith("spool.quarantine"):
                kept = list((daemon.data() / ".wormfs").glob("spool/*/quarantine/*.data"))
                assert [path.read_bytes() for path in kept] == [b"half of it"] * count
    finally:
        daemon.clean_up()
        subprocess.run(["chattr", "-R", "-i", str(daemon.data())], check=False, capture_output=True)


def _kill_under_load(daemon: Daemon, kill: Callable[[], None], rounds: int) -> None:
    """Eight writers until the kill ends them, again and again; then look at everything."""
    chance = random.Random(3)
    with writers(daemon.mountpoint / "archive", daemon.base / "logs") as load:
        for number in range(rounds):
            begun = load.stored_so_far()
            load.start(8, str(number))
            # Not in their start: a few files have gone through.
            wait_until(lambda begun=begun: load.stored_so_far() > begun)
            time.sleep(chance.uniform(0, 0.4))
            kill()
            load.wait()
        logged = load.logged()
    assert len(logged.stored) >= rounds
    examine(daemon, logged)


def test_kill_the_worker_at_random_moments(daemons: Callable[..., Daemon], soak_factor: int) -> None:
    """The supervisor brings a new worker each time; it takes up what the last one left."""
    daemon = daemons()
    daemon.write_config({"archive": daemon.local("archive", empty_grace="0s", spool_reserve="0")})
    daemon.start()
    deaths = itertools.count(1)

    def kill() -> None:
        (pid,) = worker_pids(daemon)
        os.kill(pid, signal.SIGKILL)
        if next(deaths) % 4 == 0:
            # Pauses between starts grow: begin anew.
            assert daemon.stop() == 0
            daemon.start()
        wait_until(lambda: worker_pids(daemon) not in ([pid], []))
        wait_settled(daemon)

    _kill_under_load(daemon, kill, rounds=10 if soak_factor == 1 else 500)


def test_kill_the_whole_daemon_at_random_moments(daemons: Callable[..., Daemon], soak_factor: int) -> None:
    """As when the power fails, but the page cache stays; the next start clears the dead mounts."""
    daemon = daemons()
    daemon.write_config({"archive": daemon.local("archive", empty_grace="0s", spool_reserve="0")})
    daemon.start()

    def kill() -> None:
        kill_family(daemon)
        daemon.start()

    _kill_under_load(daemon, kill, rounds=5 * soak_factor)
