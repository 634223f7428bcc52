"""Grafana's dashboard: what an import would stumble over. (The expressions are tried in test_scrape.py.)"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from typing import Any

import pytest

from tests.support.prometheus import DASHBOARD

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
BUILT_IN = {"__rate_interval", "__interval", "__range"}
UNITS = {"none", "short", "s", "bytes", "Bps", "ops", "percentunit"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


@pytest.fixture(scope="module")
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard["panels"]
    assert len(found) > 20
    return found


def test_it_can_be_imported_beside_others(dashboard: dict[str, Any]) -> None:
    assert (dashboard["id"], dashboard["uid"], dashboard["title"]) == (None, "wormfs", "wormfs")
    assert dashboard["schemaVersion"] >= 36
    # An export with inputs would ask for a data source that the variable chooses.
    assert not {"__inputs", "__requires", "__elements"} & set(dashboard)


def test_numbers_of_panels_are_unique(panels: list[dict[str, Any]]) -> None:
    assert max(Counter(panel["id"] for panel in panels).values()) == 1
    titles = Counter(panel["title"] for panel in panels)
    assert max(titles.values()) == 1 and all(titles)


def test_every_panel_asks_the_data_source_of_the_variable(panels: list[dict[str, Any]]) -> None:
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "timeseries")
        assert panel["datasource"] == DATASOURCE, panel["title"]
        assert panel["targets"], panel["title"]
        assert [target["datasource"] for target in panel["targets"]] == [DATASOURCE] * len(panel["targets"])
        assert max(Counter(target["refId"] for target in panel["targets"]).values()) == 1
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]


def test_no_panel_lies_on_another(panels: list[dict[str, Any]]) -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))

    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert not taken & cells(panel), panel["title"]
        taken |= cells(panel)


def test_every_variable_that_is_used_exists(dashboard: dict[str, Any]) -> None:
    made = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert made == {"datasource", "instance", "backend"}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(dashboard["panels"])))
    assert used - BUILT_IN == made
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["datasource"] == DATASOURCE


def test_every_query_asks_for_the_chosen_hosts_only(panels: list[dict[str, Any]]) -> None:
    for expression in (target["expr"] for panel in panels for target in panel.get("targets", [])):
        selectors = re.findall(r"wormfs_\w+(\{[^}]*\})?", expression)
        assert selectors and all('instance=~"$instance"' in selector for selector in selectors), expression
