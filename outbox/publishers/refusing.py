"""What a failure to send is called, and which messages of a page cannot be sent at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from outbox.errors import BrokerUnavailable, MessageRefused
from outbox.headers import WireHeaders, wire_headers
from outbox.publishers.base import DeliveryFailed, PageRefused, TopicLost
from outbox.publishers.faults import Fault
from outbox.record import Record

T = TypeVar("T")


def failure_of(record: Record, reason: str, fault: Fault) -> BrokerUnavailable | MessageRefused:
    """Return what is raised when a message was not sent, by whose fault that is."""
    sentence = f"message {record.id} for topic {record.topic!r}: {reason}"
    if fault is Fault.MESSAGE:
        return MessageRefused(sentence)
    if fault is Fault.TOPIC:
        return topic_lost(record.topic, reason)
    return DeliveryFailed(sentence)


def topic_lost(topic: str, said: str, right: str = "write to it") -> TopicLost:
    """Return what is raised when a topic took nothing of what was sent to it."""
    why = why_closed(topic, said, right)
    return TopicLost(why, {topic: why})


def why_closed(topic: str, said: str, right: str = "write to it") -> str:
    """Return the sentence about a topic that cannot be written to. `said`: what Kafka says."""
    return (
        f"topic {topic!r}: {said.removeprefix('Broker: ')}; create the topic or grant the relay the"
        f" right to {right}. Nothing is lost meanwhile"
    )


def wires_of(records: list[Record], position_prefix: str) -> list[WireHeaders]:
    """Return the headers of each message. Raises PageRefused for headers that are none."""
    if not position_prefix:
        return each_or_refused(records, _without_position)
    try:
        return [
            wire_headers(id_, type_, content, parent, state, f"{position_prefix}{seq}", headers)
            for seq, id_, _, _, _, type_, content, headers, parent, state, _, _ in records
        ]
    except MessageRefused:
        return each_or_refused(records, _without_position)  # raises, with all of them


def _without_position(record: Record) -> WireHeaders:
    _, id_, _, _, _, type_, content, headers, parent, state, _, _ = record
    return wire_headers(id_, type_, content, parent, state, None, headers)


def each_or_refused(records: Sequence[Record], make: Callable[[Record], T]) -> list[T]:
    """Return what is made of each message; raise PageRefused with all of which it cannot be."""
    made, reasons = [], {}
    for index, record in enumerate(records):
        try:
            made.append(make(record))
        except MessageRefused as error:
            reasons[index] = str(error)
    if reasons:
        raise PageRefused(reasons)
    return made
