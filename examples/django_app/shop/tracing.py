"""OpenTelemetry, set up as in any service: if an endpoint is given, spans go there."""

from __future__ import annotations

import os
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from opentelemetry import trace

View = Callable[[HttpRequest], HttpResponse]


def set_up_tracing() -> None:
    """Export spans to OTEL_EXPORTER_OTLP_ENDPOINT; do nothing where it is not set."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", "shop")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def trace_changes(get_response: View) -> View:
    """Give every request that changes something a span, within which its messages are written.

    Requests that only look are left out: a page that follows an order sends two a second.
    """
    tracer = trace.get_tracer("shop")

    def traced(request: HttpRequest) -> HttpResponse:
        if request.method in ("GET", "HEAD"):
            return get_response(request)
        name = f"{request.method} {request.path}"
        with tracer.start_as_current_span(name, kind=trace.SpanKind.SERVER) as span:
            response = get_response(request)
            span.set_attribute("http.response.status_code", response.status_code)
        return response

    return traced
