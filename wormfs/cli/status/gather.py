"""What is known of a daemon, within a second, whatever hangs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wormfs import threads
from wormfs.clock import SystemClock
from wormfs.config import Settings
from wormfs.daemon.control import ControlClient
from wormfs.errors import WormfsError
from wormfs.verify.summary import Summary, summarize

ANSWER_S: Final = 2.0
"""For the daemon itself, which waits less than half a second for its workers."""
_VERIFICATION_S: Final = 0.2
"""For the state directory's disk, all backends together."""

Facts = dict[str, Any]
"""One backend, as docs/status.md lists it."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """The daemon and its backends at one moment."""

    now_ns: int
    mountpoint: str
    pid: int | None = None
    """``None``: no daemon answers; ``error`` says why."""
    error: str = ""
    backends: dict[str, Facts] = field(default_factory=dict)


def gather(settings: Settings) -> Gathered:
    """Ask the daemon, and the catalogs of verification. Blocks for at most 2.2 s; raises nothing foreseen."""
    now_ns = SystemClock().now_ns()
    try:
        found = ControlClient(settings.state_directory).request({"request": "status"}, timeout_s=ANSWER_S)
        if not found.get("ok"):
            raise WormfsError(str(found.get("error", "the daemon did not say why")))
    except WormfsError as error:
        return Gathered(now_ns, str(settings.mountpoint), error=str(error))
    backends: dict[str, Facts] = found["backends"]
    verified = _verifications(settings.state_directory, list(backends))
    for name, facts in backends.items():
        facts["verification"] = verified.get(name, {"error": "the state directory's disk does not answer"})
    return Gathered(now_ns, str(found["mountpoint"]), pid=found["pid"], backends=backends)


def _verifications(state_directory: Path, names: list[str]) -> dict[str, Facts | None]:
    found: dict[str, Facts | None] = {}

    def look() -> None:
        for name in names:
            found[name] = _verification(state_directory, name)

    try:
        threads.within(_VERIFICATION_S, look)
    except TimeoutError:
        return dict(found)
    return found


def _verification(state_directory: Path, name: str) -> Facts | None:
    """What the last verification said; ``None`` if there was none, or nobody knows of it any more."""
    try:
        summary = summarize(state_directory, name)
    except WormfsError as error:
        return {"error": str(error)}
    return None if summary is None else _to_facts(summary)


def _to_facts(summary: Summary) -> Facts:
    last = summary.last
    return {
        "ended_at_ns": last.ended_ns if last else None,
        "files": last.files if last else None,
        "bytes": last.size_bytes if last else None,
        "whole_backend": last.whole_backend if last else None,
        "findings": {kind.value: count for kind, count in last.findings.items()} if last else None,
        "oldest_at_ns": last.oldest_ns if last else None,
        "unfinished": summary.unfinished,
        "damaged": summary.damaged,
    }
