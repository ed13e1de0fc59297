"""Checks of OpenTelemetry: what is installed, and whether spans go anywhere."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from outbox.doctor.check import Verdict, check, warning
from outbox.doctor.configuration import installed, numbers
from outbox.publishers.diagnosis import producer_is_replaced
from outbox.tracing import SpanExport, span_export

_PIN = re.compile(r"([A-Za-z0-9._-]+)\s*\(?\s*([<>=!~][^;)]*)\)?\s*(?:;\s*(.*))?")
_BOUND = re.compile(r"(==|>=|<=|<|>)\s*([\w.]+)")
_INSTRUMENTOR = "opentelemetry-instrumentation-confluent-kafka"


@dataclass(frozen=True, slots=True)
class Package:
    """An installed distribution, with what it asks for."""

    name: str
    version: str
    requires: tuple[str, ...]


def packages() -> list[Package]:
    """Return OpenTelemetry's packages, and the Kafka client which one of them replaces."""
    return [
        Package(name, metadata.version(name), tuple(metadata.requires(name) or ()))
        for name in sorted(_names())
    ]


def _names() -> set[str]:
    """Return the names by those of their directories: to read all metadata takes a third second."""
    return {
        path.name.partition("-")[0].lower().replace("_", "-")
        for entry in sys.path
        for pattern in ("opentelemetry_*.dist-info", "confluent_kafka-*.dist-info")
        for path in Path(entry).glob(pattern)
    }


def mixtures(found: list[Package]) -> Iterator[Verdict]:
    """Judge versions that do not fit each other; pip resolves such mixes without a word."""
    versions = {package.name: package.version for package in found}
    for package in found:
        for requirement in package.requires:
            if (clash := _clash(requirement, versions)) is not None:
                yield warning(
                    f"{package.name} {package.version} needs {clash[0]} {clash[1]}, and"
                    f" {versions[clash[0]]} is installed: it does nothing, or fails when imported",
                    f'pip install --upgrade --pre "{package.name}" "{clash[0]}"',
                )


def _clash(requirement: str, versions: Mapping[str, str]) -> tuple[str, str] | None:
    """Return name and bounds of a requirement that an installed version does not meet."""
    match = _PIN.match(requirement)
    if match is None or (match[3] and "instruments" not in match[3]):
        return None
    name, bounds = match[1].lower().replace("_", "-"), match[2].strip()
    if name not in versions or all(
        _meets(versions[name], operator, bound) for operator, bound in _BOUND.findall(bounds)
    ):
        return None
    return name, bounds


def _meets(version: str, operator: str, bound: str) -> bool:
    if operator == "==":
        return version == bound
    mine, other = numbers(version), numbers(bound)
    width = max(len(mine), len(other))
    mine, other = (given + (0,) * (width - len(given)) for given in (mine, other))
    return {">=": mine >= other, "<=": mine <= other, "<": mine < other, ">": mine > other}[
        operator
    ]


def instrumentor(answer: tuple[Mapping[str, str], bool]) -> str:
    """Say whether Kafka's instrumentation is there; the relay goes round it."""
    versions, active = answer
    version = versions.get(_INSTRUMENTOR)
    if active:
        return "active in this process; the relay goes round it and sends one traceparent a message"
    return "not installed" if version is None else f"{version} is installed, and not active here"


def export(answer: tuple[SpanExport, Mapping[str, str]]) -> Iterator[Verdict]:
    """Judge whether spans are made and go nowhere, or are asked for and not made."""
    state, environ = answer
    wanted = sorted(
        name
        for name, value in environ.items()
        if name.startswith("OTEL_EXPORTER_OTLP")
        or (name == "OTEL_TRACES_EXPORTER" and value != "none")
    )
    if state == "nowhere":
        yield warning(
            "OpenTelemetry's SDK is on and has no exporter: every span costs time and is dropped",
            "give the provider a span processor with an exporter, or run it by"
            " `opentelemetry-instrument` with OTEL_TRACES_EXPORTER=otlp",
        )
    elif state == "off" and wanted:
        yield warning(
            f"{', '.join(wanted)} is set, and no SDK is active in this process: a relay started"
            " like this makes no spans",
            'pip install "outbox-relay[otel]" opentelemetry-distro, and start it with'
            " `opentelemetry-instrument outbox-relay run`",
        )


_SAID = {
    "off": "no SDK is active in this process, and none is asked for",
    "exported": "the SDK is on and has a span processor",
    "unknown": "a provider is active that is not OpenTelemetry's own SDK",
}

CHECKS = (
    check(
        "opentelemetry-versions",
        "tracing",
        looks_at="OpenTelemetry packages, and Kafka's instrumentation, that do not fit each other",
        advice="upgrade them together",
        probe=lambda _: packages(),
        judge=mixtures,
        well=lambda found: f"{len(found)} packages fit each other",
    ),
    check(
        "kafka-instrumentor",
        "tracing",
        looks_at="whether OpenTelemetry's Kafka instrumentation replaces the producer",
        advice="nothing: the relay goes round it",
        probe=lambda _: (installed(_INSTRUMENTOR), producer_is_replaced()),
        judge=lambda _: (),
        well=instrumentor,
    ),
    check(
        "trace-export",
        "tracing",
        looks_at="an SDK without an exporter, or OTEL variables without an SDK",
        advice="install and start the SDK with an exporter",
        probe=lambda _: (span_export(), dict(os.environ)),
        judge=export,
        well=lambda answer: _SAID.get(answer[0], answer[0]),
    ),
)
