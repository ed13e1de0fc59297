"""Spans and the trace context that travels with a message."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy.ext.asyncio import create_async_engine

import outbox
from outbox import Message, Outbox, SchemaMissing, tracing
from outbox.tracing import end_send_span, process_span, start_send_span

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"
TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331

TABLE = (
    "create table outbox_message (seq integer primary key, topic, id, key, payload, type, "
    "content_type, traceparent, tracestate)"
)


def install(monkeypatch: pytest.MonkeyPatch, sampler: Sampler) -> InMemorySpanExporter:
    """Install an SDK for the length of one test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


@pytest.fixture(autouse=True)
def _fresh_tracer() -> Iterator[None]:
    """Keep one test's provider from the next."""
    tracing._tracer.cache_clear()
    yield
    tracing._tracer.cache_clear()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Give what an SDK that records everything has recorded."""
    return install(monkeypatch, ALWAYS_ON)


@pytest.fixture
def log() -> Iterator[sqlite3.Connection]:
    """Give a connection in a transaction, with a table such as the log."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(TABLE)
        connection.execute("begin")
        yield connection


def remote_parent(traceparent: str = PARENT, tracestate: str | None = None) -> Any:
    """Make what came with a request current."""
    carrier = {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})
    context = TraceContextTextMapPropagator().extract(carrier, Context())
    return trace.use_span(trace.get_current_span(context))


def stored(log: sqlite3.Connection) -> list[tuple[str | None, str | None]]:
    """Return (traceparent, tracestate) of the rows."""
    return log.execute("select traceparent, tracestate from outbox_message order by seq").fetchall()


def link(span: ReadableSpan) -> tuple[int, int]:
    """Return the ids of the only link."""
    (only,) = span.links
    return only.context.trace_id, only.context.span_id


def test_without_tracing_the_columns_are_null(log: sqlite3.Connection) -> None:
    """There is nothing to carry."""
    Outbox().add(log, "orders", b"")
    Outbox().add_all(log, [Message("orders", b"")])

    assert stored(log) == [(None, None)] * 2


@pytest.mark.parametrize("traceparent", [PARENT, UNSAMPLED])
def test_without_an_sdk_a_remote_parent_passes_through(
    log: sqlite3.Connection, traceparent: str
) -> None:
    """Untouched, tracestate too."""
    with remote_parent(traceparent, "vendor=a,other=b"):
        Outbox().add(log, "orders", b"")
        Outbox().add_all(log, [Message("orders", b"")] * 2)

    assert stored(log) == [(traceparent, "vendor=a,other=b")] * 3


def test_a_message_carries_its_create_span(
    spans: InMemorySpanExporter, log: sqlite3.Connection
) -> None:
    """A child of what is current, with the attributes of the conventions."""
    with remote_parent(tracestate="vendor=a"):
        message = Outbox().add(log, "orders", None, key="k", type="order.placed")

    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == ("create orders", SpanKind.PRODUCER)
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (TRACE_ID, SPAN_ID)
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.destination.name": "orders",
        "messaging.message.id": str(message.id),
        "messaging.kafka.message.key": "k",
        "messaging.kafka.message.tombstone": True,
        "outbox.message.type": "order.placed",
    }
    assert stored(log) == [(f"00-{TRACE_ID:032x}-{span.context.span_id:016x}-01", "vendor=a")]
    scope = span.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.version) == ("outbox", outbox.__version__)


def test_each_of_many_messages_has_its_own_span(
    spans: InMemorySpanExporter, log: sqlite3.Connection
) -> None:
    """None of them another's parent."""
    with remote_parent():
        Outbox().add_all(log, [Message("orders", n, key=n) for n in range(3)])

    finished = spans.get_finished_spans()
    assert [span.parent.span_id for span in finished if span.parent] == [SPAN_ID] * 3
    assert [row[0] for row in stored(log)] == [
        f"00-{TRACE_ID:032x}-{span.context.span_id:016x}-01" for span in finished
    ]


def test_a_span_that_is_not_sampled_says_so_to_those_who_come_after(
    monkeypatch: pytest.MonkeyPatch, log: sqlite3.Connection
) -> None:
    """With a flag of 0, which costs them nothing."""
    exporter = install(monkeypatch, ALWAYS_OFF)

    Outbox().add(log, "orders", b"")

    ((traceparent, _),) = stored(log)
    assert traceparent is not None
    assert not tracing.is_sampled(traceparent)
    assert exporter.get_finished_spans() == ()


def test_a_write_that_fails_ends_its_span_with_the_error(spans: InMemorySpanExporter) -> None:
    """With the class as `error.type`."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as empty:
        empty.execute("begin")
        with pytest.raises(SchemaMissing):
            Outbox().add(empty, "orders", b"")
        with pytest.raises(SchemaMissing):
            Outbox().add_all(empty, [Message("orders", b"")])

    for span in spans.get_finished_spans():
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "SchemaMissing"
    assert len(spans.get_finished_spans()) == 2


def test_what_the_driver_traces_is_a_child_of_the_create_span(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, log: sqlite3.Connection
) -> None:
    """The span is current around the write, and only there."""
    current: list[int] = []
    monkeypatch.setattr(
        "outbox.writer.outbox.write_one",
        lambda *_: current.append(trace.get_current_span().get_span_context().span_id),
    )

    Outbox().add(log, "orders", b"")

    (span,) = spans.get_finished_spans()
    assert current == [span.context.span_id]
    assert not trace.get_current_span().get_span_context().is_valid


def test_an_asynchronous_message_carries_the_context_of_the_call(
    spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    """Wherever it is awaited."""

    async def write() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/log.db")
        async with engine.begin() as connection:
            await connection.exec_driver_sql(TABLE)
            with remote_parent():
                pending = Outbox().add_async(connection, "orders", b"")
            await pending
        await engine.dispose()

    asyncio.run(write())

    (span,) = spans.get_finished_spans()
    assert span.parent is not None
    assert span.parent.span_id == SPAN_ID
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        assert stored(connection) == [(f"00-{TRACE_ID:032x}-{span.context.span_id:016x}-01", None)]


def test_a_send_span_is_a_child_of_the_creation_and_linked_to_it(
    spans: InMemorySpanExporter,
) -> None:
    """Whatever is current in the relay."""
    with trace.get_tracer("relay").start_as_current_span("unrelated"):
        span = start_send_span(
            "orders", "m-1", "k", PARENT, "vendor=a", attributes={"outbox.relay": "default"}
        )
        end_send_span(span, 3, 17, None)

    sent, _ = spans.get_finished_spans()
    assert (sent.name, sent.kind, link(sent)) == (
        "send orders",
        SpanKind.CLIENT,
        (TRACE_ID, SPAN_ID),
    )
    assert sent.parent is not None
    assert (sent.context.trace_id, sent.parent.span_id) == (TRACE_ID, SPAN_ID)
    assert sent.parent.trace_state.to_header() == "vendor=a"
    attributes = dict(sent.attributes or {})
    assert attributes["messaging.destination.partition.id"] == "3"
    assert attributes["messaging.kafka.offset"] == 17
    assert attributes["outbox.relay"] == "default"
    assert attributes["messaging.operation.type"] == "send"
    assert sent.status.status_code is StatusCode.UNSET


def test_a_send_span_ends_with_the_brokers_error(spans: InMemorySpanExporter) -> None:
    """By the broker's name for it."""
    end_send_span(
        start_send_span("orders", "m-1", None, PARENT, None), None, None, "MSG_SIZE_TOO_LARGE"
    )

    (sent,) = spans.get_finished_spans()
    assert (sent.attributes or {})["error.type"] == "MSG_SIZE_TOO_LARGE"
    assert sent.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        UNSAMPLED,
        "",
        "garbage",
        PARENT[:-1],
        PARENT.upper(),
        PARENT + "-extra",
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
        "0" * 54 + "1",
        "x" * 54 + "1",
    ],
)
def test_nothing_is_sent_to_a_trace_that_is_not_there(
    spans: InMemorySpanExporter, traceparent: str | None
) -> None:
    """Not sampled, missing or malformed: never an error."""
    assert start_send_span("orders", "m-1", None, traceparent, None) is None
    with process_span("orders", "m-1", None, traceparent, None):
        pass

    (processed,) = spans.get_finished_spans()
    if traceparent != UNSAMPLED:
        assert processed.links == ()
        assert processed.parent is None


def test_a_later_version_of_traceparent_is_understood(spans: InMemorySpanExporter) -> None:
    """It may append fields."""
    end_send_span(
        start_send_span("o", "m", None, "cc" + PARENT[2:] + "-more", None), None, None, None
    )

    assert len(spans.get_finished_spans()) == 1


def test_a_malformed_tracestate_is_no_error(spans: InMemorySpanExporter) -> None:
    """The rest still counts."""
    end_send_span(start_send_span("o", "m", None, PARENT, "=,;\n%"), None, None, None)

    assert len(spans.get_finished_spans()) == 1


def test_without_an_sdk_there_are_no_spans() -> None:
    """Also for a sampled message."""
    assert not tracing.tracing_is_on()
    assert start_send_span("orders", "m-1", None, PARENT, None) is None
    end_send_span(None, 0, 0, None)
    with process_span("orders", "m-1", None, PARENT, None) as span:
        assert not span.is_recording()
        # What the handler adds in turn still belongs to the message's trace.
        assert trace.get_current_span().get_span_context().trace_id == TRACE_ID


def test_processing_is_a_child_of_the_creation_and_linked_to_it(
    spans: InMemorySpanExporter,
) -> None:
    """Where nothing else is current."""
    with process_span(
        "orders", "m-1", "k", PARENT, None, partition=2, offset=5, consumer="billing"
    ) as span:
        assert trace.get_current_span() is span

    (processed,) = spans.get_finished_spans()
    assert (processed.name, processed.kind) == ("process orders", SpanKind.CONSUMER)
    assert processed.parent is not None
    assert (processed.parent.span_id, link(processed)) == (SPAN_ID, (TRACE_ID, SPAN_ID))
    attributes = dict(processed.attributes or {})
    assert attributes["messaging.consumer.group.name"] == "billing"
    assert attributes["messaging.destination.partition.id"] == "2"
    assert attributes["messaging.kafka.offset"] == 5


def test_processing_within_a_span_is_its_child_and_linked_to_the_creation(
    spans: InMemorySpanExporter,
) -> None:
    """As when a Kafka instrumentation has a span of its own."""
    with (
        trace.get_tracer("kafka").start_as_current_span("receive") as ambient,
        process_span("orders", "m-1", None, PARENT, None),
    ):
        pass

    processed, _ = spans.get_finished_spans()
    assert processed.parent is not None
    assert processed.parent.span_id == ambient.get_span_context().span_id
    assert link(processed) == (TRACE_ID, SPAN_ID)


def test_a_handlers_error_is_on_the_span_and_passes_through(spans: InMemorySpanExporter) -> None:
    """The retry policy needs it."""
    with pytest.raises(ZeroDivisionError), process_span("orders", "m-1", None, PARENT, None):
        raise ZeroDivisionError

    (processed,) = spans.get_finished_spans()
    assert (processed.attributes or {})["error.type"] == "ZeroDivisionError"
    assert processed.status.status_code is StatusCode.ERROR
    assert processed.events == ()


@pytest.mark.parametrize(
    "environment", [{}, {"OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider"}]
)
def test_an_sdk_that_comes_later_or_by_the_environment_is_seen(environment: dict[str, str]) -> None:
    """Applications set it up after their imports, some with nothing but a variable."""
    code = (
        "import os, sqlite3, outbox\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "c = sqlite3.connect(':memory:', isolation_level=None)\n"
        f"c.execute({TABLE!r}); c.execute('begin')\n"
        "events = outbox.Outbox()\n"
        "events.add(c, 'orders', b'')\n"
        "if 'OTEL_PYTHON_TRACER_PROVIDER' not in os.environ:\n"
        "    trace.set_tracer_provider(TracerProvider())\n"
        "events.add(c, 'orders', b'')\n"
        "print([p is not None for p, in c.execute('select traceparent from outbox_message')])\n"
        "c.close()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PATH": "/usr/bin:/bin", **environment},
    )

    assert result.stdout.strip() == str([bool(environment), True])
