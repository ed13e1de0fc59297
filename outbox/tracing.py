"""All OpenTelemetry of the product: spans, and the trace context that travels with a message.

Only opentelemetry-api is needed; without an SDK everything here does next to nothing. The names
are those of the messaging conventions 1.44, which are still in development.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

if TYPE_CHECKING:
    from outbox.message import Message
from outbox.version import __version__

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

#: What is current in a task or thread: the span above all.
TraceContext: TypeAlias = Context

#: What becomes of spans in this process.
SpanExport: TypeAlias = Literal["off", "nowhere", "exported", "unknown"]

Attributes: TypeAlias = dict[str, str | int | bool]

#: Version 00, or a later one, which may append fields.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def create_span(message: Message) -> Creation:
    """Start `create {topic}`, the span whose context the message carries, around its writing.

    Without an SDK there is no span to start: see `tracing_is_on` and `current_headers`.
    """
    return Creation(_start_create_span(message, None))


def current_headers() -> tuple[str | None, str | None]:
    """Return `traceparent` and `tracestate` of here and now, both None where nothing traces."""
    if not get_current():  # nothing is current at all: the common case, and cheap
        return None, None
    return _to_header(trace.get_current_span().get_span_context())


def create_spans(messages: Sequence[Message], context: TraceContext) -> Creations:
    """Start a span for each of several messages, none of them another's parent.

    `context` is the caller's, as it was when it handed the messages over.
    """
    if tracing_is_on():
        return Creations([_start_create_span(message, context) for message in messages])
    return Creations([_current(context)] * len(messages))


def _current(context: TraceContext | None) -> Span:
    # Not recording, whatever it is: it is the caller's and not ours to end.
    return NonRecordingSpan(trace.get_current_span(context).get_span_context())


def _start_create_span(message: Message, context: TraceContext | None) -> Span:
    tombstone = message.payload is None
    given = _attributes("create", message.topic, message.id_text, message.key, tombstone=tombstone)
    if message.type is not None:
        given["outbox.message.type"] = message.type
    return _tracer().start_span(f"create {message.topic}", context, SpanKind.PRODUCER, given)


class Creation:
    """The creation of one message; a context manager around the write.

    `traceparent` and `tracestate` are what the message carries, both None where nothing traces.
    """

    __slots__ = ("_current", "_span", "traceparent", "tracestate")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._current: AbstractContextManager[Span] | None = None
        self.traceparent, self.tracestate = _to_header(span.get_span_context())

    def __enter__(self) -> Creation:
        if self._span.is_recording():
            self._current = trace.use_span(
                self._span, end_on_exit=True, record_exception=False, set_status_on_exception=False
            )
            self._current.__enter__()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._current is None:
            return
        if error is not None:
            _set_error(self._span, type(error).__qualname__)
        self._current.__exit__(error_type, error, traceback)


class Creations:
    """The creations of many messages that are written by one statement; a context manager.

    `headers` are the pairs (traceparent, tracestate), in the order of the messages.
    """

    __slots__ = ("_spans", "headers")

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = [span for span in spans if span.is_recording()]
        self.headers = [_to_header(span.get_span_context()) for span in spans]

    def __enter__(self) -> Creations:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for span in self._spans:
            if error is not None:
                _set_error(span, type(error).__qualname__)
            span.end()


def tracing_is_on() -> bool:
    """Return whether an SDK is installed; without one no span is ever recorded."""
    _tracer()  # the first call loads the provider that the environment may name
    # What get_tracer_provider() looks at, before it reads the environment, with every call, at the
    # price of writing a tenth of a message. Should the name go away, ask it after all.
    if getattr(trace, "_TRACER_PROVIDER", trace) is None:
        return False
    return not isinstance(
        trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider
    )


def span_export() -> SpanExport:
    """Return where spans go: what an SDK without a processor makes is dropped."""
    if not tracing_is_on():
        return "off"
    # The SDK's own, and the only place that knows; another provider says nothing.
    active = getattr(trace.get_tracer_provider(), "_active_span_processor", None)
    processors = getattr(active, "_span_processors", None)
    if processors is None:
        return "unknown"
    return "exported" if processors else "nowhere"


def current_context() -> Context:
    """Return the trace context of here and now, for a span that is started later."""
    return get_current()


def start_send_span(
    topic: str,
    message_id: str,
    key: str | None,
    traceparent: str | None,
    tracestate: str | None,
    *,
    tombstone: bool = False,
    attributes: Mapping[str, str | int | bool] | None = None,
) -> Span | None:
    """Start `send {topic}` as a child of the creation context, and linked to it.

    Returns None where there is nothing to record: no or no sampled creation context, or no SDK.
    `attributes` are further ones, such as the client id, the server and `outbox.relay`.
    """
    # For most messages of most systems this line is all there is.
    if traceparent is None or not is_sampled(traceparent):
        return None
    created = _from_header(traceparent, tracestate)
    if created is None:
        return None
    given = _attributes("send", topic, message_id, key, tombstone=tombstone, more=attributes)
    span = _tracer().start_span(
        f"send {topic}", _parent(created), SpanKind.CLIENT, given, [Link(created)]
    )
    return span if span.is_recording() else None


def end_send_span(
    span: Span | None, partition: int | None, offset: int | None, error: str | None
) -> None:
    """End it with where the message went, or with the broker's name of the error."""
    if span is None:
        return
    if partition is not None:
        span.set_attribute("messaging.destination.partition.id", str(partition))
    if offset is not None:
        span.set_attribute("messaging.kafka.offset", offset)
    if error is not None:
        _set_error(span, error)
    span.end()


@contextmanager
def process_span(
    topic: str,
    message_id: str,
    key: str | None,
    traceparent: str | None,
    tracestate: str | None,
    *,
    partition: int | None = None,
    offset: int | None = None,
    consumer: str | None = None,
    tombstone: bool = False,
) -> Iterator[Span]:
    """Run the handler within `process {topic}`, linked to the creation context.

    It is a child of the span that is current and recording, if there is one, else of the creation
    context. An exception passes through; the span gets its class as `error.type`.
    """
    created = _from_header(traceparent, tracestate)
    given = _attributes("process", topic, message_id, key, tombstone=tombstone)
    given |= _delivery(partition, offset, consumer)
    span = _start_process_span(topic, created, given)
    with trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield span
        except BaseException as error:
            _set_error(span, type(error).__qualname__)
            raise


def _start_process_span(topic: str, created: SpanContext | None, given: Attributes) -> Span:
    if not tracing_is_on():
        # Current all the same, so that what the handler adds in turn belongs to the same trace.
        return NonRecordingSpan(created) if created else trace.get_current_span()
    ambient = trace.get_current_span().is_recording()
    return _tracer().start_span(
        f"process {topic}",
        None if ambient or created is None else _parent(created),
        SpanKind.CONSUMER,
        given,
        [Link(created)] if created else None,
    )


def is_sampled(traceparent: str) -> bool:
    """Look at the sampled flag and at nothing else."""
    return traceparent[54:55] in _ODD


_ODD = frozenset("13579bdf")


def _set_error(span: Span, name: str) -> None:
    span.set_attribute("error.type", name)
    span.set_status(Status(StatusCode.ERROR))


def _attributes(
    operation: str,
    topic: str,
    message_id: str,
    key: str | None,
    *,
    tombstone: bool,
    more: Mapping[str, str | int | bool] | None = None,
) -> Attributes:
    """Return what is known at the start, among it everything a sampler may ask for."""
    attributes: Attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
        "messaging.message.id": message_id,
    }
    if key is not None:
        attributes["messaging.kafka.message.key"] = key
    if tombstone:
        attributes["messaging.kafka.message.tombstone"] = True
    attributes.update(more or {})
    return attributes


def _delivery(partition: int | None, offset: int | None, consumer: str | None) -> Attributes:
    attributes: Attributes = {}
    if partition is not None:
        attributes["messaging.destination.partition.id"] = str(partition)
    if offset is not None:
        attributes["messaging.kafka.offset"] = offset
    if consumer is not None:
        attributes["messaging.consumer.group.name"] = consumer
    return attributes


def _to_header(context: SpanContext) -> tuple[str | None, str | None]:
    # By hand: the propagator costs ten times as much and gives the same text.
    if not context.is_valid:
        return None, None
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return traceparent, context.trace_state.to_header() or None


def _from_header(traceparent: str | None, tracestate: str | None) -> SpanContext | None:
    """Return the context, or None where there is none or a malformed one."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or (match[1] == "00" and match[5]):
        return None
    context = SpanContext(
        int(match[2], 16),
        int(match[3], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match[4], 16)),
        trace_state=TraceState.from_header([tracestate]) if tracestate else None,
    )
    return context if context.is_valid else None


def _parent(context: SpanContext) -> Context:
    # An empty context under it: what is current here has nothing to do with the message.
    return set_span_in_context(NonRecordingSpan(context), Context())


@lru_cache(maxsize=1)
def _tracer() -> Tracer:

    return trace.get_tracer("outbox", __version__, schema_url=SCHEMA_URL)
