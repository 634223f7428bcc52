"""What the metrics are made of: the state of the daemon at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wormfs.daemon.measured import Measured
from wormfs.daemon.messages import Message
from wormfs.verify.summary import Summary


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """One backend. What is ``None`` or missing is not known now, and no number is made up for it."""

    kind: str
    """Its driver, as in the settings."""
    status: Message
    """What ``wormfs status`` shows of it."""
    measured: Measured | None
    """``None``: its worker is not there or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The daemon."""

    started_ns: int
    answering: bool
    """Whether the supervisor's event loop answered; without it nothing else is known."""
    backends: Mapping[str, BackendFacts] = field(default_factory=dict)
    verified: Mapping[str, Summary] = field(default_factory=dict)
    """Backends of which a verification is known."""
    log_lines: Mapping[str, int] = field(default_factory=dict)
    """Of the supervisor itself, by level."""
