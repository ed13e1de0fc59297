"""The same figures for OpenTelemetry, where an application has configured a meter provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from outbox.metrics.catalogue import METRICS, SEND_DURATION, SENT, Metric
from outbox.metrics.monitor import RelayMonitor
from outbox.version import __version__

#: The names that the messaging conventions have for two of ours; in development like all of them.
SENT_MESSAGES = "messaging.client.sent.messages"
OPERATION_DURATION = "messaging.client.operation.duration"

_SYSTEM = {"messaging.system": "kafka", "messaging.operation.name": "send"}

Observe = Callable[[CallbackOptions], Iterable[Observation]]


def export_metrics(monitor: RelayMonitor) -> None:
    """Show a relay's figures through the global meter provider; without an SDK this does nothing.

    Counters and gauges are asked for when they are collected. A histogram takes each value that is
    sampled once, since the interface knows no weights.
    """
    meter = metrics.get_meter("outbox", __version__)
    histograms: dict[Metric, list[tuple[Histogram, dict[str, str]]]] = {}
    for metric in METRICS:
        if metric.kind == "histogram":
            made = _histogram(meter, metric.name, metric)
            histograms[metric] = [(made, {"relay": monitor.relay})]
        else:
            _observed(meter, metric, _series(monitor, metric))
    _conventions(meter, monitor, histograms)
    monitor.on_histogram = _recorder(histograms)


def _histogram(meter: Meter, name: str, metric: Metric) -> Histogram:
    return meter.create_histogram(
        name,
        metric.unit,
        metric.meaning,
        explicit_bucket_boundaries_advisory=list(metric.buckets),
    )


def _observed(meter: Meter, metric: Metric, observe: Observe) -> None:
    create = (
        meter.create_observable_counter
        if metric.kind == "counter"
        else meter.create_observable_gauge
    )
    create(metric.name, [observe], metric.unit, metric.meaning)


def _series(monitor: RelayMonitor, metric: Metric) -> Observe:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        for reading in monitor.figures.readings(metric):
            labels = dict(zip(metric.labels, reading.labels, strict=True))
            yield Observation(reading.value, {"relay": monitor.relay, **labels})

    return observe


def _conventions(
    meter: Meter,
    monitor: RelayMonitor,
    histograms: dict[Metric, list[tuple[Histogram, dict[str, str]]]],
) -> None:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        for reading in monitor.figures.readings(SENT):
            (topic,) = reading.labels
            yield Observation(reading.value, {**_SYSTEM, "messaging.destination.name": topic})

    meter.create_observable_counter(SENT_MESSAGES, [observe], SENT.unit, SENT.meaning)
    duration = _histogram(meter, OPERATION_DURATION, SEND_DURATION)
    histograms[SEND_DURATION].append((duration, _SYSTEM))


def _recorder(
    histograms: dict[Metric, list[tuple[Histogram, dict[str, str]]]],
) -> Callable[[Metric, float], None]:
    def record(metric: Metric, value: float) -> None:
        for histogram, attributes in histograms[metric]:
            histogram.record(value, attributes)

    return record
