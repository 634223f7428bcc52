"""Verification driven by plain test code, without command line or daemon."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wormfs.backends.base import Backend
from wormfs.clock import NS_PER_S, SystemClock, timestamp
from wormfs.model import Finding, FindingKind, Key
from wormfs.verify.catalog import Catalog, Run, catalog_path
from wormfs.verify.damage import DamageList
from wormfs.verify.request import Request
from wormfs.verify.run import Options, Verification
from wormfs.verify.trail import Trail

_ALL = Request()
_PLAIN = Options(jobs=2)


class SteppedClock(SystemClock):
    """A wall clock that the test sets; it goes on a microsecond at each look."""

    def __init__(self, now_ns: int = 1_700_000_000 * NS_PER_S):
        self.at_ns = now_ns

    def now_ns(self) -> int:
        self.at_ns += 1000
        return self.at_ns

    def advance(self, seconds: float) -> None:
        self.at_ns += round(seconds * NS_PER_S)


@dataclass
class Seen:
    """A watcher that remembers, and that can be told to break off after some files."""

    stop_after: int | None = None
    files: int = 0
    size_bytes: int = 0
    due: tuple[int, int] = (0, 0)
    found_now: list[tuple[FindingKind, bytes, bool]] = field(default_factory=list)
    times_mended: int = 0

    def begin(self, run: Run) -> None:
        pass

    def listed(self, files: int) -> None:
        pass

    def reading(self, files: int, size_bytes: int) -> None:
        self.due = (files, size_bytes)

    def read(self, size_bytes: int) -> None:
        self.size_bytes += size_bytes

    def examined(self, files: int) -> None:
        self.files += files
        if self.stop_after is not None and self.files >= self.stop_after:
            raise KeyboardInterrupt

    def found(self, finding: Finding, *, damaged: bool) -> None:
        self.found_now.append((finding.kind, finding.name, damaged))

    def mended(self) -> None:
        self.times_mended += 1


class Verifier:
    """Verifies one backend again and again, with one state directory and one audit trail."""

    def __init__(self, state: Path, backend: Backend, clock: SteppedClock | None = None):
        self.state = state
        self.backend = backend
        self.clock = clock or SteppedClock()
        self.trail = Trail(state / "trail.jsonl", lambda key: f"subject of {key.hex()}")
        self.run: Run | None = None
        self.seen = Seen()

    def verify(
        self,
        request: Request = _ALL,
        options: Options = _PLAIN,
        *,
        stop_after: int | None = None,
    ) -> dict[bytes, FindingKind]:
        """What was found, by name; one of a name."""
        self.seen = Seen(stop_after)
        with self.catalog() as catalog:
            self.run = Verification(
                self.backend, catalog, request, options, self.clock, self.seen, self.trail
            ).verify()
            findings = list(catalog.findings(self.run))
        self.details = {finding.name: finding.detail for finding in findings}
        return {finding.name: finding.kind for finding in findings}

    @contextlib.contextmanager
    def catalog(self) -> Iterator[Catalog]:
        with Catalog.open(catalog_path(self.state, self.backend.name), self.backend.name) as catalog:
            yield catalog

    def damaged(self) -> frozenset[Key]:
        return DamageList(self.state, self.backend.name).load()

    def say(self, event: str, key: Key) -> None:
        """A line of the audit trail."""
        line = {"v": 1, "at": timestamp(self.clock.now_ns()).replace("Z", ".5Z"), "event": event}
        with self.trail.path.open("a") as trail:
            trail.write(json.dumps(line | {"file": self.trail.subject(key)}) + "\n")
