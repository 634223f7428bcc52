"""The alert rules load without a word, fire and do not fire, and operations.md says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import RULES, promtool
from wormfs.cli.status.judge import WAITING_CRITICAL_S, WAITING_WARNING_S

HERE = Path(__file__).resolve().parent
TESTS = sorted(HERE.glob("*.test.yml"))


@pytest.fixture(scope="module")
def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    named = {rule["alert"]: rule for rule in found}
    assert len(named) == len(found) > 20
    return named


def test_the_rules_load_without_a_warning(rules: dict[str, dict[str, Any]]) -> None:
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert said.split() == ["Checking", str(RULES), "SUCCESS:", str(len(rules)), "rules", "found"]


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    said = promtool("test", "rules", *TESTS)
    assert said.count("SUCCESS") == len(TESTS) == 2


def test_no_alert_is_without_both_tests(rules: dict[str, dict[str, Any]]) -> None:
    cases = [
        case
        for file in TESTS
        for one in yaml.safe_load(file.read_text())["tests"]
        for case in one["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(rules)
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(rules)


def test_every_alert_says_how_bad_it_is_and_what_it_means(rules: dict[str, dict[str, Any]]) -> None:
    for name, rule in rules.items():
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert set(rule["annotations"]) == {"summary", "description"}, name


def test_operations_md_has_every_alert_and_no_other(
    rules: dict[str, dict[str, Any]], repository: Path
) -> None:
    text = (repository / "docs" / "operations.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| `Wormfs")]
    cells = {re.findall(r"`(Wormfs\w+)`", line)[0]: line.strip("|").split("|") for line in lines}
    assert set(cells) == set(rules)
    # Means, and do.
    assert all(len(row) == 3 and all(cell.strip() for cell in row) for row in cells.values())


def test_files_that_wait_are_judged_as_by_status(rules: dict[str, dict[str, Any]]) -> None:
    judged = {
        rule["labels"]["severity"]: rule["expr"]
        for name, rule in rules.items()
        if name.startswith("WormfsFilesWaiting")
    }
    assert judged == {
        "warning": f"wormfs_spool_oldest_waiting_seconds >= {WAITING_WARNING_S:.0f}",
        "critical": f"wormfs_spool_oldest_waiting_seconds >= {WAITING_CRITICAL_S:.0f}",
    }
