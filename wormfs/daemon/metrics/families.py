"""From the facts to metric families: names, units and labels as Prometheus wants them.

A name that has been published is an interface: alert rules and dashboards of other people use it.
docs/metrics.md lists all of them, and a test holds it to a real scrape.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from wormfs import __version__
from wormfs.clock import NS_PER_S
from wormfs.daemon.metrics.facts import BackendFacts, Snapshot
from wormfs.daemon.workers import WorkerState
from wormfs.fuse.counters import BOUNDS_NS, FailureKind, OperationCount
from wormfs.model import FindingKind
from wormfs.verify.summary import Summary
from wormfs.worm.lifecycle import EntryState

_STATES: Final = tuple(state.value for state in WorkerState)
_BOUNDS: Final = (*(floatToGoString(ns / NS_PER_S) for ns in BOUNDS_NS), "+Inf")  # type: ignore[no-untyped-call]
_LOG_LEVELS: Final = ("warning", "error")
_WAITING_STATES: Final = tuple(state.value for state in EntryState if not state.ended)
_BACKEND: Final = ("backend",)


class SnapshotCollector(Collector):
    """Hands one snapshot to prometheus_client."""

    def __init__(self, snapshot: Snapshot):
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield from _daemon(snapshot)
        yield from _backends(snapshot.backends)
        yield from _operations(snapshot.backends)
        yield from _failures(snapshot.backends)
        yield from _spools(snapshot.backends)
        yield from _space(snapshot.backends)
        yield from _checks(snapshot.backends)
        yield from _records(snapshot.backends)
        yield from _verification(snapshot.verified)
        yield _log_lines(snapshot)


def _daemon(snapshot: Snapshot) -> Iterator[Metric]:
    build = InfoMetricFamily("wormfs_build", "The running program.")
    build.add_metric((), {"version": __version__, "python": platform.python_version()})
    yield build
    yield GaugeMetricFamily(
        "wormfs_start_time_seconds",
        "When the daemon was started, seconds since the epoch.",
        value=snapshot.started_ns / NS_PER_S,
    )
    yield GaugeMetricFamily(
        "wormfs_supervisor_up",
        "1 if the daemon's supervisor answers; without it nothing else is known.",
        value=int(snapshot.answering),
    )


def _backends(backends: Mapping[str, BackendFacts]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "wormfs_backend_up", "1 if the backend is mounted and its worker answers.", labels=_BACKEND
    )
    state = GaugeMetricFamily(
        "wormfs_backend_state", "1 for the state that the backend is in.", labels=("backend", "state")
    )
    info = InfoMetricFamily("wormfs_backend", "The driver of the backend.", labels=_BACKEND)
    restarts = CounterMetricFamily(
        "wormfs_worker_restarts",
        "How often the backend's worker died and was started again.",
        labels=_BACKEND,
    )
    for name, facts in backends.items():
        now = facts.status.get("state")
        up.add_metric((name,), int(now == WorkerState.READY.value and facts.measured is not None))
        for one in _STATES:
            state.add_metric((name, one), int(one == now))
        info.add_metric((name,), {"type": facts.kind})
        restarts.add_metric((name,), facts.status.get("restarts") or 0)
    yield from (up, state, info, restarts)


def _operations(backends: Mapping[str, BackendFacts]) -> Iterator[Metric]:
    durations = HistogramMetricFamily(
        "wormfs_operation_duration_seconds",
        "How long the mount took to answer requests of the kernel; a file is committed in flush.",
        labels=("backend", "operation"),
    )
    read = CounterMetricFamily("wormfs_read_bytes", "Bytes that were read from the mount.", labels=_BACKEND)
    written = CounterMetricFamily(
        "wormfs_written_bytes", "Bytes that were written to the mount.", labels=_BACKEND
    )
    for name, facts in backends.items():
        if facts.measured is None:
            continue
        counts = facts.measured.operations
        for operation, count in sorted(counts.items()):
            cumulated = itertools.accumulate(count.buckets)
            durations.add_metric(
                (name, operation), list(zip(_BOUNDS, cumulated, strict=True)), count.total_ns / NS_PER_S
            )
        read.add_metric((name,), _moved(counts, "read"))
        written.add_metric((name,), _moved(counts, "write"))
    yield from (durations, read, written)


def _moved(counts: Mapping[str, OperationCount], operation: str) -> int:
    return counts[operation].moved_bytes if operation in counts else 0


def _failures(backends: Mapping[str, BackendFacts]) -> Iterator[Metric]:
    labels = ("backend", "operation", "reason", "errno")
    errors = CounterMetricFamily(
        "wormfs_operation_errors",
        "Requests that were answered with an error, but for refusals.",
        labels=labels,
    )
    refusals = CounterMetricFamily(
        "wormfs_refusals", "Requests that the write-once rules forbid.", labels=labels
    )
    broken = CounterMetricFamily(
        "wormfs_io_errors", "Requests that were answered with 'Input/output error' (EIO).", labels=_BACKEND
    )
    for name, facts in backends.items():
        if facts.measured is None:
            continue
        failures: Mapping[FailureKind, int] = facts.measured.failures
        # From 0 on, unlike the others: what begins with its first error shows Prometheus no increase.
        broken.add_metric((name,), sum(times for kind, times in failures.items() if kind.errno == "EIO"))
        for kind, times in failures.items():
            family = refusals if kind.refused else errors
            family.add_metric((name, kind.operation, kind.reason, kind.errno), times)
    yield from (errors, refusals, broken)


def _spools(backends: Mapping[str, BackendFacts]) -> Iterator[Metric]:
    entries = GaugeMetricFamily(
        "wormfs_spool_entries", "Files on their way to the backend, by state.", labels=("backend", "state")
    )
    gauges = {
        "bytes": _gauge("wormfs_spool_bytes", "Bytes of the files on their way."),
        "waiting": _gauge("wormfs_spool_waiting_entries", "Closed files that the backend does not hold yet."),
        "oldest_s": _gauge(
            "wormfs_spool_oldest_waiting_seconds", "For how long the oldest of these waits; 0 if none does."
        ),
        "open_writers": _gauge("wormfs_open_writers", "Files that are open for writing."),
    }
    kept = {
        "entries": _gauge(
            "wormfs_quarantine_entries", "Files in quarantine, for which somebody must decide."
        ),
        "bytes": _gauge("wormfs_quarantine_bytes", "Bytes of the files in quarantine."),
    }
    for name, facts in backends.items():
        spool = facts.status.get("spool")
        if spool is None:
            continue
        for state in _WAITING_STATES:
            entries.add_metric((name, state), spool["entries"].get(state, 0))
        for key, gauge in gauges.items():
            gauge.add_metric((name,), spool[key] or 0)
        _add_known(kept, name, spool.get("quarantine"))
    yield from (entries, *gauges.values(), *kept.values())


def _space(backends: Mapping[str, BackendFacts]) -> Iterator[Metric]:
    gauges = {
        "total_bytes": _gauge(
            "wormfs_space_total_bytes", "Room in the backend, used or not, where it is known."
        ),
        "free_bytes": _gauge("wormfs_space_free_bytes", "Free room in the backend, where it is known."),
        "total_files": _gauge(
            "wormfs_space_total_files", "How many files the backend can hold, where it is known."
        ),
        "free_files": _gauge(
            "wormfs_space_free_files", "How many more files it can hold, where it is known."
        ),
    }
    for name, facts in backends.items():
        _add_known(gauges, name, facts.status.get("space"))
    yield from gauges.values()


def _checks(backends: Mapping[str, BackendFacts]) -> Iterator[Metric]:
    passed = _gauge("wormfs_check_ok", "1 if the backend did what it should when it was last tried out.")
    ended = _gauge("wormfs_check_timestamp_seconds", "When that was, since the epoch.")
    took = _gauge("wormfs_check_duration_seconds", "How long it took.")
    for name, facts in backends.items():
        check = facts.status.get("check")
        if check is not None:
            passed.add_metric((name,), int(check["ok"]))
            ended.add_metric((name,), check["at_ns"] / NS_PER_S)
            took.add_metric((name,), check["took_s"])
    yield from (passed, ended, took)


def _records(backends: Mapping[str, BackendFacts]) -> Iterator[Metric]:
    doubt = _gauge(
        "wormfs_clock_doubtful", "1 if retention does not believe the machine's clock: nothing expires."
    )
    trail = _gauge(
        "wormfs_audit_trail_writable", "0 if the audit trail cannot be written: nothing is erased."
    )
    for name, facts in backends.items():
        records = facts.status.get("records")
        if records is not None:
            doubt.add_metric((name,), int(bool((records.get("clock") or {}).get("doubt"))))
            trail.add_metric((name,), int(not records.get("audit_problem")))
    yield from (doubt, trail)


def _verification(verified: Mapping[str, Summary]) -> Iterator[Metric]:
    ended = _gauge(
        "wormfs_verification_end_timestamp_seconds",
        "When the last verification came to its end, since the epoch.",
    )
    oldest = _gauge(
        "wormfs_verification_oldest_file_timestamp_seconds",
        "When that file was found whole (or first seen) for which it is longest ago, since the epoch.",
    )
    files = _gauge("wormfs_verification_files", "How many files the last verification looked at.")
    damaged = _gauge("wormfs_damaged_files", "Files that verification found damaged; they are not served.")
    findings = GaugeMetricFamily(
        "wormfs_verification_findings", "What the last verification found.", labels=("backend", "kind")
    )
    for name, summary in verified.items():
        damaged.add_metric((name,), summary.damaged)
        if (last := summary.last) is None:
            continue
        ended.add_metric((name,), last.ended_ns / NS_PER_S)
        files.add_metric((name,), last.files)
        if last.oldest_ns is not None:
            oldest.add_metric((name,), last.oldest_ns / NS_PER_S)
        for kind in FindingKind:
            findings.add_metric((name, kind.value), last.findings.get(kind, 0))
    yield from (ended, oldest, files, damaged, findings)


def _log_lines(snapshot: Snapshot) -> Metric:
    lines = CounterMetricFamily(
        "wormfs_log_messages",
        "Lines of the log, those left out as repeats included; without a backend: of the supervisor.",
        labels=("backend", "level"),
    )
    for level in _LOG_LEVELS:
        lines.add_metric(("", level), snapshot.log_lines.get(level, 0))
        for name, facts in snapshot.backends.items():
            if facts.measured is not None:
                lines.add_metric((name, level), facts.measured.log_lines.get(level, 0))
    return lines


def _gauge(name: str, meaning: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, labels=_BACKEND)


def _add_known(
    gauges: Mapping[str, GaugeMetricFamily], backend: str, facts: Mapping[str, Any] | None
) -> None:
    for key, gauge in gauges.items():
        value = (facts or {}).get(key)
        if value is not None:
            gauge.add_metric((backend,), value)
