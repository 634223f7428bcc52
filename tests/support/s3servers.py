"""Real S3 servers for tests: SeaweedFS and moto, each started once per test process, on loopback.

They end with the process that started them: at exit in order, and by SIGTERM from the kernel if it is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

ACCESS_KEY = "wormfs-tests"
SECRET_KEY = "not-a-secret-0123456789"
REGION = "us-east-1"
_MOTO = """
import io, sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_by_one(environ, start_response):
    # A request that does not come whole holds up nobody.
    environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    with turn:
        return [b"".join(moto(environ, start_response))]

run_simple("127.0.0.1", int(sys.argv[1]), one_by_one, threaded=True)
"""
"""moto's server, whose look for a name and whose storing are two steps: of those that race, two may win."""
_PATIENCE_S = 60.0
_PORTS = range(12_000, 32_000)
_PR_SET_PDEATHSIG = 1


@dataclass
class S3Server:
    """One server that runs. ``start`` and ``stop`` keep address and data."""

    command: list[str]
    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = os.environ | {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, preexec_fn=_die_with_parent,  # noqa: PLW1509 (one call into libc)
            )  # fmt: skip
        self._wait()

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(with_signal)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def remove(self) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, **settings: Any) -> Any:
        """A plain boto3 client, with no wormfs in sight."""
        return make_client(self.endpoint, **settings)

    def _wait(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        while not self._answers():
            assert self.process is not None
            assert self.process.poll() is None, (
                f"the server ended: {(self.directory / 'log').read_text()[-2000:]}"
            )
            assert time.monotonic() < until, f"no answer in {_PATIENCE_S} s: {self.command}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Ready is who takes a write: SeaweedFS answers before it has a volume."""
        try:
            client = self.client(timeout_s=5)
            with contextlib.suppress(
                client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists
            ):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            client.close()
        except Exception:  # noqa: BLE001 (anything but an answer is no answer)
            return False
        return True


def make_client(endpoint: str, timeout_s: float = 30.0) -> Any:
    """A plain boto3 client, as a program without wormfs would make it."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
        config=Config(
            retries={"total_max_attempts": 3, "mode": "standard"},
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            max_pool_connections=32,
            s3={"addressing_style": "path"},
        ),
    )


@functools.cache
def seaweedfs() -> S3Server:
    """SeaweedFS, shared by all tests of this process."""
    server = new_seaweedfs()
    server.start()
    return server


@functools.cache
def moto() -> S3Server:
    """moto's server, shared by all tests of this process."""
    directory = Path(tempfile.mkdtemp(prefix="wormfs-moto-"))
    (port,) = free_ports(1)
    command = [sys.executable, "-c", _MOTO, str(port)]
    server = S3Server(command, directory, port)
    atexit.register(server.remove)
    server.start()
    return server


def new_seaweedfs() -> S3Server:
    """A SeaweedFS of one's own, not started; removed at exit."""
    directory = Path(tempfile.mkdtemp(prefix="wormfs-seaweedfs-"))
    (directory / "data").mkdir()
    names = (
        "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "filer.port", "filer.port.grpc",
        "volume.port", "volume.port.grpc", "admin.port", "admin.port.grpc",
    )  # fmt: skip
    ports = free_ports(len(names))
    command = [
        _program("weed"), "mini", f"-dir={directory / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false",
        "-admin.ui=false",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]  # fmt: skip
    server = S3Server(command, directory, ports[0])
    atexit.register(server.remove)
    return server


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has now, and that no outgoing connection is given while a server that
    was killed is down: they lie below the kernel's own range."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = secrets.choice(_PORTS)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
        return found


def _program(name: str) -> str:
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{name} is missing: run scripts/install test"
    return str(path)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
