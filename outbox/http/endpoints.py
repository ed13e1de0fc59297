"""The paths that a relay answers, and with what."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from outbox.http.health import HEALTH_SCHEMA, PROBE_SCHEMA, Health, Verdict
from outbox.metrics.prometheus import Exposition

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back to who asked."""

    status: int
    content_type: str
    body: bytes


Endpoint = Callable[[str], Response]


def endpoints(health: Health, exposition: Exposition) -> Mapping[str, Endpoint]:
    """Return what answers each path; an endpoint is given the request's Accept header."""
    return {
        "/livez": lambda _: _probe(health.live()),
        "/readyz": lambda _: _probe(health.ready()),
        "/healthz": lambda _: _health(health),
        "/metrics": lambda accept: _metrics(exposition, accept),
    }


def _probe(verdict: Verdict) -> Response:
    return _json(200 if verdict.ok else 503, PROBE_SCHEMA, asdict(verdict))


def _health(health: Health) -> Response:
    healthy, everything = health.whole()
    return _json(200 if healthy else 503, HEALTH_SCHEMA, everything)


def _metrics(exposition: Exposition, accept: str) -> Response:
    body, content_type = exposition.render(accept)
    return Response(200, content_type, body)


def refusal(status: int, reason: str) -> Response:
    """Return the answer to a request that no endpoint takes."""
    return _json(status, PROBE_SCHEMA, asdict(Verdict(ok=False, reason=reason)))


def _json(status: int, schema: str, data: Mapping[str, object]) -> Response:
    text = json.dumps({"schema": schema, **data}, ensure_ascii=False, indent=2)
    return Response(status, JSON, text.encode() + b"\n")
