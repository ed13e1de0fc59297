"""A message's way through database, relay, Kafka and inbox is one trace."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind

from outbox import Outbox, tracing
from outbox.database import DatabaseUrl
from outbox.inbox import Outcome
from outbox.migrations import migrate
from outbox.names import Names
from outbox.publishers.kafka import KafkaPublisher
from outbox.relay.relay import Relay
from outbox.store.opening import open_store
from tests.conformance.publisher_kit import as_arrived
from tests.integration.inbox_world import World, make_world, take

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]
world = pytest.fixture(make_world)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Give what an SDK that records everything has recorded, for the length of one test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    tracing._tracer.cache_clear()
    yield exporter
    provider.shutdown()
    tracing._tracer.cache_clear()


def test_a_message_leaves_one_trace_from_the_request_to_the_handler(
    world: World, postgresql_url: str, spans: InMemorySpanExporter
) -> None:
    # Given a message that was written during a request
    migrate(postgresql_url)
    request_tracer = trace.get_tracer("test")
    with request_tracer.start_as_current_span("request") as request, world.engine.begin() as tx:
        message = Outbox().add(tx, world.topic, {"order": 1}, key="k", type="order.placed")

    # When it is relayed and handled
    relay(world, postgresql_url)
    with world.consume() as consumer:
        assert take(consumer) is Outcome.HANDLED
    assert world.effects() == [message.id_text]

    # Then there is a span for each step, all in the trace of the request
    found = {span.name: span for span in spans.get_finished_spans()}
    create, send, process = (found[f"{step} {world.topic}"] for step in STEPS)
    assert len(found) == len(spans.get_finished_spans()) == 4
    ids = {context(span).trace_id for span in found.values()}
    assert ids == {request.get_span_context().trace_id}

    # And each has its place: the creation in the request, the other two in the creation
    assert parent(create) == request.get_span_context().span_id
    assert parent(send) == parent(process) == context(create).span_id
    assert links(send) == links(process) == [context(create).span_id]
    assert links(create) == []
    assert [span.kind for span in (create, send, process)] == [
        *(SpanKind.PRODUCER, SpanKind.CLIENT, SpanKind.CONSUMER)
    ]

    # And on the wire is the creation, as it was
    (arrived,) = map(as_arrived, world.kafka.read(world.topic))
    assert [value for name, value in arrived.headers if name == "traceparent"] == [
        as_header(context(create))
    ]

    # And all of them tell of the same message, the last two where it is
    for span in (create, send, process):
        assert attribute(span, "messaging.message.id") == message.id_text
    for span in (send, process):
        place = str(arrived.partition), arrived.offset
        assert attribute(span, "messaging.destination.partition.id") == place[0]
        assert attribute(span, "messaging.kafka.offset") == place[1]


def test_a_message_that_nobody_traces_carries_nothing(
    world: World, postgresql_url: str, spans: InMemorySpanExporter
) -> None:
    # Given a message that was written without our library, and so without a context
    migrate(postgresql_url)
    with world.engine.begin() as tx:
        tx.exec_driver_sql(
            "insert into outbox_message (topic, key, payload) values (%s, %s, %s)",
            (world.topic, "k", b"{}"),
        )

    # When it is relayed
    relay(world, postgresql_url)

    # Then no span is recorded for it, and no header sent
    (arrived,) = map(as_arrived, world.kafka.read(world.topic))
    assert [name for name, _ in arrived.headers if name.startswith("trace")] == []
    assert spans.get_finished_spans() == ()


STEPS = ("create", "send", "process")


def relay(world: World, postgresql_url: str) -> None:
    """Deliver the one message that is committed."""
    store = open_store(DatabaseUrl.parse(postgresql_url), Names())
    properties = {"bootstrap.servers": world.kafka.bootstrap_servers}
    with Relay(store, partial(KafkaPublisher, properties)) as moving:
        assert moving.run_once().delivered == 1


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def as_header(of: SpanContext) -> bytes:
    # Of the flags, newer SDKs also set the one that says that the trace id is random.
    assert of.trace_flags.sampled
    return f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags:02x}".encode()


def parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def attribute(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {})[name]
