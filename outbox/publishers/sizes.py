"""How many bytes a message takes, to the byte, without compression."""

from __future__ import annotations

from outbox.headers import WireHeaders
from outbox.record import Record

#: What stands before the records of a batch.
_BATCH_HEADER = 61

#: Of a record: attributes, and the differences of time and offset to the batch's first record.
_RECORD_HEADER = 3

#: What librdkafka adds, whatever the numbers in front of the fields really take.
_CLIENT_OVERHEAD = 36


def batch_size(record: Record, wire: WireHeaders) -> int:
    """Return the size of a batch of this message alone: what a topic's `max.message.bytes` bounds.

    `wire`: its headers.
    """
    _, _, _, key, payload, *_ = record
    body = _RECORD_HEADER + _field(_length(key)) + _field(_length(payload))
    body += _varint(len(wire)) + _headers(wire)
    return _BATCH_HEADER + _varint(body) + body


def client_size(record: Record, wire: WireHeaders) -> int:
    """Return the size that librdkafka compares with its own `message.max.bytes`."""
    _, _, _, key, payload, *_ = record
    content = max(_length(key), 0) + max(_length(payload), 0)
    return _CLIENT_OVERHEAD + content + _headers(wire)


def _headers(wire: WireHeaders) -> int:
    return sum(_field(_length(name)) + _field(_length(value)) for name, value in wire)


def _length(value: str | bytes | None) -> int:
    """Return the length on the wire, where nothing is -1."""
    if value is None:
        return -1
    return len(value.encode() if isinstance(value, str) else value)


def _field(length: int) -> int:
    return _varint(length) + max(length, 0)


def _varint(number: int) -> int:
    """Return how many bytes a signed number takes, 7 bits in each."""
    unsigned = number << 1 if number >= 0 else ~number << 1 | 1
    return max(1, (unsigned.bit_length() + 6) // 7)
