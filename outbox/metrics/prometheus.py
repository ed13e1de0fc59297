"""The figures in Prometheus' text format, through prometheus-client and a registry of our own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from outbox.errors import MissingExtra
from outbox.metrics.catalogue import METRICS, Metric

if TYPE_CHECKING:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.registry import CollectorRegistry

    from outbox.metrics.figures import Distribution, Figures


class Exposition:
    """Shows the figures of one relay, and what the system says of the process.

    The registry is its own: one that other code shares complains of names that are there twice.
    Raises MissingExtra where prometheus-client is not installed.
    """

    def __init__(self, figures: Figures) -> None:
        self._registry = _registry()
        self._registry.register(_Collector(figures))

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type; `accept` is the request's header."""
        from prometheus_client.exposition import choose_encoder

        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


def _registry() -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
    except ImportError as error:
        raise MissingExtra(
            'metrics need prometheus-client; run `pip install "outbox-relay[relay]"`'
        ) from error
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    return registry


class _Collector:
    """What prometheus-client asks for all values at a scrape."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        for metric in METRICS:
            if metric.kind == "histogram":
                yield self._histogram(self._figures.distribution(metric))
            else:
                yield self._series(metric)

    def _series(self, metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        family_type = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = family_type(
            metric.prometheus_name, metric.meaning, labels=("relay", *metric.labels)
        )
        for reading in self._figures.readings(metric):
            family.add_metric((self._figures.relay, *reading.labels), reading.value)
        return family

    def _histogram(self, seen: Distribution) -> HistogramMetricFamily:
        from prometheus_client.core import HistogramMetricFamily
        from prometheus_client.utils import floatToGoString

        metric = seen.metric
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        buckets = list(zip(bounds, accumulate(seen.counts), strict=True))
        family = HistogramMetricFamily(metric.prometheus_name, metric.meaning, labels=("relay",))
        family.add_metric((self._figures.relay,), buckets, seen.sum)
        return family
