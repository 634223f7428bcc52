"""Where metrics are offered: what may be written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from wormfs.config import InvalidSettings, Settings, dump, parse
from wormfs.config.metrics import Listen, MetricsSettings

REST = "mountpoint: /mnt/worm\nbackends: {exams: {type: local, path: /srv/worm}}\n"


def settings(metrics: str) -> Settings:
    return parse(f"{REST}metrics: {metrics}\n", "f.yaml")


def problems(metrics: str) -> list[str]:
    with pytest.raises(InvalidSettings) as raised:
        settings(metrics)
    return [str(problem) for problem in raised.value.problems]


def test_no_metrics_are_offered_unless_asked_for() -> None:
    found = parse(REST, "f.yaml").metrics
    assert found == settings("null").metrics == MetricsSettings()
    assert (found.listen, found.textfile) == (None, None)


@pytest.mark.parametrize(
    ("written", "listen"),
    [
        ("127.0.0.1:9477", Listen("127.0.0.1", 9477)),
        ("localhost:9477", Listen("127.0.0.1", 9477)),
        ("127.8.0.1:1", Listen("127.8.0.1", 1)),
        ('"[::1]:9477"', Listen("::1", 9477)),
        ("{listen: 127.0.0.1:9477}", Listen("127.0.0.1", 9477)),
        ("{listen: 0.0.0.0:9477, public: true}", Listen("0.0.0.0", 9477)),
        ('{public: true, listen: "[::]:9477"}', Listen("::", 9477)),
    ],
)
def test_addresses(written: str, listen: Listen) -> None:
    assert settings(written).metrics.listen == listen


def test_a_text_file() -> None:
    found = settings("{textfile: /var/lib/x/wormfs.prom, every: 1m}").metrics
    assert (found.textfile, found.every_s) == (Path("/var/lib/x/wormfs.prom"), 60.0)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("0.0.0.0:9477", "can be reached by other hosts"),
        ('"[::]:9477"', "can be reached by other hosts"),
        ("{listen: 192.0.2.1:9477}", "add 'public: true' if that is meant"),
        ("{listen: 192.0.2.1:9477, public: false}", "add 'public: true' if that is meant"),
        ("127.0.0.1", "must be an address and a port such as 127.0.0.1:9477"),
        ("9477", "must be an address and a port"),
        ("127.0.0.1:0", "must have a port from 1 to 65535"),
        ("127.0.0.1:65536", "must have a port from 1 to 65535"),
        ("127.0.0.256:9477", "must be an address and a port"),
        ("worm.example.edu:9477", "must be an address and a port"),
        ("[9477]", "must be an address and a port"),
        ("{textfile: wormfs.prom}", "must be an absolute path"),
        ("{textfile: /var/lib/x/wormfs.txt}", "must end with .prom"),
        ("{every: 0s}", "must be longer than 0s"),
        ("{listn: 127.0.0.1:9477}", "did you mean 'listen'?"),
        ("{textfile: /mnt/worm/wormfs.prom}", "lies inside mountpoint"),
        ("{textfile: /srv/worm/wormfs.prom}", "would be visible in the mount"),
    ],
)
def test_what_is_refused(written: str, message: str) -> None:
    [problem] = problems(written)
    assert problem.startswith("f.yaml:") and "metrics" in problem and message in problem


@pytest.mark.parametrize(
    "written",
    [
        "null",
        "127.0.0.1:9477",
        '{listen: "[::]:1", public: true}',
        "{textfile: /x/wormfs.prom, every: 1m30s}",
    ],
)
def test_what_is_shown_can_be_read_back(written: str) -> None:
    found = settings(written)
    assert parse(dump(found), "shown").metrics == found.metrics


def test_every_key_stands_in_the_example(repository: Path) -> None:
    text = (repository / "config.example.yaml").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("#metrics: ")]
    assert [key for key in MetricsSettings.yaml_keys() if f"{key}: " not in line] == []
    assert parse(f"{REST}{line[1:]}\n", "example").metrics == MetricsSettings()
