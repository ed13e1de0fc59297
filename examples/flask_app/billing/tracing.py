"""OpenTelemetry, set up as in any service: if an endpoint is given, spans go there."""

from __future__ import annotations

import os
from functools import cache


@cache
def set_up_tracing() -> None:
    """Export spans to OTEL_EXPORTER_OTLP_ENDPOINT; do nothing where it is not set.

    Once a process, however many apps it makes.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", "billing")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
