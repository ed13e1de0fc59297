"""OpenTelemetry shows what Prometheus is shown, and the command exports spans where it is told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from outbox import tracing_export
from outbox.metrics import otel
from outbox.metrics.catalogue import METRICS
from outbox.metrics.monitor import RelayMonitor
from outbox.metrics.sample import LaneSample, Sample
from outbox.record import Page, Position, Record
from outbox.tracing import tracing_is_on
from outbox.tracing_export import exported_spans
from tests.acceptance.relay_process import HOLDS, Scene

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """Give a reader of what is exported; the provider is not made global, which is for good."""
    made = InMemoryMetricReader()
    provider = MeterProvider([made])
    monkeypatch.setattr(otel.metrics, "get_meter", provider.get_meter)
    yield made
    provider.shutdown()


def exported(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_every_metric_is_exported_under_its_own_name_and_those_of_the_conventions(
    reader: InMemoryMetricReader,
) -> None:
    # Given a relay that has done all there is to count
    monitor = RelayMonitor("default")
    otel.export_metrics(monitor)
    monitor.began_term("default", 1)
    record = Record(1, "017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "orders", *[None] * 8, 0)
    page = Page(1, [record] * 3, Position(1, 3))
    monitor.sent(page)
    monitor.settled(page, 0.2)
    monitor.progressed()
    monitor.closed({"orders"})
    monitor.sampled(Sample(1.0, (LaneSample("default", 5, True, 2.0),), 1, 10, {}, {"fast": 2}))
    # When it is collected
    found = exported(reader)
    # Then nothing is missing, units included
    assert {metric.name: metric.unit for metric in METRICS}.items() <= {
        name: metric.unit for name, metric in found.items()
    }.items()
    (sent,) = found["outbox.messages.sent"].data.data_points
    assert (sent.value, dict(sent.attributes)) == (3, {"relay": "default", "topic": "orders"})
    # And the conventions' own two are there
    (sent,) = found[otel.SENT_MESSAGES].data.data_points
    assert (sent.value, dict(sent.attributes)) == (
        3,
        {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.destination.name": "orders",
        },
    )
    (duration,) = found[otel.OPERATION_DURATION].data.data_points
    assert (duration.count, duration.sum) == (1, pytest.approx(0.2))
    (delay,) = found["outbox.publish.delay"].data.data_points
    assert tuple(delay.explicit_bounds) == METRICS[1].buckets


def test_a_translation_to_prometheus_gives_the_same_series(reader: InMemoryMetricReader) -> None:
    """By the rules of OpenTelemetry's specification: dots, units, and `_total` for counters."""
    otel.export_metrics(RelayMonitor("default"))
    units = {"s": "_seconds", "By": "_bytes"}
    for name, metric in exported(reader).items():
        ours = {each.name: each for each in METRICS}.get(name)
        if ours is None:
            continue
        counter = type(metric.data).__name__ == "Sum" and metric.data.is_monotonic
        translated = name.replace(".", "_") + units.get(metric.unit, "")
        assert ours.prometheus_name == translated + ("_total" if counter else "")


# Spans


class Collector:
    """A collector of OTLP over HTTP; keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        kept = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def take(self, request: Any) -> None:
        for resource in request.resource_spans:
            for attribute in resource.resource.attributes:
                if attribute.key == "service.name":
                    self.services.add(attribute.value.string_value)
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def write_traced(scene: Scene) -> None:
    with psycopg.connect(scene.url, autocommit=True) as connection:
        connection.execute(
            "insert into outbox_message (topic, key, payload, traceparent) values (%s, 'k', '1',"
            f" '00-{TRACE}-b7ad6b7169203331-01')",
            (scene.topic,),
        )


@pytest.mark.postgresql
@pytest.mark.kafka
def test_spans_go_where_the_environment_says_and_the_last_of_them_before_the_end(
    scene: Scene, collector: Collector
) -> None:
    # Given a relay with an endpoint, and a traced message
    relay = scene.relay(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_BSP_SCHEDULE_DELAY="60000"
    )
    relay.says(HOLDS)
    write_traced(scene)
    scene.wait_until_delivered()
    # When it ends, long before the exporter's time has come
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0
    # Then the span is there, in the message's trace
    (span,) = collector.spans
    assert (span.name, span.trace_id.hex()) == (f"send {scene.topic}", TRACE)
    assert collector.services == {"outbox-relay"}


@pytest.mark.parametrize(
    ("variables", "warned"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_TRACES_EXPORTER": "none"}, False),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            True,
        ),
    ],
)
def test_what_switches_them_off_does(
    variables: dict[str, str], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with exported_spans(variables):
        assert not tracing_is_on()
    assert ("the protocol is 'grpc', not http/protobuf" in caplog.text) == warned


def test_a_provider_that_is_there_already_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `opentelemetry-instrument`: a second one would export every span twice."""
    made: list[object] = []
    monkeypatch.setattr(tracing_export, "tracing_is_on", lambda: True)
    monkeypatch.setattr(tracing_export, "_provider", made.append)
    with exported_spans({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1"}):
        assert made == []


@pytest.mark.postgresql
@pytest.mark.kafka
def test_a_collector_that_is_away_holds_up_neither_messages_nor_the_end(scene: Scene) -> None:
    with _silent() as endpoint:
        relay = scene.relay(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SERVICE_NAME="mine")
        relay.says(HOLDS)
        write_traced(scene)
        scene.wait_until_delivered(timeout=10)
        relay.signal(signal.SIGTERM)
        assert relay.wait(timeout=10) == 0


@contextmanager
def _silent() -> Iterator[str]:
    """Yield the address of a server that accepts and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.postgresql
@pytest.mark.kafka
def test_without_the_sdk_it_says_what_to_install_and_works(scene: Scene, tmp_path: Path) -> None:
    # Given a path on which the SDK cannot be imported
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\nsys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n"
    )
    write_traced(scene)
    # When
    drained = scene.commands(
        "run",
        "--drain",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        PYTHONPATH=f"{hidden}:{Path(__file__).parents[2]}",
    )
    # Then
    assert drained.code == 0, drained.err
    assert 'pip install "outbox-relay[otel]"' in drained.err
    assert len(scene.topic_now()) == 1
