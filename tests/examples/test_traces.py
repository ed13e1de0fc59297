"""What stands in for Jaeger receives what OpenTelemetry's exporter sends."""

from __future__ import annotations

import urllib.error

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from examples.running.traces import Traces, collect
from tests.examples.running import ask


def test_a_trace_is_told_as_jaeger_tells_it() -> None:
    with collect(Traces()) as url:
        # Given a service that exports as the examples do
        provider = TracerProvider(resource=Resource.create({"service.name": "shop-web"}))
        exporter = OTLPSpanExporter(f"{url}/v1/traces")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")

        # When
        with (
            tracer.start_as_current_span("outer", kind=SpanKind.SERVER) as outer,
            tracer.start_as_current_span("inner", attributes={"n": 1}) as inner,
        ):
            inner.set_status(Status(StatusCode.ERROR))
        trace_id = f"{outer.get_span_context().trace_id:032x}"
        [trace] = ask(f"{url}/api/traces/{trace_id}")["data"]
        provider.shutdown()

    # Then
    spans = {span["operationName"]: span for span in trace["spans"]}
    assert trace["processes"][spans["outer"]["processID"]]["serviceName"] == "shop-web"
    assert spans["outer"]["references"] == []
    assert spans["inner"]["references"] == [
        {"refType": "CHILD_OF", "traceID": trace_id, "spanID": spans["outer"]["spanID"]}
    ]
    assert {"key": "error", "value": True} in spans["inner"]["tags"]
    assert {"key": "n", "value": 1} in spans["inner"]["tags"]
    assert spans["outer"]["startTime"] <= spans["inner"]["startTime"]
    assert spans["outer"]["duration"] >= spans["inner"]["duration"] > 0


def test_a_trace_that_nobody_sent_is_not_found() -> None:
    with collect(Traces()) as url, pytest.raises(urllib.error.HTTPError, match="404") as refused:
        ask(f"{url}/api/traces/{'0' * 32}")
    refused.value.close()


def test_the_oldest_traces_are_forgotten() -> None:
    with collect(Traces(kept=1)) as url:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
        spans = [provider.get_tracer("test").start_span("one") for _ in range(2)]
        for span in spans:
            span.end()
        old, new = (f"{span.get_span_context().trace_id:032x}" for span in spans)
        assert len(ask(f"{url}/api/traces/{new}")["data"]) == 1
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(f"{url}/api/traces/{old}")
        refused.value.close()
        provider.shutdown()
