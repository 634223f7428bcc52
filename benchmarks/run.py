"""Measures wormfs beside the raw directory, passthrough_ll and rclone: ``python benchmarks/run.py --help``.

One run, all targets on the same disk, rounds interleaved (A B C, A B C), so that a noisy machine is noisy
for all. Exit status: 0 measured (whatever the verdicts), 1 something could not be measured, 2 wrong call,
130 interrupted. It leaves no mount, no process and no file behind.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

if not __package__:  # called as a script, as the README says
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from benchmarks import items, programs, report, sandbox, targets
from benchmarks.results import Results, Sample
from benchmarks.sandbox import BenchError, Impossible

_ROUNDS, _QUICK_ROUNDS = 5, 3
_WARM_GIB, _QUICK_WARM_GIB = 6, 3
_DISK_IN_MEMORY = ("tmpfs", "ramfs", "overlay")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[1])
    known = ", ".join(item.name for item in items.all_items(items.FULL))
    parser.add_argument("--quick", action="store_true", help="smaller files, fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"items, or how their names begin: {known}")
    parser.add_argument(
        "--targets", metavar="A,B", help=f"of {','.join(targets.KINDS)} (default: all there are)"
    )
    parser.add_argument("--rounds", type=int, help=f"default {_ROUNDS}, quick {_QUICK_ROUNDS}")
    parser.add_argument("--size-mib", type=int, help="file of the sequential items (default 512, quick 128)")
    parser.add_argument(
        "--work-dir", type=Path, default=Path(tempfile.gettempdir()), help="a fresh one in here"
    )
    parser.add_argument(
        "--warm-gib", type=int, help="memory that is touched first (default 6, quick 3; 0: none)"
    )
    arguments = parser.parse_args(argv)
    asked = arguments.targets.split(",") if arguments.targets else []
    unknown = [name for name in asked if name not in targets.KINDS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(targets.KINDS)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not arguments.work_dir.is_dir():
        parser.error(f"--work-dir: no such directory: {arguments.work_dir}")
    for prefix in arguments.only or []:
        if not any(item.name.startswith(prefix) for item in items.all_items(items.FULL)):
            parser.error(f"--only: no item begins with {prefix!r}; there are {known}")
    return arguments


def _chosen_items(arguments: argparse.Namespace, sizes: items.Sizes) -> list[items.Item]:
    every = items.all_items(sizes)
    if not arguments.only:
        return every
    exact = {item.name for item in every}
    return [
        item
        for item in every
        if any(item.name == n or (n not in exact and item.name.startswith(n)) for n in arguments.only)
    ]


def _available_targets(asked: str | None, work: Path, console: Console) -> list[targets.Target]:
    """Sets the targets up. One that was asked for by name and is not there is an error, else a remark."""
    found: list[targets.Target] = []
    for name in asked.split(",") if asked else targets.KINDS:
        try:
            target = targets.KINDS[name](work)
        except BenchError as error:
            if asked:
                raise
            console.print(f"{name}: not measured: {error}", style="yellow", markup=False)
            continue
        console.print(f"{name}: {target.version}", markup=False)
        found.append(target)
    return [*found, items.Cpu(work)]


def _sample(bench: items.Bench, item: items.Item, target: targets.Target) -> dict[str, float]:
    """One sample from a target that was just started; stops and cleans it whatever happens."""
    os.sync()  # what earlier samples left to be written is not for this one to pay
    try:
        item.before(bench, target)
        target.start()
        bench.runner.call(["mkdir", item.here(target)], target.kill, timeout_s=60)
        return item.measure(bench, target)
    finally:
        target.stop()
        shutil.rmtree(item.underneath(target), ignore_errors=True)


class _Measuring:
    """One run: takes all samples and keeps them."""

    def __init__(
        self, bench: items.Bench, found: list[targets.Target], rounds: int, console: Console
    ) -> None:
        self.results = Results()
        self._bench = bench
        self._targets = found
        self._rounds = rounds
        self._console = console

    def item(self, item: items.Item) -> None:
        """All rounds of one item. A target that fails is left out of the rest of it."""
        for line in item.lines:
            self.results.lines[line.key] = line
        remaining = [target for target in self._targets if target.name in item.targets]
        for target in list(remaining):
            if not self._attempt(item, target, 0):
                remaining.remove(target)
        for round_number in range(1, min(self._rounds, item.max_rounds) + 1):
            for target in list(remaining):
                if not self._attempt(item, target, round_number):
                    remaining.remove(target)
        for target in self._targets:
            for left in target.backing.glob(f"{item.name}-source"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _attempt(self, item: items.Item, target: targets.Target, round_number: int) -> bool:
        """One sample, or the preparation (round 0). False if it failed; the reason is among the results."""
        try:
            if round_number == 0:
                item.prepare(self._bench, target)
                return True
            values = _sample(self._bench, item, target)
        except Impossible as reason:
            sample = Sample(item.name, target.name, round_number, impossible=str(reason))
            self.results.samples.append(sample)
            return False
        except (BenchError, OSError) as error:
            self._console.print(f"{item.name}, {target.name}: {error}", style="red", markup=False)
            self.results.samples.append(Sample(item.name, target.name, round_number, error=str(error)))
            return False
        self.results.samples.append(Sample(item.name, target.name, round_number, values))
        shown = "  ".join(f"{key.split('.')[1]} {value:,.1f}" for key, value in values.items())
        self._console.print(f"{item.name} {round_number} {target.name}: {shown}", style="dim", markup=False)
        return True


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: in order. A second one must not disturb the first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _work_directory(base: Path, console: Console) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix="wormfs-bench-", dir=base.resolve()))
    kind = sandbox.file_system_type(work)
    if kind in _DISK_IN_MEMORY:
        console.print(f"{work} is on {kind}: not a disk, fsync says nothing there", style="yellow")
    try:
        yield work
    finally:
        sandbox.detach_below(work)
        shutil.rmtree(work, ignore_errors=True)
        if work.exists():
            console.print(f"left behind: {work}", style="red", markup=False)


def _run(arguments: argparse.Namespace, console: Console) -> int:
    sizes = items.QUICK if arguments.quick else items.FULL
    if arguments.size_mib is not None:
        sizes = dataclasses.replace(sizes, stream_bytes=arguments.size_mib * items.MIB)
    rounds = arguments.rounds or (_QUICK_ROUNDS if arguments.quick else _ROUNDS)
    warm_gib = arguments.warm_gib
    if warm_gib is None:
        warm_gib = _QUICK_WARM_GIB if arguments.quick else _WARM_GIB
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with _work_directory(arguments.work_dir, console) as work:
        binaries = work / "bin"
        binaries.mkdir()
        programs.compile_all(binaries)
        found = _available_targets(arguments.targets, work, console)
        bench = items.Bench(work, programs.Runner(binaries), sizes)
        measuring = _Measuring(bench, found, rounds, console)
        with programs.Warmth(binaries, warm_gib << 30):
            for item in _chosen_items(arguments, sizes):
                measuring.item(item)
        results = measuring.results
        report.show(results, sizes.stream_bytes, report.wide_console())
        if arguments.json is not None:
            versions = {target.name: target.version for target in found if target.name != "cpu"}
            run = {
                "started": started,
                "rounds": rounds,
                "sizes": dataclasses.asdict(sizes),
                "targets": versions,
            }
            report.write_json(arguments.json, results, run, work, sizes.stream_bytes)
    return 1 if results.errors else 0


def main(argv: Sequence[str]) -> int:
    """Measures and reports. Returns the exit status."""
    arguments = _arguments(argv)
    console = Console(stderr=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        sandbox.private_mounts()
        sandbox.many_open_files()
        return _run(arguments, console)
    except BenchError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted", style="yellow")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
