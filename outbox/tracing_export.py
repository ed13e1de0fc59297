"""An SDK for the commands' spans: nobody else in their process configures one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace

from outbox.tracing import tracing_is_on

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger("outbox.tracing")

#: How long the end of the process waits for spans to leave, in seconds.
_FLUSH_S = 5.0


@contextmanager
def exported_spans(environ: Mapping[str, str]) -> Iterator[None]:
    """Export spans where OpenTelemetry's own variables name an endpoint, and flush at the end.

    A provider that is there already, from `opentelemetry-instrument` say, is left alone. What is
    missing for it is said once, and never keeps the relay from working.
    """
    if not _names_endpoint(environ) or tracing_is_on() or (provider := _provider(environ)) is None:
        yield
        return
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # In a thread, since the exporter tries again for longer than a stop should take.
        flush = threading.Thread(target=provider.shutdown, name="outbox-spans", daemon=True)
        flush.start()
        flush.join(_FLUSH_S)


def _names_endpoint(environ: Mapping[str, str]) -> bool:
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").split(",")
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return not off and "none" not in exporters and any(environ.get(name) for name in names)


def _provider(environ: Mapping[str, str]) -> TracerProvider | None:
    general = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", general)
    if protocol not in ("", "http/protobuf"):
        logger.warning("no spans are exported: the protocol is %r, not http/protobuf", protocol)
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning('no spans are exported: that needs `pip install "outbox-relay[otel]"`')
        return None
    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if named else {"service.name": "outbox-relay"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
