"""Waiting for what the background check of a real daemon finds."""

from __future__ import annotations

from typing import Any

from tests.support.daemon import Daemon

OFTEN = {"check_interval": "1s"}
"""Settings of a backend that is checked as often as possible."""
_WAIT_S = 60.0


def wait_checks(daemon: Daemon, wanted: dict[str, bool]) -> dict[str, dict[str, Any]]:
    """Wait until the last check of each of these backends had that outcome; the checks."""
    found: dict[str, dict[str, Any]] = {}

    def are_so() -> bool:
        backends = daemon.status()["backends"]
        found.update((name, backends[name]["check"] or {}) for name in wanted)
        return {name: check.get("ok") for name, check in found.items()} == wanted

    daemon.wait_for(are_so, f"the checks say {wanted}", _WAIT_S)
    return found


def wait_check(daemon: Daemon, *, ok: bool, name: str = "archive") -> dict[str, Any]:
    """The same for one backend."""
    return wait_checks(daemon, {name: ok})[name]


def check_lines(daemon: Daemon) -> list[str]:
    """Lines of the log about checks: ``failed`` and ``passes``, in their order."""
    lines = [line for line in daemon.log_text().splitlines() if "the background check " in line]
    return ["failed" if "the background check failed at '" in line else "passes" for line in lines]
