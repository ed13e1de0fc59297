"""The spans of a trace, from Jaeger or whatever answers as it does, laid out as a waterfall."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from django.conf import settings

_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Bar:
    """A span on the page; `start` and `width` are percentages of the whole, times in ms."""

    service: str
    name: str
    depth: int
    start: float
    width: float
    at_ms: float
    took_ms: float
    failed: bool

    @property
    def family(self) -> str:
        """Whose process it is, for the colour: shop or billing."""
        return "billing" if self.service.startswith("billing") else "shop"


def spans_of(trace_id: str) -> list[Bar] | None:
    """Return the spans of a trace, in order; None where traces cannot be asked for."""
    if not (trace_id and settings.TRACES_URL):
        return None
    url = f"{settings.TRACES_URL}/api/traces/{trace_id}"
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:  # noqa: S310 - our setting
            found = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        error.close()
        return [] if error.code == HTTPStatus.NOT_FOUND else None
    except (OSError, ValueError, KeyError):
        return None
    return waterfall(found[0]) if found else []


def waterfall(trace: dict[str, Any]) -> list[Bar]:
    """Lay out a trace as Jaeger tells it: children under their parents, each in order of time."""
    spans = sorted(trace["spans"], key=lambda span: span["startTime"])
    if not spans:
        return []
    services = {name: process["serviceName"] for name, process in trace["processes"].items()}
    known = {span["spanID"] for span in spans}
    children: dict[str | None, list[dict[str, Any]]] = {}
    for span in spans:
        parent = _parent(span)
        children.setdefault(parent if parent in known else None, []).append(span)
    begin = spans[0]["startTime"]
    length = max(span["startTime"] + span["duration"] for span in spans) - begin or 1

    def below(parent: str | None, depth: int) -> list[Bar]:
        bars = []
        for span in children.get(parent, []):
            bars.append(_bar(span, services[span["processID"]], depth, begin, length))
            bars += below(span["spanID"], depth + 1)
        return bars

    return below(None, 0)


def _parent(span: dict[str, Any]) -> str | None:
    for reference in span.get("references") or ():
        if reference["refType"] == "CHILD_OF":
            return str(reference["spanID"])
    return None


def _bar(span: dict[str, Any], service: str, depth: int, begin: int, length: int) -> Bar:
    start, took = span["startTime"] - begin, span["duration"]
    tags = {tag["key"]: tag["value"] for tag in span.get("tags") or ()}
    return Bar(
        service=service,
        name=span["operationName"],
        depth=depth,
        start=100 * start / length,
        width=100 * took / length,
        at_ms=start / 1000,
        took_ms=took / 1000,
        failed=bool(tags.get("error")),
    )
