"""wormfs over a bucket beside boto3 itself, rclone mount and s3fs, on one SeaweedFS on loopback.

    .venv/bin/python -m benchmarks.s3 --only write --targets boto3,wormfs --gib 2

Run as root. All targets have stored a file when close returns: rclone without its write cache, s3fs always.
Each sample is one line: item, target, seconds, rate, and the ratio to boto3.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from botocore.credentials import Credentials

from tests.support import s3servers
from wormfs.backends.s3.options import S3Options
from wormfs.backends.s3.quick import Quick

GIB = 1 << 30
BUCKET = "bench"
LISTED = "listed"
ITEMS = ("write", "read", "small", "list")
TARGETS = ("boto3", "wormfs", "rclone", "s3fs")
SMALL_FILES = 1000
SMALL_WRITERS = Path(__file__).with_name("small_writers.py")
WRITERS = 8
_LISTED = 100_000
_PATIENCE_S = 60.0


class Bench:
    """One server, one directory, and the mounts on it."""

    def __init__(self, work: Path, gib: float, listed: int) -> None:
        self.work = work
        self.size = int(gib * GIB)
        self.listed = listed
        self.server = s3servers.new_seaweedfs()
        self.server.start()
        self.client = self.server.client()
        self.client.create_bucket(Bucket=BUCKET)
        self.source = work / "source"

    def make_source(self) -> None:
        with self.source.open("wb") as file:
            for _ in range(self.size >> 20):
                file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())

    # Mounts

    @contextlib.contextmanager
    def mounted(self, target: str, folder: str | None = None) -> Iterator[Path]:
        """A folder of the bucket as a directory; each target's own, if none is named."""
        mountpoint = self.work / f"mnt-{target}"
        mountpoint.mkdir(exist_ok=True)
        command = {"wormfs": self._wormfs, "rclone": self._rclone, "s3fs": self._s3fs}[target](
            mountpoint, folder or target
        )
        shown = mountpoint / "bench" if target == "wormfs" else mountpoint
        with (self.work / f"{target}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            until = time.monotonic() + _PATIENCE_S
            while not _mounted(shown):
                assert process.poll() is None, f"{target} ended: see {log.name}"
                assert time.monotonic() < until, f"{target} did not mount"
                time.sleep(0.05)
            yield shown
        finally:
            if target != "wormfs":
                subprocess.run(["umount", str(mountpoint)], check=False)
            process.terminate()
            process.wait(_PATIENCE_S)

    def _wormfs(self, mountpoint: Path, folder: str) -> list[str]:
        config = self.work / "wormfs.yaml"
        backend = {
            "type": "s3",
            "bucket": BUCKET,
            "prefix": folder,
            "endpoint": self.server.endpoint,
            "access_key": s3servers.ACCESS_KEY,
            "secret_key": s3servers.SECRET_KEY,
            "spool_reserve": "0",
        }
        content = {
            "mountpoint": str(mountpoint),
            "state_directory": str(self.work / "state"),
            "backends": {"bench": backend},
        }
        config.write_text(yaml.safe_dump(content))
        config.chmod(0o600)
        return [sys.executable, "-m", "wormfs", "mount", "--config", str(config)]

    def _rclone(self, mountpoint: Path, folder: str) -> list[str]:
        config = self.work / "rclone.conf"
        config.write_text(
            f"[s]\ntype = s3\nprovider = SeaweedFS\nendpoint = {self.server.endpoint}\n"
            f"access_key_id = {s3servers.ACCESS_KEY}\nsecret_access_key = {s3servers.SECRET_KEY}\n"
        )
        program = Path(sys.executable).parent / "rclone"
        # Without its cache: with it, close returns before anything is at the store.
        return [
            str(program), "--config", str(config), "mount", f"s:{BUCKET}/{folder}", str(mountpoint),
            "--vfs-cache-mode", "off",
        ]  # fmt: skip

    def _s3fs(self, mountpoint: Path, folder: str) -> list[str]:
        password = self.work / "s3fs.password"
        password.write_text(f"{s3servers.ACCESS_KEY}:{s3servers.SECRET_KEY}\n")
        password.chmod(0o600)
        self.client.put_object(Bucket=BUCKET, Key=f"{folder}/", Body=b"")
        options = f"url={self.server.endpoint},use_path_request_style,passwd_file={password}"
        return ["s3fs", f"{BUCKET}:/{folder}", str(mountpoint), "-f", "-o", options]

    # What is measured, in seconds

    def write(self, target: str) -> float:
        if target == "boto3":
            return _timed(lambda: self.client.upload_file(str(self.source), BUCKET, "boto3/large"))
        with self.mounted(target) as shown:
            took = _timed(lambda: _copy(self.source, shown / "large"))
        stored = self.client.head_object(Bucket=BUCKET, Key=f"{target}/large")["ContentLength"]
        assert stored == self.size, f"{target}: {stored} bytes are at the store when close has returned"
        return took

    def read(self, target: str) -> float:
        copy = self.work / "copy"
        if target == "boto3":
            took = _timed(lambda: self.client.download_file(BUCKET, "boto3/large", str(copy)))
        else:
            with self.mounted(target) as shown:
                took = _timed(lambda: _copy(shown / "large", copy))
        assert copy.stat().st_size == self.size
        copy.unlink()
        return took

    def small(self, target: str) -> float:
        if target == "boto3":
            content = os.urandom(4096)

            def put(number: int) -> None:
                self.client.put_object(Bucket=BUCKET, Key=f"boto3/small/{number}", Body=content)

            with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
                return _timed(lambda: list(pool.map(put, range(SMALL_FILES))))
        with self.mounted(target) as shown:
            small = shown / "small"
            small.mkdir()
            # A program of its own: wormfs looks at the writer at each close, and we have servers as children.
            words = (sys.executable, SMALL_WRITERS, small, small, SMALL_FILES, WRITERS, 4096)
            return _timed(lambda: subprocess.run(list(map(str, words)), check=True))

    def list(self, target: str) -> float:
        if target == "boto3":
            return _timed(self._paginate)
        with self.mounted(target, LISTED) as shown:
            return _timed(lambda: _expect(len(os.listdir(shown / "many")), self.listed))

    def make_listed(self) -> None:
        """The same names for all. They go the driver's short way: boto3 would need three times as long."""
        quick = Quick(
            S3Options(bucket=BUCKET, endpoint=self.server.endpoint),
            Credentials(s3servers.ACCESS_KEY, s3servers.SECRET_KEY),
            s3servers.REGION,
            connect_timeout_s=5.0,
        )
        empty = hashlib.sha256().hexdigest()

        def put(number: int) -> None:
            quick.put(f"{LISTED}/many/name-{number:06}", b"", {}, empty)

        with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(put, range(self.listed), chunksize=100):
                pass
        quick.close()

    def _paginate(self) -> None:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{LISTED}/many/")
        _expect(sum(len(page["Contents"]) for page in pages), self.listed)


def _timed(action: Callable[[], Any]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _expect(found: int, wanted: int) -> None:
    assert found == wanted, f"{found} names instead of {wanted}"


def _copy(source: Path, target: Path) -> None:
    with source.open("rb", buffering=0) as reading, target.open("xb", buffering=0) as writing:
        while data := reading.read(1 << 20):
            assert writing.write(data) == len(data)


def _mounted(path: Path) -> bool:
    return any(line.split()[1] == str(path) for line in Path("/proc/mounts").read_text().splitlines())


def _report(item: str, target: str, took: float, base: float | None, bench: Bench) -> None:
    rate = {
        "write": f"{bench.size / took / (1 << 20):.0f} MiB/s",
        "read": f"{bench.size / took / (1 << 20):.0f} MiB/s",
        "small": f"{SMALL_FILES / took:.0f} files/s",
        "list": f"{bench.listed / took:.0f} names/s",
    }[item]
    ratio = f"  {base / took:.2f} x boto3" if base else ""
    print(f"{item:6} {target:7} {took:8.2f} s  {rate:>14}{ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(ITEMS), help="items, with commas")
    parser.add_argument(
        "--targets", default=",".join(TARGETS), help="with commas; boto3 is what is compared with"
    )
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--listed", type=int, default=_LISTED)
    arguments = parser.parse_args()
    items, targets = arguments.only.split(","), arguments.targets.split(",")
    work = Path(tempfile.mkdtemp(prefix="wormfs-bench-s3-"))
    bench = Bench(work, arguments.gib, arguments.listed)
    try:
        if {"write", "read"} & set(items):
            bench.make_source()
        if "list" in items:
            bench.make_listed()
        for item in items:
            if item == "read" and "write" not in items:
                for target in targets:
                    bench.write(target)
            base: float | None = None
            for target in targets:
                took = getattr(bench, item)(target)
                base = took if target == "boto3" else base
                _report(item, target, took, base, bench)
    finally:
        bench.server.remove()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
