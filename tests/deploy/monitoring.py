"""deploy/prometheus and deploy/grafana as data, and the tools that judge them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from pipeline.runtime.metrics import EmbedderMetrics, LearnerMetrics

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
RULES = ROOT / "deploy" / "prometheus" / "headrace.rules.yml"
RULE_TESTS = ROOT / "deploy" / "prometheus" / "headrace.rules.test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
RUNBOOK = ROOT / "docs" / "OPERATIONS.md"
SERIES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@dataclass(frozen=True)
class Query:
    """What a panel asks Prometheus."""

    panel: str
    legend: str
    expression: str


def tool(name: str) -> str:
    """Where `promtool` or `prometheus` is. Without it the test fails: nothing else can judge these files."""
    found = shutil.which(name)
    if found is None:
        package = "apt-get install --no-install-recommends prometheus"
        pytest.fail(f"{name} is not on the PATH; Debian has it in its package prometheus: {package}", pytrace=False)
    return found


def rules() -> list[dict[str, Any]]:
    """Every rule, recorded ones and alerts."""
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def records() -> dict[str, str]:
    """The recording rules: name and expression."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def served() -> set[str]:
    """Every series that a learner and an embedder serve, by name."""
    registry = CollectorRegistry()
    LearnerMetrics(registry)
    EmbedderMetrics(registry)
    return {f"{family.name}{end}" for family in registry.collect() for end in SERIES[family.type]}


def unknown_metrics(text: str) -> set[str]:
    """The names in an expression or in prose that are neither served nor recorded."""
    return set(re.findall(r"[a-z:]*\bheadrace_[a-z0-9_:]+", text)) - served() - records().keys()


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return loaded


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the rows that they stand in."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Every query of every panel."""
    return [
        Query(panel["title"], target["legendFormat"], target["expr"])
        for panel in panels()
        for target in panel["targets"]
    ]
