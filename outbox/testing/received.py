"""A message as an inbox gets it, from whatever the test has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from outbox.inbox.received import ReceivedMessage, from_kafka
from outbox.message import Message
from outbox.publishers.memory import PublishedMessage, as_published
from outbox.record import Record
from outbox.serialization.serializer import JsonSerializer

#: What stands for a message on its way to an inbox: one made by hand, drained, or read from Kafka.
AnyMessage: TypeAlias = Message | PublishedMessage | ReceivedMessage

#: The position of a message that no relay has sent.
_BY_HAND = "00000000-0000-0000-0000-000000000000/default/default/1/"

_json = JsonSerializer()


def as_received(message: AnyMessage, *, partition: int = 0, offset: int = 0) -> ReceivedMessage:
    """Return the message as `from_kafka` would, from this place in its topic."""
    if isinstance(message, ReceivedMessage):
        return message
    return from_kafka(_FromMemory(as_sent(message), partition, offset))


def as_sent(message: Message | PublishedMessage) -> PublishedMessage:
    """Return the message as a relay would put it on the wire; a payload becomes JSON."""
    if isinstance(message, PublishedMessage):
        return message
    if not isinstance(message, Message):
        raise TypeError(
            "this takes a message that drain() returned, one made by hand as "
            f"Message(topic, payload, …), or a ReceivedMessage, and not {type(message).__name__}"
        )
    record = Record(
        seq=1,
        id=message.id_text,
        topic=message.topic,
        key=message.key,
        payload=_serialized(message.payload),
        type=message.type,
        content_type=message.content_type or _content_type(message.payload),
        headers=message.headers_json,
        traceparent=None,
        tracestate=None,
        expired=None,
        total=0,
    )
    return as_published(record, _BY_HAND)


def _serialized(payload: object) -> bytes | None:
    if payload is None or isinstance(payload, bytes):
        return payload
    return _json.serialize(payload)


def _content_type(payload: object) -> str | None:
    return None if payload is None or isinstance(payload, bytes) else _json.content_type


@dataclass(frozen=True, slots=True)
class _FromMemory:
    """Implements KafkaMessage."""

    sent: PublishedMessage
    at_partition: int
    at_offset: int

    def error(self) -> None:
        """Return None: this is a message."""

    def topic(self) -> str:
        """Return the topic."""
        return self.sent.topic

    def partition(self) -> int:
        """Return the partition."""
        return self.at_partition

    def offset(self) -> int:
        """Return the offset."""
        return self.at_offset

    def key(self) -> bytes | None:
        """Return the key as Kafka's client gives it."""
        return None if self.sent.key is None else self.sent.key.encode()

    def value(self) -> bytes | None:
        """Return the payload."""
        return self.sent.payload

    def headers(self) -> Iterable[tuple[str, bytes | str | None]]:
        """Return the headers."""
        return self.sent.headers
