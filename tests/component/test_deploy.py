"""deploy/: expressions are PromQL over metrics that there are, and the dashboard is generated."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml  # type: ignore[import-untyped]

from beam_pipeline.commands.metrics.catalogue import METRICS

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
KNOWN = {metric.full_name: {*metric.labels} for metric in METRICS} | {"up": set[str]()}
# Prometheus sets them for each target.
TARGET_LABELS = {"job", "instance"}

RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0][
    "rules"
]
BOARD: dict[str, Any] = json.loads(DASHBOARD.read_bytes())
TARGETS: list[tuple[str, str]] = [
    (f"{panel['title']}, {target['refId']}", target["expr"])
    for panel in BOARD["panels"]
    for target in panel.get("targets", [])
]


def selectors(expression: str) -> Iterator[Any]:
    """The selectors of series in an expression."""
    found: list[Any] = []

    def visit(expr: Any) -> bool:
        if isinstance(expr, promql_parser.VectorSelector):
            found.append(expr)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    assert found, f"{expression} names no metric"
    return iter(found)


def assert_known(expression: str) -> set[str]:
    """Each metric is of the catalogue and has the labels that it is selected by; returns all."""
    labels = set(TARGET_LABELS)
    for selector in selectors(expression):
        assert selector.name in KNOWN, f"{expression}: no metric {selector.name}"
        labels |= KNOWN[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in KNOWN[selector.name] | TARGET_LABELS
    for grouping in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {name.strip() for name in grouping.split(",")} <= labels
    return labels


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_is_sound_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    if "for" in rule:
        assert promql_parser.parse_duration(rule["for"]).total_seconds() > 0
    labels = assert_known(rule["expr"])
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    for text in annotations.values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels
        assert set(re.findall(r"\{\{(.*?)\}\}", text)) <= {
            *(f" $labels.{label} " for label in labels),
            " $value ",
            *(f" $value | humanize{how} " for how in ("", "Duration", "Percentage", "Timestamp")),
        }
    page, _, anchor = annotations["runbook_url"].partition("#")
    headings = re.findall(r"^## (\w+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}
    assert anchor == rule["alert"].lower()


def test_there_is_an_alert_for_each_thing_that_goes_wrong() -> None:
    names = {selector.name for rule in RULES for selector in selectors(rule["expr"])}
    assert names >= {
        "up",
        *(
            f"beam_pipeline_{name}"
            for name in (
                *("up", "lag_records", "landed_offset", "lag_seconds", "dead_letters_total"),
                *("restarts_total", "disk_free_bytes", "watermark_timestamp_seconds"),
                *("reconcile_missing_records", "reconcile_doubled_records"),
                "table_current_timestamp_seconds",
            )
        ),
    }


@pytest.mark.parametrize(("place", "expression"), TARGETS, ids=[place for place, _ in TARGETS])
def test_a_query_of_the_dashboard_names_metrics_that_there_are(place: str, expression: str) -> None:
    assert_known(expression.replace("$__rate_interval", "5m"))


def test_the_dashboard_asks_one_variable_for_its_source_and_names_panels_once() -> None:
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    titles = [panel["title"] for panel in BOARD["panels"]]
    assert len(titles) == len(set(titles))
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            (metric,) = re.findall(r"label_values\((\w+), \w+\)", variable["query"])
            assert variable["name"] in KNOWN[metric] | TARGET_LABELS


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Grafana's builders need Python 3.11")
def test_the_dashboard_is_that_of_the_script() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "grafana_dashboard.py"))
    text = DASHBOARD.read_text(encoding="utf-8")
    assert text == script["dashboard_json"](), "run scripts/grafana_dashboard.py"
