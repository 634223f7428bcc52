"""What a real daemon tells Prometheus."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, daemons
from tests.support.prometheus import DASHBOARD, RULES, free_port, prometheus, promtool, samples, scrape

__all__ = ["daemons"]

FOREIGN = {"node_textfile_mtime_seconds"}
"""Metrics of other programs that the rules look at."""


class Scraped:
    """A daemon with two backends and a port."""

    def __init__(self, daemon: Daemon, port: int):
        self.daemon = daemon
        self.port = port

    def value(self, name: str, **labels: str) -> float | None:
        """A sample now; ``None``: there is none."""
        return samples(scrape(self.port)).get((name, frozenset(labels.items())))

    def path(self, name: str, backend: str = "exams") -> Path:
        return self.daemon.mountpoint / backend / name


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    base, port = tmp_path_factory.mktemp("scraped"), free_port()
    daemon = Daemon(base, {}, metrics=f"127.0.0.1:{port}")
    backends = {
        name: daemon.local(name, empty_grace="0s", check_interval="1s") for name in ("exams", "other")
    }
    daemon.write_config(backends, metrics=f"127.0.0.1:{port}")
    try:
        daemon.start()
        made = Scraped(daemon, port)
        made.path("first.txt").write_bytes(b"x" * 1000)
        assert daemon.run("verify").returncode == 0
        yield made
    finally:
        daemon.clean_up()


def test_promtool_has_nothing_to_say(scraped: Scraped) -> None:
    assert promtool("check", "metrics", text=scrape(scraped.port)) == ""


def families(text: str) -> dict[str, str]:
    """Name and type of all that is offered."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def test_the_page_names_all_of_them_with_their_labels(scraped: Scraped, repository: Path) -> None:
    _provoke(scraped)
    page = (repository / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(wormfs_\w+)` \| (\w+) \| ([\w, ]*)\|", page, re.MULTILINE)
    text = scrape(scraped.port)
    assert {name: kind for name, kind, _ in rows} == families(text)
    told = {name: set(labels.strip().split(", ")) - {""} for name, _, labels in rows}
    for name, labels in samples(text):
        family = re.sub(r"_(bucket|sum|count)$", "", name) if "duration" in name else name
        assert {label for label, _ in labels} - {"le"} == told[family], name


def _provoke(scraped: Scraped) -> None:
    """An error and a refusal, so that there are samples of both."""
    with contextlib.suppress(FileNotFoundError):
        scraped.path("not-there").read_bytes()
    with pytest.raises(PermissionError):
        scraped.path("first.txt").write_bytes(b"other")


def test_what_is_done_is_counted(scraped: Scraped) -> None:
    def counts() -> dict[str, float]:
        return {
            "written": scraped.value("wormfs_written_bytes_total", backend="exams") or 0,
            "read": scraped.value("wormfs_read_bytes_total", backend="exams") or 0,
            "creates": scraped.value(
                "wormfs_operation_duration_seconds_count", backend="exams", operation="create"
            ) or 0,
            "refused": scraped.value(
                "wormfs_refusals_total", backend="exams", operation="unlink", reason="sealed", errno="EPERM"
            ) or 0,
            "elsewhere": scraped.value("wormfs_written_bytes_total", backend="other") or 0,
        }  # fmt: skip

    before = counts()
    file = scraped.path("counted.bin")
    file.write_bytes(b"x" * 123_456)
    fd = os.open(file, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert len(os.read(fd, 200_000)) == 123_456
    os.close(fd)
    with pytest.raises(PermissionError):
        file.unlink()
    assert {name: value - before[name] for name, value in counts().items()} == {
        "written": 123_456, "read": 123_456, "creates": 1, "refused": 1, "elsewhere": 0,
    }  # fmt: skip


def test_spool_and_quarantine(scraped: Scraped) -> None:
    assert scraped.value("wormfs_quarantine_entries", backend="exams") == 0
    with scraped.path("half.bin").open("wb", buffering=0) as file:
        file.write(b"x" * 5000)
        assert scraped.value("wormfs_open_writers", backend="exams") == 1
        assert scraped.value("wormfs_spool_entries", backend="exams", state="writing") == 1
        assert scraped.value("wormfs_spool_bytes", backend="exams") == 5000
        scraped.path("half.bin").unlink()
    subprocess.run(
        ["bash", "-c", f"exec 3> {scraped.path('killed.bin')}; echo half >&3; kill -9 $$"], check=False
    )
    scraped.daemon.wait_for(
        lambda: scraped.value("wormfs_quarantine_entries", backend="exams") == 1, "it is in quarantine"
    )
    assert scraped.value("wormfs_quarantine_bytes", backend="exams") == 5


def test_verification(scraped: Scraped) -> None:
    assert scraped.value("wormfs_damaged_files", backend="exams") == 0
    ended = scraped.value("wormfs_verification_end_timestamp_seconds", backend="exams")
    assert ended is not None and abs(time.time() - ended) < 300
    assert scraped.value("wormfs_verification_findings", backend="exams", kind="altered") == 0


def test_a_hung_worker_costs_no_scrape(scraped: Scraped) -> None:
    pid = scraped.daemon.worker_pid("other")
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        found = samples(scrape(scraped.port))
        assert time.monotonic() - begun < 1
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found["wormfs_backend_up", frozenset({("backend", "other")})] == 0
    assert found["wormfs_backend_state", frozenset({("backend", "other"), ("state", "hung")})] == 1
    assert found["wormfs_backend_up", frozenset({("backend", "exams")})] == 1
    scraped.daemon.wait_for(
        lambda: scraped.value("wormfs_backend_up", backend="other") == 1, "the worker is asked again"
    )


def test_scrapes_do_not_hold_up_the_root_of_the_mount(scraped: Scraped) -> None:
    """The supervisor serves it; somebody who says nothing on the port must not be waited for."""
    with contextlib.ExitStack() as silent:
        for _ in range(16):
            silent.enter_context(socket.create_connection(("127.0.0.1", scraped.port)))
        begun = time.monotonic()
        for _ in range(20):
            assert sorted(os.listdir(scraped.daemon.mountpoint)) == ["exams", "other"]
        assert time.monotonic() - begun < 1
        with pytest.raises(OSError):
            os.mkdir(scraped.daemon.mountpoint / "new")


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:wormfs|node)_\w+", re.sub(r'"[^"]*"', "", expression)))


def expressions() -> dict[str, str]:
    """All that the dashboard and the rules ask, the dashboard's variables filled in."""
    found = dict(
        re.findall(r"alert: (\w+)\n +expr: (?:>-\n)?((?:.|\n)*?)\n +(?:for|labels):", RULES.read_text())
    )
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            found[f"{panel['title']} {target['refId']}"] = text.replace("$backend", ".*")
    return found


def test_prometheus_scrapes_it_loads_the_rules_and_understands_the_dashboard(
    scraped: Scraped, tmp_path: Path
) -> None:
    _provoke(scraped)
    asked = expressions()
    assert len(asked) > 50
    scraped.daemon.wait_for(
        lambda: scraped.value("wormfs_check_ok", backend="exams") == 1, "the backend was tried out"
    )
    known = {name for name, _ in samples(scrape(scraped.port))}
    unknown = {title: names_in(text) - known - FOREIGN for title, text in asked.items()}
    assert {title: names for title, names in unknown.items() if names} == {}
    with prometheus(tmp_path, scraped.port) as server:
        [up] = server.query("up")
        assert (up["metric"]["job"], up["value"][1]) == ("wormfs", "1")
        rules = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
        assert len(rules) > 20 and {rule.get("lastError", "") for rule in rules} == {""}
        found = {title: server.query(text) for title, text in asked.items()}
        # What needs no second scrape, and no trouble, has something to show.
        for title in (
            "Backends A",
            "Version A",
            "Oldest waiting file A",
            "Files on their way A",
            "Free room A",
        ):
            assert found[title], title


def test_a_port_that_is_taken_costs_only_the_metrics(daemons: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        daemon = daemons(metrics=f"127.0.0.1:{port}")
        daemon.start()
        daemon.wait_for(
            lambda: "metrics are not offered: another program listens" in daemon.log_text(), "it says so"
        )
        (daemon.mountpoint / "archive" / "a").write_text("stored")
        assert daemon.status()["backends"]["archive"]["state"] == "ready"


def test_a_text_file_that_goes_with_the_daemon(daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    path = tmp_path / "wormfs.prom"
    daemon = daemons(metrics={"textfile": str(path), "every": "100ms"})
    daemon.start()
    daemon.wait_for(path.exists, "the file is there")
    daemon.wait_for(lambda: 'wormfs_backend_up{backend="archive"} 1.0' in path.read_text(), "it is up")
    assert promtool("check", "metrics", text=path.read_text()) == ""
    assert path.stat().st_mode & 0o777 == 0o644
    assert daemon.stop() == 0
    assert not path.exists() and not list(tmp_path.glob("*.tmp"))


def test_a_text_file_in_the_mount_is_refused(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons()
    daemon.write_config(
        {"archive": daemon.local("archive")}, metrics={"textfile": f"{daemon.mountpoint}/archive/w.prom"}
    )
    done = daemon.run("mount")
    assert done.returncode == 2 and "choose a directory apart from the mount" in done.stderr
