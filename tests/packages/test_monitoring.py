"""Alerts and dashboard are well-formed, and agree with each other and with the catalogue."""

from __future__ import annotations

import pytest

from tests.packages.promql import alerts, dashboard, groups, panels
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
