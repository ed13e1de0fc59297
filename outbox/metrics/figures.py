"""The numbers behind the metrics, written by the relay and read by whoever shows them.

Not prometheus-client's own counters: a page of thousands of messages is one call here, an
observation can stand for many, and the same numbers serve OpenTelemetry. One thread writes each
metric, and every read and write is of one value or one copied table, so there is no lock to wait
for in the relay's loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from outbox.metrics.catalogue import METRICS, SAMPLED, Metric

#: Label values are other people's: a topic or lane for each customer must not fill the memory.
MOST_SERIES = 500
REST = "(others)"

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One series: the values of its metric's labels, and its value."""

    metric: Metric
    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram has seen. `counts`: by bucket, and above the last of them."""

    metric: Metric
    counts: tuple[float, ...]
    sum: float


class Figures:
    """Holds the values of all metrics of one relay."""

    def __init__(self, relay: str) -> None:
        self.relay = relay
        self._values: dict[Metric, dict[Labels, float]] = {}
        self._distributions: dict[Metric, list[float]] = {}
        for metric in METRICS:
            if metric.kind == "histogram":
                # The last place is for the sum: one list is copied at once.
                self._distributions[metric] = [0.0] * (len(metric.buckets) + 2)
            else:
                self._values[metric] = {}
                if metric not in SAMPLED:
                    self._values[metric] = _zeros(metric)

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        """Raise a counter, or move a gauge."""
        series = self._values[metric]
        if labels not in series and len(series) >= MOST_SERIES:
            labels = (REST,) * len(labels)
        series[labels] = series.get(labels, 0) + amount

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._values[metric][labels] = value

    def begin(self, metric: Metric, *labels: str) -> None:
        """Let a gauge have a value, 0 at first."""
        self._values[metric].setdefault(labels, 0.0)

    def end(self, metric: Metric, *labels: str) -> None:
        """Let a gauge have none any more."""
        self._values[metric].pop(labels, None)

    def observe(self, metric: Metric, value: float, weight: int = 1) -> None:
        """Count a value `weight` times."""
        counts = self._distributions[metric]
        counts[bisect_left(metric.buckets, value)] += weight
        counts[-1] += value * weight

    def forget(self, metrics: Iterable[Metric]) -> None:
        """Let these have no values until they are set again."""
        for metric in metrics:
            self._values[metric] = {}

    def value(self, metric: Metric, *labels: str) -> float | None:
        """Return the value of one series, or None where there is none."""
        return self._values[metric].get(labels)

    def readings(self, metric: Metric) -> Iterator[Reading]:
        """Yield the series of a counter or gauge."""
        for labels, value in dict(self._values[metric]).items():
            yield Reading(metric, labels, value)

    def distribution(self, metric: Metric) -> Distribution:
        """Return what a histogram has seen."""
        *counts, total = tuple(self._distributions[metric])
        return Distribution(metric, tuple(counts), total)


def _zeros(metric: Metric) -> dict[Labels, float]:
    if metric.values:
        return {(value,): 0.0 for value in metric.values}
    return {} if metric.labels else {(): 0.0}
