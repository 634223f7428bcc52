"""Starting a daemon: in this process, or in one of its own that reports back."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import trio

from wormfs.daemon import logs, mounts
from wormfs.daemon.notify import Notifier
from wormfs.daemon.refusal import CannotStart
from wormfs.daemon.state import LOG_NAME, StateDirectory
from wormfs.daemon.supervisor import Ending, Plan, Supervisor
from wormfs.errors import WormfsError

log = logging.getLogger(__name__)

_LOG_MODE = 0o640

Report = Callable[[dict[str, str]], None]


@dataclass(frozen=True, slots=True)
class Started:
    """How the start of a daemon in the background went."""

    pid: int
    refused: str = ""
    """Why it does not run at all; empty when it does."""
    missing: dict[str, str] = field(default_factory=dict)
    """Backends that are not mounted yet, with the reason; the daemon goes on trying."""


def run_here(plan: Plan, report: Report) -> Ending:
    """Be the daemon until it is stopped. ``report`` is told once which backends did not come up.

    Raises CannotStart.
    """
    state = StateDirectory.lock(plan.settings.state_directory)
    try:
        logs.set_up(logs.SUPERVISOR, plan.settings.log_level)
        return _supervise(plan, state, report)
    finally:
        state.close()


def run_in_background(plan: Plan) -> Started:
    """Start the daemon in a process of its own and wait until every backend is mounted or its time is over.

    Its log goes to ``wormfs.log`` in the state directory. Must be called while this process has no threads.
    """
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(here)
        _be_background(plan, there)
    os.close(there)
    with open(here, encoding="utf-8") as reports:
        line = reports.readline()
    if not line:
        return Started(pid, refused=f"it ended at once; see {plan.settings.state_directory / LOG_NAME}")
    report = json.loads(line)
    return Started(pid, refused=report["refused"], missing=report["missing"])


def _be_background(plan: Plan, report_fd: int) -> NoReturn:
    """The child: never returns to the caller's code, whatever happens."""
    status: int = Ending.FORCED
    told = False

    def tell(missing: dict[str, str], refused: str = "") -> None:
        nonlocal told
        if not told:
            told = True
            os.write(report_fd, json.dumps({"missing": missing, "refused": refused}).encode() + b"\n")
            os.close(report_fd)

    try:
        if not mounts.is_automount(os.path.realpath(plan.settings.mountpoint)):
            os.setsid()
        state = StateDirectory.lock(plan.settings.state_directory)
        _redirect(os.path.join(state.path, LOG_NAME))
        logs.set_up(logs.SUPERVISOR, plan.settings.log_level)
        status = _supervise(plan, state, tell)
        tell({}, refused="it was stopped while it started")
    except (CannotStart, WormfsError, OSError) as error:
        # Without its file the log would come out beside what the caller says of it.
        if log.hasHandlers():
            log.error("%s", error)
        tell({}, refused=str(error))
    except BaseException:
        log.exception("the daemon ends: nobody foresaw this")
    finally:
        logging.shutdown()
        os._exit(status)


def _redirect(log_path: str) -> None:
    log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _LOG_MODE)
    null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, target in ((null_fd, 0), (log_fd, 1), (log_fd, 2)):
        os.dup2(source, target)
    os.close(log_fd)
    os.close(null_fd)


def _supervise(plan: Plan, state: StateDirectory, report: Report) -> Ending:
    # Standing in a directory below the mountpoint would keep it busy for ever.
    os.chdir("/")
    supervisor = Supervisor(plan, state, Notifier.from_environment())
    return trio.run(partial(supervisor.run, report))
