"""What ``wormfs verify`` shows while it works and at the end, and what it tells the daemon."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from wormfs.audit import AuditLog, Event
from wormfs.cli.bar import Bar
from wormfs.cli.output import age_text, console, count_text, plain, size_text
from wormfs.clock import NS_PER_S, SystemClock
from wormfs.daemon import verifying
from wormfs.model import Finding, FindingKind, Key, show
from wormfs.verify.catalog import Catalog, Run, catalog_path
from wormfs.verify.request import Request
from wormfs.verify.run import Options, Verification
from wormfs.verify.trail import Trail

if TYPE_CHECKING:
    from rich.console import Console

    from wormfs.backends.base import Backend
    from wormfs.config import Settings

_ROWS = 200
"""Rows that are laid out at once."""
_MOST_ROWS = 1000
"""Nobody reads more in a terminal; JSON has all."""
_LEAST_JOBS = 4
_TO_DO = {
    FindingKind.ALTERED: "not served any more; restore with extended attributes, then verify again",
    FindingKind.MISSING: "restore with extended attributes, then verify again; --accept if it shall be gone",
    FindingKind.UNRECORDED: "restore with extended attributes, or move it out and copy it in by the mount",
    FindingKind.UNEXPECTED: "the mount does not show it; look at it and remove it at the backend",
    FindingKind.UNREADABLE: "look at the disk or the connection, then verify again",
}
"""docs/verification.md says it at length."""


def verify_backend(settings: Settings, name: str, request: Request, options: Options, report: Report) -> bool:
    """Verify one backend and report it; whether something was found. Raises as ``Verification.verify``."""
    clock = SystemClock()
    with (
        Catalog.open(catalog_path(settings.state_directory, name), name) as catalog,
        verifying.audited(settings, name, clock) as audit,
        verifying.started(settings, name) as backend,
        Bar() as bar,
    ):
        options = dataclasses.replace(options, jobs=options.jobs or _jobs(backend))
        watcher = _Watcher(settings, name, audit, bar)
        trail = Trail(audit.path, audit.subject)
        try:
            run = Verification(backend, catalog, request, options, clock, watcher, trail).verify()
        except KeyboardInterrupt:
            bar.close()
            click.echo(f"{name}: interrupted; the same command goes on where it was", err=True)
            raise
        finally:
            watcher.tell_daemon()
        counts = catalog.counts(run)
        found: dict[str, int] = {kind.value: count for kind, count in counts.items()}
        audit.note(Event.VERIFIED, None, files=run.files, bytes=run.size_bytes, **found)
        bar.close()
        report.backend(name, run, counts, catalog.findings(run), clock.now_ns())
    return bool(counts)


def _jobs(backend: Backend) -> int:
    return min(backend.traits.connections, max(_LEAST_JOBS, os.cpu_count() or 1))


class _Watcher:
    """Hands everything on: to the bar, to the audit trail, and to the daemon."""

    def __init__(self, settings: Settings, name: str, audit: AuditLog, bar: Bar):
        self._settings = settings
        self._name = name
        self._audit = audit
        self._bar = bar
        self._untold = False
        self._lock = threading.Lock()
        self._listed = 0

    def begin(self, run: Run) -> None:
        self._audit.note(Event.VERIFYING, run=run.number, resumed=run.resumed)
        if run.resumed:
            done = f"{count_text(run.files, 'file', 'files')}, {size_text(run.size_bytes)}"
            self._bar.say(
                f"{self._name}: going on after an interruption, {done} were done (--restart begins anew)"
            )

    def listed(self, files: int) -> None:
        self._listed += files
        self._bar.wait(f"{self._name}: listing, {count_text(self._listed, 'file', 'files')}")

    def reading(self, files: int, size_bytes: int) -> None:
        self._bar.begin(self._name, files, size_bytes)

    def read(self, size_bytes: int) -> None:
        with self._lock:
            self._bar.bytes_done(size_bytes)

    def examined(self, files: int) -> None:
        with self._lock:
            self._bar.files_done(files)

    def found(self, finding: Finding, *, damaged: bool) -> None:
        self._audit.note(Event.FOUND, Key(finding.name), kind=finding.kind.value)
        if damaged:
            self._untold = True
            self.tell_daemon()

    def mended(self) -> None:
        self._untold = True
        self.tell_daemon()

    def tell_daemon(self) -> None:
        """At once: until the daemon knows, it serves what is damaged."""
        if not self._untold:
            return
        self._untold = False
        problem = verifying.tell_damage(self._settings, self._name)
        if problem is not None:
            self._bar.say(
                f"{self._name}: the daemon could not be told which files are damaged ({problem}); "
                "it reads the list when it starts"
            )


class Report:
    """What is printed on standard output."""

    def __init__(self, *, as_json: bool):
        self._as_json = as_json
        self._backends = 0
        self._passed = True

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Around all backends. JSON is written bit by bit: there may be a million findings."""
        if not self._as_json:
            yield
            return
        click.echo('{"backends": {', nl=False)
        yield
        click.echo(f'\n}}, "passed": {json.dumps(self._passed)}}}')

    def failed(self, name: str, why: str) -> None:
        """A backend that could not be verified."""
        self._passed = False
        if self._as_json:
            self._begin_json(name)
            click.echo(json.dumps({"error": why}), nl=False)
        click.echo(f"wormfs: {why}", err=True)

    def backend(
        self,
        name: str,
        run: Run,
        counts: Mapping[FindingKind, int],
        findings: Iterator[Finding],
        ended_ns: int,
    ) -> None:
        """A backend that was verified."""
        self._passed = self._passed and not counts
        if self._as_json:
            self._json(name, run, counts, findings, ended_ns)
        else:
            print_backend(name, run, counts, findings, ended_ns, console())

    def _begin_json(self, name: str) -> None:
        click.echo(("," if self._backends else "") + f"\n{json.dumps(name)}: ", nl=False)
        self._backends += 1

    def _json(
        self,
        name: str,
        run: Run,
        counts: Mapping[FindingKind, int],
        findings: Iterator[Finding],
        ended_ns: int,
    ) -> None:
        self._begin_json(name)
        facts = {
            "files": run.files,
            "bytes": run.size_bytes,
            "started_at_ns": run.started_ns,
            "ended_at_ns": ended_ns,
            "resumed": run.resumed,
            "counts": {kind.value: counts.get(kind, 0) for kind in FindingKind},
        }
        click.echo(json.dumps(facts)[:-1] + ', "findings": [', nl=False)
        for number, finding in enumerate(findings):
            click.echo((",\n  " if number else "\n  ") + json.dumps(_finding_json(finding)), nl=False)
        click.echo("]}", nl=False)


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "path": show(finding.name),
        "path_base64": base64.b64encode(finding.name).decode("ascii"),
        "detail": finding.detail,
    }


def print_backend(
    name: str,
    run: Run,
    counts: Mapping[FindingKind, int],
    findings: Iterator[Finding],
    ended_ns: int,
    screen: Console,
) -> None:
    """What people see of a backend that was verified: a line, the findings, what to do."""
    from rich.table import Table
    from rich.text import Text

    took = age_text((ended_ns - run.started_ns) / NS_PER_S)
    done = f"{count_text(run.files, 'file', 'files')}, {size_text(run.size_bytes)} read in {took}"
    found = ", ".join(f"{counts[kind]} {kind.value}" for kind in FindingKind if counts.get(kind))
    screen.print(f"{name}: {done}: {found or 'all is well'}", soft_wrap=True)
    shown = 0
    while some := list(islice(findings, min(_ROWS, _MOST_ROWS - shown))):
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=shown == 0, pad_edge=False)
        table.add_column("Found", width=max(len(kind.value) for kind in FindingKind), no_wrap=True)
        table.add_column("Path, and what", overflow="fold")
        for finding in some:
            style = "bold red" if finding.kind in (FindingKind.ALTERED, FindingKind.MISSING) else "yellow"
            what = Text(show(finding.name)).append("\n" + plain(finding.detail), "dim")
            table.add_row(Text(finding.kind.value, style), what)
        screen.print(table)
        shown += len(some)
    untold = sum(counts.values()) - shown
    if untold > 0:
        screen.print(f"and {untold} more: --json tells all of them")
    for kind in counts:
        screen.print(f"{kind.value}: {_TO_DO[kind]}", soft_wrap=True)
