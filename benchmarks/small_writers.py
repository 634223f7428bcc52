"""Writes small files with a few threads and waits until all are stored: PLACE STORED FILES WRITERS BYTES.

``STORED``: where they appear at the server. A program of its own, with the standard library only.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
import time
from pathlib import Path

_PATIENCE_S = 120


def main() -> None:
    place, stored = Path(sys.argv[1]), Path(sys.argv[2])
    files, writers, size_bytes = map(int, sys.argv[3:])
    content = os.urandom(size_bytes)

    def work(writer: int) -> None:
        for number in range(writer, files, writers):
            (place / f"file-{number:04}").write_bytes(content)

    with concurrent.futures.ThreadPoolExecutor(writers) as pool:
        list(pool.map(work, range(writers)))
    until = time.monotonic() + _PATIENCE_S
    while sum(path.stat().st_size == size_bytes for path in stored.iterdir()) < files:
        if time.monotonic() > until:
            raise SystemExit(f"{place}: files are missing at the server")
        time.sleep(0.005)


if __name__ == "__main__":
    main()
