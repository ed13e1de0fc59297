"""Ask a relay's probe, from the same machine."""

from __future__ import annotations

import http.client
import json
from typing import Literal

from outbox.http.health import Verdict

PATHS = {"live": "/livez", "ready": "/readyz"}

#: Addresses to listen on that are none to connect to, and what stands for them.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared, not listened on


def probe(host: str, port: int, question: Literal["live", "ready"], timeout_s: float) -> Verdict:
    """Return what the relay answers; not ok, with the reason, when it does not."""
    connection = http.client.HTTPConnection(_ANY.get(host, host), port, timeout=timeout_s)
    try:
        connection.request("GET", PATHS[question])
        answer = connection.getresponse()
        return _verdict(answer.status, answer.read())
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Verdict(False, f"no answer from {host} port {port}: {reason}")
    finally:
        connection.close()


def _verdict(status: int, body: bytes) -> Verdict:
    if status == 200:
        return Verdict(ok=True)
    try:
        reason = json.loads(body)["reason"]
    except (ValueError, LookupError, TypeError):
        reason = None
    return Verdict(False, str(reason or f"HTTP status {status}"))
