"""Alerts and dashboard are well-formed, and agree with each other and with the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from outbox.metrics import catalogue
from outbox.metrics.catalogue import METRICS
from tests.packages.promql import alerts, dashboard, groups, names, panels
from tests.packages.recipes import of_kind


@pytest.mark.parametrize("expression", [*alerts(), *dashboard()])
def test_prometheus_understands_the_expression(expression: str) -> None:
    pytest.importorskip("promql_parser").parse(expression)


def test_the_operators_rules_are_those_of_prometheus() -> None:
    assert of_kind("kubernetes/monitoring.yaml", "PrometheusRule")["spec"]["groups"] == groups()


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    for group in groups():
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert {"summary", "description"} == rule["annotations"].keys()


def test_every_panel_asks_the_data_source_that_was_chosen() -> None:
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        for asked in [panel, *panel["targets"]]:
            assert asked["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


#: Of these the endpoint and the documentation tell; a graph of them would say nothing new.
_NOT_DRAWN = {
    catalogue.BATCHES,
    catalogue.DELAY_UNKNOWN,
    catalogue.TRANSACTIONS,
    catalogue.SAMPLED_AT,
}

#: What can only be a series when documentation or a recipe says it.
_SERIES = re.compile(
    r"\boutbox_(?:\w+_(?:total|seconds|bytes)|(?:relay|scheduled|held|topic)_[a-z_]+)\b"
)


def _series() -> dict[str, catalogue.Metric]:
    """Return every series' name there is, those of a histogram included."""
    endings = ("_bucket", "_sum", "_count")
    return {
        f"{metric.prometheus_name}{ending}": metric
        for metric in METRICS
        for ending in ("", *(endings if metric.kind == "histogram" else ()))
    }


def test_alerts_and_dashboard_name_metrics_of_the_catalogue_and_leave_none_out() -> None:
    series = _series()
    named = {name for expression in (*alerts(), *dashboard()) for name in names(expression)}
    ours = {name for name in named if name.startswith("outbox_")}
    assert ours <= series.keys()
    assert {series[name] for name in ours} == set(METRICS) - _NOT_DRAWN


def test_an_alert_or_a_panel_asks_for_labels_and_values_that_there_are() -> None:
    series = _series()
    asked = re.compile(r"(outbox_\w+)\{([^}]*)\}")
    for expression in (*alerts(), *dashboard()):
        for name, matchers in asked.findall(expression):
            metric = series[name]
            for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                assert label in ("relay", *metric.labels), expression
                assert label == "relay" or value in metric.values, expression


def test_the_documentation_names_metrics_of_the_catalogue() -> None:
    docs = Path(__file__).parents[2] / "docs"
    found = {
        (page.name, name)
        for page in docs.rglob("*.md")
        for name in _SERIES.findall(page.read_text("utf-8"))
        if not name.endswith("_idx")
    }
    assert len(found) > 5
    assert {name for _, name in found} <= _series().keys(), found
