"""What Prometheus is told is right: by promtool, by the metrics that there are, and by the runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring import CONFIG, ROOT, RULE_TESTS, RULES, RUNBOOK, alerts, records, rules, tool, unknown_metrics

STEPS = 3


@pytest.mark.parametrize(
    ("command", "file"),
    [("check config", CONFIG), ("check rules --lint=all --lint-fatal", RULES), ("test rules", RULE_TESTS)],
)
def test_promtool_is_content(command: str, file: Path) -> None:
    done = subprocess.run([tool("promtool"), *command.split(), file], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def cases(kind: str) -> list[dict[str, Any]]:
    """What promtool is asked: every `alert_rule_test`, or every `promql_expr_test`."""
    return [case for test in yaml.safe_load(RULE_TESTS.read_text("utf-8"))["tests"] for case in test.get(kind, ())]


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_is_shown_to_fire_and_to_be_silent(alert: str) -> None:
    expected = [case["exp_alerts"] for case in cases("alert_rule_test") if case["alertname"] == alert]
    assert any(expected)
    assert not all(expected)


@pytest.mark.parametrize("record", records())
def test_each_recording_rule_is_shown_to_be_right(record: str) -> None:
    assert any(case["exp_samples"] for case in cases("promql_expr_test") if record in case["expr"])


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_of_a_rule_is_there(rule: dict[str, Any]) -> None:
    assert unknown_metrics(rule["expr"]) == set()


def test_a_metric_that_is_not_there_is_seen() -> None:
    assert unknown_metrics("rate(headrace_typos_total[5m])") == {"headrace_typos_total"}


def test_every_metric_of_the_runbook_is_there() -> None:
    assert unknown_metrics(RUNBOOK.read_text("utf-8")) == set()


@pytest.mark.parametrize("alert", alerts())
def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_do(alert: str) -> None:
    rule = alerts()[alert]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/OPERATIONS.md#{alert.lower()}"
    assert re.search(rf"^ +# .+\n +- alert: {alert}$", RULES.read_text("utf-8"), re.MULTILINE), "says no reason"


def sections() -> dict[str, str]:
    """The runbook's h3 headings and what stands under them."""
    _, *parts = re.split(r"^### ", RUNBOOK.read_text("utf-8"), flags=re.MULTILINE)
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


@pytest.mark.parametrize("alert", alerts())
def test_every_alert_has_its_first_three_steps(alert: str) -> None:
    text = re.split(r"^#", sections()[alert], flags=re.MULTILINE)[0]
    assert re.findall(r"^(\d)\. ", text, re.MULTILINE) == [str(step + 1) for step in range(STEPS)]


def test_there_are_steps_for_nothing_that_is_no_alert() -> None:
    assert {heading for heading in sections() if heading.startswith("Headrace")} == alerts().keys()


def anchors(file: Path) -> set[str]:
    """What `#…` can point to, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_runbooks_links_lead_somewhere() -> None:
    for path, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", RUNBOOK.read_text("utf-8")):
        file = (RUNBOOK.parent / path).resolve() if path else RUNBOOK
        assert file.is_relative_to(ROOT)
        assert file.exists(), path
        assert not anchor or anchor in anchors(file), f"{path}#{anchor}"
