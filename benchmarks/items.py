"""The items that are measured. Each knows its lines, which targets it is for, and how to take one sample.

All timed work is done by the C programs (and cp and ls); all values that are compared are speeds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.programs import Runner
from benchmarks.results import Better, Line
from benchmarks.sandbox import BenchError, Impossible, memory_mib, open_files_allowed, reset_peak
from benchmarks.targets import KERNEL, NAMES, Target

MIB = 1 << 20
SMALL_BYTES = 4096
_BLOCKS = {"8k": 8192, "1m": MIB}
_BLOCK_NAMES = {"8k": "8 KiB", "1m": "1 MiB"}
_SHELL_PROGRAM = Path(__file__).resolve().parent / "durable.sh"
_PRIMING_FILES = 20
_SPARE_FILES = 1000


@dataclass(frozen=True)
class Sizes:
    """How much is written, read and listed."""

    stream_bytes: int
    small_files: int
    stat_names: int
    list_names: int
    durable_files: int
    memory_bytes: int


FULL = Sizes(512 * MIB, 1000, 10_000, 100_000, 800, 1024 * MIB)
QUICK = Sizes(128 * MIB, 1000, 10_000, 20_000, 240, 64 * MIB)
MEMORY_WRITERS = 16


@dataclass(frozen=True)
class Bench:
    """What an item needs of the run."""

    work: Path
    runner: Runner
    sizes: Sizes


class Item:
    """One thing to measure. A sample is: ``before``, target started, ``measure``, target stopped."""

    targets: Sequence[str] = NAMES
    max_rounds = 1000

    def __init__(self, name: str, lines: Sequence[Line]) -> None:
        self.name = name
        self.lines = lines

    def prepare(self, bench: Bench, target: Target) -> None:
        """Once per target before the first round; the target is stopped."""

    def before(self, bench: Bench, target: Target) -> None:
        """Before each sample; the target is stopped."""

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        """Takes one sample on the started target; an empty directory ``here(target)`` is there."""
        raise NotImplementedError

    def here(self, target: Target) -> Path:
        """This item's directory of one sample, as applications see it."""
        return target.shown / f"{self.name}-sample"

    def underneath(self, target: Target) -> Path:
        """The same directory on the disk below."""
        return target.backing / f"{self.name}-sample"


class SequentialWrite(Item):
    """One new file in calls of one size, timed in phases."""

    def __init__(self, block: str, sync: str) -> None:
        suffix = "-fsync" if sync == "fsync" else ""
        name = f"write-{block}{suffix}"
        what = f"write {_BLOCK_NAMES[block]} calls{', fsync at the end' if suffix else ''}"
        lines = [Line(f"{name}.whole", f"{what}: open to close", "MiB/s")]
        if not suffix:
            lines.insert(0, Line(f"{name}.calls", f"{what}: the write calls", "MiB/s"))
        super().__init__(name, lines)
        self._block_bytes = _BLOCKS[block]
        self._sync = sync

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        size_bytes = bench.sizes.stream_bytes
        path = self.here(target) / "file"
        command: list[str | Path] = [
            "stream",
            "write",
            path,
            str(self._block_bytes),
            str(size_bytes),
            self._sync,
        ]
        took = bench.runner.measure(command, target.kill)
        values = {f"{self.name}.whole": size_bytes / MIB / took["whole_s"]}
        if self._sync == "none":
            values[f"{self.name}.calls"] = size_bytes / MIB / took["write_s"]
        return values


class PlacedWrite(Item):
    """8 KiB writes with the program on the first core and the daemon on the same or the second one.

    Where the scheduler puts the two decides more than what the daemon does; so they are put somewhere.
    """

    targets = ("wormfs", "passthrough")

    def __init__(self, apart: bool) -> None:
        name = f"write-8k-{'apart' if apart else 'together'}"
        where = "on two cores" if apart else "on one core"
        super().__init__(
            name, [Line(f"{name}.calls", f"write 8 KiB calls, program and daemon {where}", "MiB/s")]
        )
        self._apart = apart

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        daemon = target.worker_pid()
        everywhere = os.sched_getaffinity(0)
        if daemon is None or len(everywhere) < 2:
            raise Impossible("needs a daemon and two cores")
        first, second = sorted(everywhere)[:2]
        for thread in _request_threads(daemon, target.name):
            os.sched_setaffinity(thread, {second if self._apart else first})
        size_bytes = bench.sizes.stream_bytes
        path = self.here(target) / "file"
        os.sched_setaffinity(0, {first})  # the program inherits it
        try:
            took = bench.runner.measure(
                ["stream", "write", path, str(_BLOCKS["8k"]), str(size_bytes), "none"], target.kill
            )
        finally:
            os.sched_setaffinity(0, everywhere)
        return {f"{self.name}.calls": size_bytes / MIB / took["write_s"]}


def _request_threads(daemon: int, target: str) -> list[int]:
    """The threads that answer requests. Of wormfs it is one; those that it starts later inherit its place."""
    return [daemon] if target == "wormfs" else [int(name) for name in os.listdir(f"/proc/{daemon}/task")]


class SequentialRead(Item):
    """One file, twice: right after the mount was started (its own cache is empty) and once more.

    The page cache of the disk below is warm for ``warm`` and empty for ``cold``.
    """

    targets = (*NAMES, KERNEL)

    def __init__(self, block: str, below: str) -> None:
        name = f"read-{block}" + ("-cold" if below == "cold" else "")
        what = f"{_BLOCK_NAMES[block]} calls, page cache below {below}"
        lines = [Line(f"{name}.first", f"first read, {what}", "MiB/s")]
        if below == "warm":
            lines.append(Line(f"{name}.second", f"second read, {what}", "MiB/s"))
        super().__init__(name, lines)
        self._block_bytes = _BLOCKS[block]
        self._below = below

    def prepare(self, bench: Bench, target: Target) -> None:
        # Through the target itself: what wormfs reads should be a file that wormfs committed.
        size = str(bench.sizes.stream_bytes)
        target.start()
        try:
            path = target.shown / f"{self.name}-source"
            bench.runner.measure(["stream", "write", path, str(MIB), size, "fsync"], target.kill)
            if target.name == "rclone":
                _wait_for_size(target.backing / path.name, bench.sizes.stream_bytes)
        finally:
            target.stop()
        os.sync()

    def before(self, bench: Bench, target: Target) -> None:
        if self._below == "cold":
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
        else:
            path = target.backing / f"{self.name}-source"
            bench.runner.measure(["stream", "read", path, str(MIB)], target.kill)

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        path = target.shown / f"{self.name}-source"
        values = {}
        for line in self.lines:
            took = bench.runner.measure(["stream", "read", path, str(self._block_bytes)], target.kill)
            if took["bytes"] != bench.sizes.stream_bytes:
                raise BenchError(f"{path}: read {took['bytes']:.0f} bytes of {bench.sizes.stream_bytes}")
            values[line.key] = bench.sizes.stream_bytes / MIB / took["read_s"]
        return values


class SmallCopy(Item):
    """``cp -r`` of a directory of small files."""

    def __init__(self) -> None:
        super().__init__("cp", [Line("cp.rate", "cp -r of small files of 4 KiB", "files/s")])

    def prepare(self, bench: Bench, target: Target) -> None:
        source = bench.work / "cp-source"
        if not source.exists():
            source.mkdir()
            count = str(bench.sizes.small_files)
            bench.runner.measure(["names", "make", source, count, str(SMALL_BYTES)], target.kill)

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        command: list[str | Path] = ["cp", "-r", bench.work / "cp-source", self.here(target) / "copy"]
        start_s = time.perf_counter()
        bench.runner.call(command, target.kill)
        return {"cp.rate": bench.sizes.small_files / (time.perf_counter() - start_s)}


class StatNames(Item):
    """One stat(2) for each name of a directory that was there before the mount, twice."""

    def __init__(self) -> None:
        lines = [Line(f"stat.{n}", f"stat of 10,000 names, {n} time", "names/s") for n in ("first", "second")]
        super().__init__("stat", lines)

    def prepare(self, bench: Bench, target: Target) -> None:
        _make_names(bench, target, "stat-source", bench.sizes.stat_names)

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        count = bench.sizes.stat_names
        command: list[str | Path] = ["names", "stat", target.shown / "stat-source", str(count)]
        return {
            line.key: count / bench.runner.measure(command, target.kill)["seconds"] for line in self.lines
        }


class ListNames(Item):
    """``ls -l`` and ``ls -f`` of a large directory that was there before the mount."""

    def __init__(self, count: int) -> None:
        lines = [
            Line(f"ls.{n}", f"ls -l of {count:,} names, {n} time", "names/s") for n in ("first", "second")
        ]
        lines.append(Line("ls.unsorted", f"ls -f of {count:,} names, after ls -l", "names/s"))
        lines.append(Line("ls.growth", "growth of the worker meanwhile", "MiB", Better.LOWER))
        super().__init__("ls", lines)

    def prepare(self, bench: Bench, target: Target) -> None:
        allowed = open_files_allowed()
        if target.name == "passthrough" and allowed < bench.sizes.list_names + _SPARE_FILES:
            raise Impossible(
                f"it keeps a file open for each name, and only {allowed} are allowed (ulimit -Hn)"
            )
        _make_names(bench, target, "ls-source", bench.sizes.list_names)

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        worker = target.worker_pid()
        if worker is not None:
            reset_peak(worker)
            before_mib = memory_mib(worker, "VmRSS")
        values = {}
        for key, option in (("ls.first", "-l"), ("ls.second", "-l"), ("ls.unsorted", "-f")):
            start_s = time.perf_counter()
            output = bench.runner.call(["ls", option, target.shown / "ls-source"], target.kill)
            values[key] = bench.sizes.list_names / (time.perf_counter() - start_s)
            shown = sum("name-" in line for line in output.splitlines())
            if shown != bench.sizes.list_names:
                raise BenchError(f"ls {option} showed {shown} names of {bench.sizes.list_names}")
        if worker is not None:
            values["ls.growth"] = memory_mib(worker, "VmHWM") - before_mib
        return values


class DurableFiles(Item):
    """Small files, each durable before the next: write, fsync, link, fsync below; close on wormfs."""

    targets = ("raw", "wormfs")

    def __init__(self, writers: int) -> None:
        name = f"durable-{writers}"
        who = f"durable files of 4 KiB, {writers} writer{'s' if writers > 1 else ''}"
        lines = [
            Line(f"{name}.rate", who, "files/s"),
            Line(f"{name}.p50", f"{who}: median of one file", "ms", Better.LOWER),
            Line(f"{name}.p99", f"{who}: 99 of 100 within", "ms", Better.LOWER),
        ]
        super().__init__(name, lines)
        self._writers = writers

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        way = "link" if target.name == "raw" else "close"
        each = bench.sizes.durable_files // (1 if self._writers == 1 else self._writers // 2)
        prime, timed = self.here(target) / "prime", self.here(target) / "timed"
        bench.runner.call(["mkdir", prime, timed], target.kill)
        tail = [str(_PRIMING_FILES), str(SMALL_BYTES)]
        bench.runner.measure(["durable", way, prime, str(self._writers), *tail], target.kill)
        command: list[str | Path] = ["durable", way, timed, str(self._writers), str(each), str(SMALL_BYTES)]
        took = bench.runner.measure(command, target.kill)
        self._prove_committed(target, self._writers * each)
        return {
            f"{self.name}.rate": took["files"] / took["seconds"],
            f"{self.name}.p50": took["p50_ms"],
            f"{self.name}.p99": took["p99_ms"],
        }

    def _prove_committed(self, target: Target, expected: int) -> None:
        """A commit that came after close would be no commit: look below, at once, at names and sizes."""
        with os.scandir(self.underneath(target) / "timed") as entries:
            sizes = [entry.stat().st_size for entry in entries if entry.name.startswith("w")]
        if sizes != [SMALL_BYTES] * expected:
            whole = sizes.count(SMALL_BYTES)
            raise BenchError(
                f"{target.name}: {whole} of {expected} files are on the disk after the last close"
            )


class DurableByShell(DurableFiles):
    """The same by a shell program on both sides: what a script of an administrator would see."""

    def __init__(self, writers: int) -> None:
        super().__init__(writers)
        self.name = f"durable-sh-{writers}"
        who = f"the same by a shell program, {writers} writer{'s' if writers > 1 else ''}"
        self.lines = [Line(f"{self.name}.rate", who, "files/s")]

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        way = "link" if target.name == "raw" else "close"
        each = max(1, bench.sizes.durable_files // 4 // self._writers)
        timed = self.here(target) / "timed"
        bench.runner.call(["mkdir", timed], target.kill)
        command: list[str | Path] = [
            _SHELL_PROGRAM,
            way,
            timed,
            str(self._writers),
            str(each),
            str(SMALL_BYTES),
        ]
        took = json.loads(bench.runner.call(command, target.kill))
        self._prove_committed(target, self._writers * each)
        return {f"{self.name}.rate": took["files"] / took["seconds"]}


class WorkerMemory(Item):
    """Many large files written at once; the peak of the process that serves them."""

    targets = ("wormfs", "passthrough")
    max_rounds = 1

    def __init__(self, each_bytes: int) -> None:
        who = f"{MEMORY_WRITERS} writers of {each_bytes // MIB} MiB each"
        lines = [
            Line("memory.peak", f"{who}: peak memory of the worker", "MiB", Better.LOWER),
            Line("memory.speed", f"{who}: all of them together", "MiB/s"),
        ]
        super().__init__("memory", lines)

    def before(self, bench: Bench, target: Target) -> None:
        need_bytes = MEMORY_WRITERS * bench.sizes.memory_bytes
        usage = shutil.disk_usage(bench.work)
        # wormfs refuses writes below a reserve of its own (5 %), and this disk is not ours alone.
        if usage.free < need_bytes * 5 // 4 + usage.total // 20:
            raise Impossible(f"too little space for {need_bytes // MIB} MiB in {bench.work}")

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        worker = target.worker_pid()
        if worker is None:
            raise BenchError(f"{target.name} has no worker to look at")
        total_bytes = MEMORY_WRITERS * bench.sizes.memory_bytes
        tail = [str(MEMORY_WRITERS), str(MIB), str(bench.sizes.memory_bytes)]
        took = bench.runner.measure(["stream", "writers", self.here(target), *tail], target.kill)
        if target.worker_pid() != worker:
            raise BenchError("the worker was restarted meanwhile")
        return {
            "memory.peak": memory_mib(worker, "VmHWM"),
            "memory.speed": total_bytes / MIB / took["seconds"],
        }


class HashSpeed(Item):
    """SHA-256 on one core, in pieces of 1 MiB, through the library that the daemon uses as well."""

    targets = ("cpu",)

    def __init__(self) -> None:
        super().__init__("sha256", [Line("sha256.speed", "SHA-256 on one core, 1 MiB pieces", "MiB/s")])

    def measure(self, bench: Bench, target: Target) -> dict[str, float]:
        piece = os.urandom(MIB)
        digest = hashlib.sha256()
        count = 1024
        start_s = time.perf_counter()
        for _ in range(count):
            digest.update(piece)
        return {"sha256.speed": count / (time.perf_counter() - start_s)}


class Cpu(Target):
    """Stands in the column of what uses no file system at all."""

    name = "cpu"


def _make_names(bench: Bench, target: Target, name: str, count: int) -> None:
    directory = target.backing / name
    directory.mkdir()
    bench.runner.measure(["names", "make", directory, str(count), "0"], target.kill)
    os.sync()


def _wait_for_size(path: Path, size_bytes: int) -> None:
    """rclone uploads some seconds after close."""
    deadline = time.monotonic() + 120
    while not path.exists() or path.stat().st_size != size_bytes:
        if time.monotonic() > deadline:
            raise BenchError(f"{path} did not arrive")
        time.sleep(0.2)


def all_items(sizes: Sizes) -> list[Item]:
    """Every item, in the order in which it is measured. Cold reads need root."""
    items: list[Item] = [HashSpeed()]
    items += [SequentialWrite(block, sync) for block in _BLOCKS for sync in ("none", "fsync")]
    items += [PlacedWrite(apart) for apart in (False, True)]
    items += [SequentialRead(block, "warm") for block in _BLOCKS]
    if os.geteuid() == 0:
        items.append(SequentialRead("1m", "cold"))
    items += [SmallCopy(), StatNames(), ListNames(sizes.list_names)]
    items += [DurableFiles(1), DurableFiles(8), DurableByShell(1), DurableByShell(8)]
    items += [WorkerMemory(sizes.memory_bytes)]
    return items
