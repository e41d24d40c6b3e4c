"""What Grafana is told is right: every panel explains itself and asks for what there is."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest
import yaml
from monitoring import CONFIG, PROVISIONING, RUNBOOK, dashboard, panels, queries, unknown_metrics

UNITS = {"bytes", "cps", "eps", "none", "percentunit", "s", "short"}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_panel_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_metric_of_a_panel_is_there(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert unknown_metrics(target["expr"]) == set()


def test_panels_stand_side_by_side() -> None:
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in every)
    for one, other in combinations((panel["gridPos"] for panel in every), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_the_dashboard_asks_for_no_variable_that_it_does_not_have() -> None:
    has = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = {name for query in queries() for name in re.findall(r"\$\{?(\w+)", query.expression)}
    assert used - {"__rate_interval"} <= has
    assert has == {"datasource", "instance"}


def test_panels_that_the_runbook_names_are_there() -> None:
    prose = re.sub(r"`[^`]*`", "", RUNBOOK.read_text("utf-8"))
    assert set(re.findall(r"\*([^*\n]+)\*", prose)) <= {panel["title"] for panel in panels()}


def test_grafana_is_told_where_both_are() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text("utf-8"))["datasources"]
    interval = yaml.safe_load(CONFIG.read_text("utf-8"))["global"]["scrape_interval"]
    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", interval)
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "headrace.yaml").read_text("utf-8"))["providers"]
    assert (provider["type"], list(provider["options"])) == ("file", ["path"])
