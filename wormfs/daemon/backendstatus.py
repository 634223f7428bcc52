"""What the supervisor says of one backend when ``wormfs status`` asks.

Three sources: the settings, what the worker has told by itself, and its answer now. Only the last one is
missing when it hangs. docs/status.md lists every field; a name that stands there is an interface.
"""

from __future__ import annotations

from dataclasses import dataclass

from wormfs.config import BackendSettings
from wormfs.config.units import show_period
from wormfs.daemon.messages import Message
from wormfs.daemon.workers import BackendWorker, WorkerState, space_to_message

_MAX_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """How the question went."""

    state: WorkerState
    reason: str
    message: Message
    """Empty: the worker did not answer."""


def to_message(worker: BackendWorker, settings: BackendSettings, answer: Answer) -> Message:
    """Everything about one backend."""
    said = answer.message
    spool = said.get("spool")
    return {
        "state": answer.state.value,
        "reason": answer.reason,
        "type": settings.type,
        "description": settings.description,
        "pid": worker.pid,
        "restarts": worker.restarts,
        "mountpoint": worker.mountpoint,
        "guarantee": worker.guarantee,
        "retention": retention_to_message(settings),
        "space": space_to_message(worker.space) if worker.space is not None else None,
        "spool": {name: value for name, value in spool.items() if name != "latest_error"} if spool else None,
        "records": said.get("records"),
        "throughput": said.get("throughput"),
        "check": worker.check,
        "check_interval_s": settings.check_interval_s,
        "last_error": _last_error(worker, spool),
    }


def retention_to_message(settings: BackendSettings) -> Message:
    """How files are kept, as the settings say: ``mode`` names who could still erase a file early.

    ``compliance``: nobody; ``governance``: at the store, who has that right there, else ``wormfs erase``;
    ``standard``: an administrator, by ``wormfs erase``; ``scratch``: anybody who may write.
    """
    object_lock = getattr(settings, "object_lock", None)
    retention = settings.retention
    if settings.erase == "always":
        mode = "scratch"
    elif retention.compliance or object_lock == "compliance":
        mode = "compliance"
    else:
        mode = "governance" if object_lock == "governance" else "standard"
    return {
        "mode": mode,
        "period": "none" if mode == "scratch" else show_period(retention.period),
        "rules": len(retention.rules),
        "erase": settings.erase,
    }


def _last_error(worker: BackendWorker, spool: Message | None) -> Message | None:
    """The latest of all that went wrong since the daemon was started, over or not."""
    known = [worker.trouble] if worker.trouble is not None else []
    if spool and spool.get("latest_error"):
        at_ns, text = spool["latest_error"]
        known.append((at_ns, text))
    if not known:
        return None
    at_ns, text = max(known)
    return {"at_ns": at_ns, "text": text.removeprefix(f"{worker.name}: ")[:_MAX_TEXT]}
