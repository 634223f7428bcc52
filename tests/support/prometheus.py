"""Debian's prometheus and promtool for tests; ``scripts/install test`` unpacks them to ``.venv/servers``."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "monitoring" / "wormfs.rules.yml"
DASHBOARD = REPOSITORY / "monitoring" / "wormfs-dashboard.json"
START_S = 30.0


def program(name: str) -> str:
    """A program of the unpacked package. A missing one fails the test that needs it."""
    path = REPOSITORY / ".venv" / "servers" / "usr" / "bin" / name
    assert path.exists(), f"{path} is missing: run scripts/install test"
    return str(path)


def promtool(*arguments: object, text: str = "") -> str:
    """What it says; it must not fail."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def scrape(port: int, timeout_s: float = 5.0) -> str:
    """The metrics of a daemon, as text."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=timeout_s) as response:
        return str(response.read().decode())


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Each sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Prometheus:
    """A server that scrapes one target every second. Made by ``prometheus``."""

    def __init__(self, port: int):
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API. Raises AssertionError with what it says of a failure."""
        url = f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert answer["status"] == "success" and not answer.get("warnings"), answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found


@contextlib.contextmanager
def prometheus(directory: Path, target_port: int) -> Iterator[Prometheus]:
    """A server with the rules of wormfs, when it has scraped the target once."""
    port = free_port()
    config = directory / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{RULES}]\n"
        "scrape_configs:\n"
        f"  - {{job_name: wormfs, static_configs: [{{targets: ['127.0.0.1:{target_port}']}}]}}\n"
    )
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"), f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}",
                f"--storage.tsdb.path={directory / 'tsdb'}", "--log.level=warn",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        server = Prometheus(port)
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError, AssertionError):
                if server.query("wormfs_build_info"):
                    break
            assert process.poll() is None and time.monotonic() < until, (
                directory / "prometheus.log"
            ).read_text()
            time.sleep(0.05)
        yield server
    finally:
        process.kill()
        process.wait()
    assert (directory / "prometheus.log").read_text() == ""
