"""Measures ``wormfs verify`` beside the disk and SHA-256 alone: ``python benchmarks/verify.py --help``.

One local backend with many small files and a large one, stored by the driver with their records. In each
round: all files read and thrown away (the disk), SHA-256 of bytes in memory on one core and on all,
``sha256sum`` of all files, and ``wormfs verify`` with an empty catalog. The page cache is emptied before
whatever reads (root only). Exit status: 0 measured, 1 something failed, 2 wrong call. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # called as a script, as the README says
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from benchmarks.report import machine
from benchmarks.sandbox import BenchError
from wormfs.backends import registry
from wormfs.backends.base import Backend
from wormfs.model import DirectoryAttributes, FileAttributes, Key, Record

_MIB = 1 << 20
_PIECE_BYTES = 4 * _MIB
_HASHED_BYTES = 1 << 30
_PER_DIRECTORY = 100
_GOAL = 0.8


@dataclass(frozen=True)
class Round:
    """Seconds for all bytes, speeds in MiB/s, memory in MiB."""

    disk: float
    sha256_one_core: float
    sha256_all_cores: float
    sha256sum: float
    verify: float
    verify_peak_memory: float


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--files", type=int, default=10_000, help="small files (default 10000)")
    parser.add_argument("--small-bytes", type=int, default=4096, help="size of each (default 4096)")
    parser.add_argument("--large-mib", type=int, default=4096, help="size of the large file (default 4096)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument(
        "--work-dir", type=Path, default=Path(tempfile.gettempdir()), help="a fresh one in here"
    )
    return parser.parse_args(argv)


class Archive:
    """A local backend, filled, with settings for the command."""

    def __init__(self, work: Path) -> None:
        self.data = work / "data"
        self.state = work / "state"
        self.settings = work / "wormfs.yaml"
        self.data.mkdir()
        self.state.mkdir(mode=0o700)
        self.settings.touch(mode=0o600)
        self.settings.write_text(
            f'mountpoint: "{work / "mnt"}"\nstate_directory: "{self.state}"\n'
            f'backends:\n  bench: {{type: local, path: "{self.data}"}}\n'
        )
        self.size_bytes = 0

    def fill(self, files: int, small_bytes: int, large_mib: int) -> None:
        backend = registry.create("bench", "local", {"path": str(self.data)})
        backend.start()
        for number in range(files):
            if number % _PER_DIRECTORY == 0:
                folder = Key(b"job-%d" % (number // _PER_DIRECTORY))
                backend.make_directory(folder, DirectoryAttributes())
            self._store(backend, Key(folder + b"/%d.zip" % number), small_bytes)
        self._store(backend, Key(b"large.zip"), large_mib * _MIB)
        backend.close()
        os.sync()

    def _store(self, backend: Backend, key: Key, size_bytes: int) -> None:
        spool = self.data / ".wormfs" / "bench-spool"
        digest = hashlib.sha256()
        with spool.open("w+b", buffering=0) as file:
            for offset in range(0, size_bytes, _PIECE_BYTES):
                piece = secrets.token_bytes(min(_PIECE_BYTES, size_bytes - offset))
                digest.update(piece)
                file.write(piece)
            attributes = FileAttributes(0o640, 0, 0, 0, 0)
            record = Record(secrets.token_hex(16), digest.hexdigest(), size_bytes, attributes, 1, 0, "bench")
            transfer = backend.begin(key)
            transfer.prepare(file, record)
            transfer.publish(file, record)
        spool.unlink()
        self.size_bytes += size_bytes


def _cold() -> None:
    os.sync()
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def _timed(action: Callable[[], object]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


def _read_by(archive: Archive, program: str) -> float:
    """Seconds that ``program`` takes for all files, one process after another."""
    _cold()
    listing = "find . -path ./.wormfs -prune -o -type f -print0"
    command = ["sh", "-c", f"{listing} | xargs -0 {program} > /dev/null"]
    return _timed(lambda: subprocess.run(command, cwd=archive.data, check=True))


def _hash_speed(cores: int) -> float:
    """MiB/s of so many threads together."""
    piece = secrets.token_bytes(_PIECE_BYTES)

    def work() -> None:
        digest = hashlib.sha256()
        for _ in range(_HASHED_BYTES // len(piece)):
            digest.update(piece)

    with ThreadPoolExecutor(cores) as pool:
        took_s = _timed(lambda: [future.result() for future in [pool.submit(work) for _ in range(cores)]])
    return cores * _HASHED_BYTES / _MIB / took_s


def _verify(archive: Archive, files: int) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of the command, from its start to its end."""
    shutil.rmtree(archive.state / "verify", ignore_errors=True)
    _cold()
    command = [sys.executable, "-m", "wormfs", "verify", "--config", str(archive.settings), "--json"]
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=Path(__file__).resolve().parents[1], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    took_s = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    found = json.loads(output)
    if process.returncode != 0 or found["backends"]["bench"]["files"] != files + 1:
        raise BenchError(f"wormfs verify: exit {process.returncode}: {output[:500]}")
    return took_s, usage.ru_maxrss / 1024


def _round(archive: Archive, files: int) -> Round:
    size_mib = archive.size_bytes / _MIB
    cores = len(os.sched_getaffinity(0))
    disk_s = _read_by(archive, "cat")
    one, every = _hash_speed(1), _hash_speed(cores)
    sha256sum_s = _read_by(archive, "sha256sum")
    verify_s, peak_mib = _verify(archive, files)
    return Round(size_mib / disk_s, one, every, size_mib / sha256sum_s, size_mib / verify_s, peak_mib)


def _show(rounds: Sequence[Round], console: Console) -> dict[str, float]:
    """The table, and the ratios for the goal."""
    median = {name: statistics.median(asdict(one)[name] for one in rounds) for name in asdict(rounds[0])}
    table = Table(title="MiB/s; memory in MiB", title_justify="left")
    for name in ("what", "median", "rounds"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for name, value in median.items():
        every = ", ".join(f"{asdict(one)[name]:,.0f}" for one in rounds)
        table.add_row(name.replace("_", " "), f"{value:,.0f}", every)
    console.print(table)
    ratios = {
        "one_core": median["verify"] / min(median["disk"], median["sha256_one_core"]),
        "all_cores": median["verify"] / min(median["disk"], median["sha256_all_cores"]),
    }
    for name, ratio in ratios.items():
        verdict = "reached" if ratio >= _GOAL else "missed"
        words = name.replace("_", " ")
        console.print(
            f"verify / the lower of disk and SHA-256 on {words}: {ratio:.2f} (goal {_GOAL}): {verdict}"
        )
    return ratios


def main(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    work = Path(tempfile.mkdtemp(prefix="wormfs-verify-", dir=arguments.work_dir))
    try:
        archive = Archive(work)
        took_s = _timed(lambda: archive.fill(arguments.files, arguments.small_bytes, arguments.large_mib))
        print(f"{arguments.files} small files and one of {arguments.large_mib} MiB stored in {took_s:.0f} s")
        rounds = [_round(archive, arguments.files) for _ in range(arguments.rounds)]
        ratios = _show(rounds, Console())
        if arguments.json:
            run = {key: value for key, value in vars(arguments).items() if not isinstance(value, Path)}
            document = {
                "schema": 1,
                "run": run,
                "machine": machine(work),
                "rounds": [asdict(one) for one in rounds],
                "ratios": ratios,
            }
            arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    except (BenchError, OSError, subprocess.CalledProcessError) as error:
        print(f"benchmarks/verify.py: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
