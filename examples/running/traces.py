"""Spans, received as OTLP and told as Jaeger tells them: enough of both for one example.

With a real collector none of this is needed; the services speak OTLP to it just the same.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

#: So many traces are kept.
KEPT = 2_000

_KINDS = {2: "server", 3: "client", 4: "producer", 5: "consumer"}


class Traces:
    """The latest traces, by their ids."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._traces: OrderedDict[str, list[tuple[str, Span]]] = OrderedDict()

    def receive(self, request: ExportTraceServiceRequest) -> None:
        """Keep what a service exports."""
        for resource_spans in request.resource_spans:
            service = _attributes(resource_spans.resource.attributes).get("service.name", "unknown")
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    self._keep(str(service), span)

    def _keep(self, service: str, span: Span) -> None:
        with self._lock:
            self._traces.setdefault(span.trace_id.hex(), []).append((service, span))
            while len(self._traces) > self._kept:
                self._traces.popitem(last=False)

    def as_jaeger(self, trace_id: str) -> dict[str, Any] | None:
        """Return a trace in the form of Jaeger's `/api/traces/{id}`, None if it is unknown."""
        with self._lock:
            spans = list(self._traces.get(trace_id, ()))
        if not spans:
            return None
        services = sorted({service for service, _ in spans})
        return {
            "traceID": trace_id,
            "spans": [_span(service, span) for service, span in spans],
            "processes": {service: {"serviceName": service, "tags": []} for service in services},
        }


def _span(service: str, span: Span) -> dict[str, Any]:
    tags = _attributes(span.attributes)
    if span.kind in _KINDS:
        tags["span.kind"] = _KINDS[span.kind]
    if span.status.code == Status.StatusCode.STATUS_CODE_ERROR:
        tags["error"] = True
    parents = [("CHILD_OF", span.trace_id, span.parent_span_id)] if span.parent_span_id else []
    links = [("FOLLOWS_FROM", link.trace_id, link.span_id) for link in span.links]
    return {
        "traceID": span.trace_id.hex(),
        "spanID": span.span_id.hex(),
        "operationName": span.name,
        "references": [
            {"refType": kind, "traceID": trace.hex(), "spanID": other.hex()}
            for kind, trace, other in (*parents, *links)
        ],
        "startTime": span.start_time_unix_nano // 1000,
        "duration": (span.end_time_unix_nano - span.start_time_unix_nano) // 1000,
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
        "processID": service,
    }


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in pairs}


@contextmanager
def collect(traces: Traces) -> Iterator[str]:
    """Receive spans and tell of them, on a loopback port; yield the URL for both."""

    class Handler(_Handler):
        kept = traces

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="traces", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    kept: Traces

    def do_POST(self) -> None:
        """Take spans."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.kept.receive(ExportTraceServiceRequest.FromString(body))
        self._answer(
            HTTPStatus.OK,
            ExportTraceServiceResponse().SerializeToString(),
            "application/x-protobuf",
        )

    def do_GET(self) -> None:
        """Tell of a trace."""
        trace = self.kept.as_jaeger(self.path.rpartition("/")[2])
        found = {"data": [] if trace is None else [trace]}
        status = HTTPStatus.OK if trace else HTTPStatus.NOT_FOUND
        self._answer(status, json.dumps(found).encode(), "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing: services export every half a second."""
