"""The span around a handler."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

from outbox.tracing import _tracer
from tests.integration.inbox_world import World, make_world, take

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]
world = pytest.fixture(make_world)


def test_a_message_is_processed_within_a_span_of_its_trace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a message with the trace context of its sender, that comes twice
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    _tracer.cache_clear()
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    producer = Producer({"bootstrap.servers": world.kafka.bootstrap_servers})
    for _ in range(2):
        context = ("traceparent", f"00-{trace_id}-{span_id}-01".encode())
        producer.produce(world.topic, b"{}", partition=0, headers=[("id", b"m-0"), context])
    assert producer.flush(30) == 0
    current: list[int] = []

    # When it is handled
    with world.consume() as consumer:
        for _ in range(2):
            take(consumer, lambda *_: current.append(get_current_span().get_span_context().span_id))

    # Then the handler ran within a span of the sender's trace, which says what became of it
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == [f"process {world.topic}"] * 2
    assert {format(span.context.trace_id, "032x") for span in spans} == {trace_id}
    assert current == [spans[0].context.span_id]
    outcomes = [(span.attributes or {})["outbox.outcome"] for span in spans]
    assert outcomes == ["handled", "duplicate"]
    assert (spans[0].attributes or {})["messaging.consumer.group.name"] == world.consumer
    provider.shutdown()
    _tracer.cache_clear()
