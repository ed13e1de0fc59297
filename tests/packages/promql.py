"""The PromQL of the alerts and of the dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.packages.recipes import DEPLOY, documents

_NAME = re.compile(r"\b(?:outbox|process)_\w+")


def groups() -> Any:
    """Return the alerts' groups."""
    (rules,) = documents("prometheus/alerts.yaml")
    return rules["groups"]


def alerts() -> Iterator[str]:
    """Yield the alerts' expressions."""
    for group in groups():
        for rule in group["rules"]:
            yield rule["expr"]


def panels() -> list[Any]:
    """Return the dashboard's panels."""
    text = (DEPLOY / "grafana/outbox-relay.json").read_text(encoding="utf-8")
    found: list[Any] = json.loads(text)["panels"]
    return found


def dashboard() -> Iterator[str]:
    """Yield the dashboard's expressions, with values for its variables."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m").replace("$relay", "default")


def names(expression: str) -> set[str]:
    """Return the series that an expression names."""
    return set(_NAME.findall(expression))
