"""rclone's S3 server: it ignores conditional writes, as several stores do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.s3servers import ACCESS_KEY, SECRET_KEY, S3Server, _program, free_ports


@contextlib.contextmanager
def rclone(top: Path) -> Iterator[str]:
    """The endpoint of a server with a bucket named ``bucket``."""
    data = top / "rclone"
    (data / "bucket").mkdir(parents=True)
    (port,) = free_ports(1)
    command = [
        _program("rclone"), "--config", "/dev/null", "serve", "s3", "--addr", f"127.0.0.1:{port}",
        "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(data),
    ]  # fmt: skip
    server = S3Server(command, top, port)
    server.start()
    try:
        yield server.endpoint
    finally:
        server.stop()
