"""Messages of the log, and the schemas of their payloads."""

from __future__ import annotations

import json
from uuid import uuid4

from outbox.record import Record

ID = "019aa1e0-0000-7000-8000-000000000001"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

ORDER = {
    "id": "019aa1e0-0000-7000-8000-0000000000ff",
    "total": "12.50",
    "placed_at": "2026-01-02T03:04:05.000006+02:00",
    "lines": [{"sku": "straße", "count": 2}],
    "note": None,
}

AVRO = json.dumps(
    {
        "type": "record",
        "name": "OrderPlaced",
        "namespace": "shop",
        "fields": [
            {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
            {
                "name": "total",
                "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
            },
            {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {
                "name": "lines",
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Line",
                        "fields": [
                            {"name": "sku", "type": "string"},
                            {"name": "count", "type": "int"},
                        ],
                    },
                },
            },
            {"name": "note", "type": ["null", "string"], "default": None},
        ],
    }
)

PROTO = """syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
message Other { string a = 1; }
message OrderPlaced {
  message Line { string sku = 1; int32 count = 2; }
  string id = 1;
  string total = 2;
  google.protobuf.Timestamp placed_at = 3;
  repeated Line lines = 4;
  optional string note = 5;
}
"""

JSON_SCHEMA = json.dumps(
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "OrderPlaced",
        "type": "object",
        "required": ["id", "lines"],
        "properties": {
            "id": {"type": "string"},
            "lines": {
                "type": "array",
                "items": {"type": "object", "properties": {"count": {"type": "integer"}}},
            },
        },
    }
)


def new_topic() -> str:
    """Return a topic, and so a subject, that nobody else uses."""
    return f"orders-{uuid4().hex[:8]}"


def record(
    topic: str,
    payload: object,
    *,
    content_type: str | None = "application/json",
    type: str | None = None,
    key: str | None = "k",
    headers: str | None = None,
    id: str = ID,
) -> Record:
    """Return a message; what is neither bytes nor None goes as JSON."""
    data = payload if isinstance(payload, bytes | None) else json.dumps(payload).encode()
    return Record(1, id, topic, key, data, type, content_type, headers, TRACEPARENT, None, None, 0)
