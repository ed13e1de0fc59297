"""Messages are CloudEvents where the relay is told so, as the library `cloudevents` reads them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from cloudevents.core.bindings.kafka import (
    KafkaMessage,
    from_binary_event,
    from_structured_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from outbox import ConfigurationError, MessageRefused, Topic
from outbox.encoding import Encodings
from outbox.headers import stored_headers, user_headers, wire_headers
from outbox.inbox import cloudevents_id, from_kafka
from tests.payloads.records import ID, ORDER, TRACEPARENT, record

if TYPE_CHECKING:
    from outbox.record import Record

BINARY = Encodings(cloudevents="binary", source="/shop/orders")
STRUCTURED = Encodings(cloudevents="structured", source="/shop/orders")


class Received:
    """What a consumer of Kafka has in hand."""

    def __init__(self, value: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
        self._value = value
        self._headers = headers

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 7

    def key(self) -> bytes | None:
        return b"k"

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes | None]]:
        return self._headers


def on_the_wire(sent: Record) -> Received:
    headers = wire_headers(
        *(sent.id, sent.type, sent.content_type, sent.traceparent, sent.tracestate),
        *("log/relay/lane/1/1", sent.headers),
    )
    return Received(sent.payload, headers)


def as_kafka_message(received: Received) -> KafkaMessage:
    headers = {name: value or b"" for name, value in received.headers()}
    return KafkaMessage(headers=headers, key=received.key(), value=received.value() or b"")


def test_the_library_reads_a_binary_event() -> None:
    sent = BINARY.apply(
        record("orders", ORDER, type="order.placed", headers='{"ce_subject":"7","tenant":"a"}')
    )

    event = from_binary_event(as_kafka_message(on_the_wire(sent)), JSONFormat())

    assert (event.get_id(), event.get_type()) == (ID, "order.placed")
    assert (event.get_source(), event.get_specversion()) == ("/shop/orders", "1.0")
    assert event.get_time() == datetime(2025, 11, 20, 15, 26, 43, 200_000, UTC)
    assert event.get_datacontenttype() == "application/json"
    assert event.get_data() == ORDER
    assert event.get_subject() == "7"
    assert event.get_extension("traceparent") == TRACEPARENT
    assert event.get_extension("partitionkey") == "k"


def test_our_own_headers_stay_so_that_the_inbox_works() -> None:
    sent = BINARY.apply(record("orders", ORDER, type="order.placed", headers='{"tenant":"a"}'))

    message = from_kafka(on_the_wire(sent))

    assert (message.id, message.type, message.position) == (
        ID,
        "order.placed",
        "log/relay/lane/1/1",
    )
    assert message.traceparent == TRACEPARENT
    assert dict(message.headers)["tenant"] == b"a"
    assert message.payload == json.dumps(ORDER).encode()


def test_the_library_reads_a_structured_event() -> None:
    sent = STRUCTURED.apply(record("orders", ORDER, type="order.placed"))

    event = from_structured_event(as_kafka_message(on_the_wire(sent)), JSONFormat())

    assert (event.get_id(), event.get_type(), event.get_data()) == (ID, "order.placed", ORDER)
    assert event.get_datacontenttype() == "application/json"
    assert event.get_extension("traceparent") == TRACEPARENT


def test_a_structured_event_carries_bytes_and_a_topic_reads_it() -> None:
    raw = STRUCTURED.apply(record("orders", b"\xff\x00", content_type="image/png"))
    typed = STRUCTURED.apply(record("orders", {"a": 1}, type="a"))

    event = from_structured_event(as_kafka_message(on_the_wire(raw)), JSONFormat())
    assert event.get_data() == b"\xff\x00"
    topic = Topic("orders", dict[str, int], type="a")
    assert topic.decode(from_kafka(on_the_wire(typed))) == {"a": 1}


@pytest.mark.parametrize("encodings", [BINARY, STRUCTURED], ids=["binary", "structured"])
def test_a_tombstone_stays_one(encodings: Encodings) -> None:
    sent = encodings.apply(record("orders", None, content_type=None))

    assert sent.payload is None
    assert sent.key == "k"


def test_what_an_event_must_have_is_there_without_a_type_a_key_and_a_time_in_the_id() -> None:
    sent = BINARY.apply(record("orders", ORDER, key=None, id=str(uuid4())))

    headers = dict(on_the_wire(sent).headers())
    assert headers["ce_type"] == b"orders"
    assert "ce_time" not in headers
    assert "ce_partitionkey" not in headers


def test_attributes_that_are_ours_cannot_be_set_by_headers() -> None:
    given = '[["CE_id","x"],["ce_source","y"],["id","z"],["ce_mine","m"]]'

    names = [name.lower() for name, _ in on_the_wire(_sent(given)).headers()]

    assert names.count("ce_id") == names.count("ce_source") == names.count("id") == 1
    assert "ce_mine" in names


def _sent(headers: str) -> Record:
    return BINARY.apply(record("orders", ORDER, headers=headers))


@pytest.mark.parametrize("structured", [False, True], ids=["binary", "structured"])
def test_a_foreign_producers_event_is_consumed_once_by_source_and_id(*, structured: bool) -> None:
    attributes: dict[str, Any] = {
        "id": "A234",
        "source": "https://example.com/billing",
        "type": "invoice.paid",
        "specversion": "1.0",
        "datacontenttype": "application/json",
    }
    event = CloudEvent(attributes, {"invoice": 7})
    written = (to_structured_event if structured else to_binary_event)(event, JSONFormat())
    value = written.value if isinstance(written.value, bytes) else bytes(written.value or b"")
    headers: list[tuple[str, bytes | None]] = list(written.headers.items())

    message = from_kafka(Received(value, headers), id_from=cloudevents_id)

    assert message.id == "https://example.com/billing A234"
    assert Topic("x", dict[str, int], type="invoice.paid").decode(message) == {"invoice": 7}


def test_what_is_no_event_has_no_id() -> None:
    for headers in ([], [("ce_id", b"1")], [("content-type", b"application/cloudevents+json")]):
        assert cloudevents_id(Received(b"{}", headers)) == ""


def test_a_source_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="cloudevents needs a source"):
        Encodings(cloudevents="binary")
    with pytest.raises(ConfigurationError, match="must be off, binary or structured, not 'yes'"):
        Encodings(cloudevents="yes", source="/shop")


def test_headers_are_stored_and_come_back_whatever_their_bytes() -> None:
    headers: list[tuple[str, bytes | None]] = [("a", b"\xff\x00"), ("a", b"text"), ("b", None)]

    assert user_headers(stored_headers(headers)) == headers
    with pytest.raises(MessageRefused, match="column headers"):
        user_headers('{"a":{"base64":"no base64!"}}')
