"""CloudEvents 1.0 on Kafka: what a message gets besides, or what it is wrapped in."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from outbox.encoding.encoder import is_json, parsed_json
from outbox.errors import ConfigurationError
from outbox.headers import WireHeaders, stored_headers, user_headers
from outbox.record import Record

STRUCTURED = "application/cloudevents+json; charset=utf-8"

_PREFIX = "ce_"


def binding(mode: str, source: str) -> Callable[[Record], Record]:
    """Return what makes a record a CloudEvent of `source`, in one of the two forms.

    A structured event carries its payload in itself. Raises Misfit for one that says it is JSON and
    is none.
    """
    forms = {"binary": _binary, "structured": _structured}
    if mode not in forms:
        raise ConfigurationError(f"cloudevents must be off, binary or structured, not {mode!r}")
    make = forms[mode]
    return lambda record: make(record, source)


def _binary(record: Record, source: str) -> Record:
    attributes = _attributes(record, source)
    given = _given(record)
    headers: WireHeaders = [
        (f"{_PREFIX}{name}", value.encode()) for name, value in attributes.items()
    ]
    # An attribute of ours wins over a header of that name; others, as ce_subject, are the user's.
    headers += [pair for pair in given if pair[0].lower().removeprefix(_PREFIX) not in attributes]
    return record._replace(headers=stored_headers(headers))


def _structured(record: Record, source: str) -> Record:
    if record.payload is None:
        return record  # deletes its key, which an envelope would not
    given = _given(record)
    attributes = {
        name.lower().removeprefix(_PREFIX): value.decode(errors="replace")
        for name, value in given
        if name.lower().startswith(_PREFIX) and value is not None
    }
    attributes |= _attributes(record, source)
    if record.content_type is not None:
        attributes["datacontenttype"] = record.content_type
    envelope = json.dumps(attributes, ensure_ascii=False, separators=(",", ":"))
    return record._replace(
        payload=f"{envelope[:-1]},{_data(record, record.payload)}}}".encode(),
        content_type=STRUCTURED,
        headers=stored_headers([pair for pair in given if not pair[0].lower().startswith(_PREFIX)]),
    )


def _data(record: Record, payload: bytes) -> str:
    if is_json(record.content_type):
        parsed_json(payload)
        return f'"data":{payload.decode()}'
    return f'"data_base64":"{base64.b64encode(payload).decode()}"'


def _given(record: Record) -> WireHeaders:
    return [] if record.headers is None else user_headers(record.headers)


def _attributes(record: Record, source: str) -> dict[str, str]:
    """Return the attributes that are known of a record.

    A message without a type is of the type of its topic, since an event must have one.
    """
    attributes = {
        "specversion": "1.0",
        "id": record.id,
        "source": source,
        "type": record.type or record.topic,
    }
    if (moment := _moment(record.id)) is not None:
        attributes["time"] = moment
    if record.key is not None:
        attributes["partitionkey"] = record.key
    if record.traceparent is not None:
        attributes["traceparent"] = record.traceparent
    if record.tracestate is not None:
        attributes["tracestate"] = record.tracestate
    return attributes


def _moment(message_id: str) -> str | None:
    """Return when a UUIDv7 was made; other ids do not say."""
    number = UUID(message_id)
    if number.version != 7:
        return None
    moment = datetime.fromtimestamp((number.int >> 80) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
