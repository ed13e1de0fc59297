"""What becomes of a Kafka message when it is read."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from outbox.errors import InvalidMessage, MissingMessageId
from outbox.inbox import ReceivedMessage, from_kafka

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class FakeKafkaMessage:
    """A `confluent_kafka.Message`, which cannot be made by hand."""

    sent_headers: list[tuple[str, bytes | None]] | None = None
    sent_key: bytes | str | None = b"7"
    sent_value: bytes | str | None = b"{}"
    event: str | None = None

    def error(self) -> object | None:
        return self.event

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 41

    def key(self) -> bytes | str | None:
        return self.sent_key

    def value(self) -> bytes | str | None:
        return self.sent_value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self.sent_headers


def with_id(*more: tuple[str, bytes | None], **rest: object) -> FakeKafkaMessage:
    return FakeKafkaMessage([("id", b"m-1"), *more], **rest)  # type: ignore[arg-type] # of a fake


def test_a_message_of_the_relay_is_read_field_by_field() -> None:
    # Given a message with every header that the relay sends
    sent = with_id(
        ("type", b"order.placed"),
        ("content-type", b"application/json"),
        ("traceparent", TRACEPARENT.encode()),
        ("tracestate", b"a=b"),
        ("outbox-position", b"log/default/default/7/1234"),
    )

    # When it is read
    received = from_kafka(sent)

    # Then each field has its part of it
    assert (received.id, received.type) == ("m-1", "order.placed")
    assert (received.topic, received.partition, received.offset) == ("orders", 3, 41)
    assert (received.key, received.payload) == (b"7", b"{}")
    assert received.position == "log/default/default/7/1234"
    assert (received.traceparent, received.tracestate) == (TRACEPARENT, "a=b")


def test_headers_keep_order_repetition_and_null() -> None:
    pairs = [("b", b"2"), ("a", None), ("b", b"\xff"), ("", b"")]
    assert from_kafka(with_id(*pairs)).headers == (("id", b"m-1"), *pairs)


def test_a_tombstone_without_key_and_optional_headers_reads_as_none() -> None:
    received = from_kafka(with_id(sent_key=None, sent_value=None))
    assert (received.key, received.payload, received.type, received.position) == (None,) * 4
    assert (received.traceparent, received.tracestate) == (None, None)


def test_text_from_a_client_that_decodes_becomes_bytes_again() -> None:
    received = from_kafka(with_id(sent_key="schlüssel", sent_value="ü"))
    assert (received.key, received.payload) == ("schlüssel".encode(), "ü".encode())


def test_the_first_of_repeated_headers_counts() -> None:
    sent = with_id(("id", b"m-2"), ("type", b"first"), ("type", b"second"))
    received = from_kafka(sent)
    assert (received.id, received.type) == ("m-1", "first")


def test_a_text_header_that_is_not_utf8_does_not_stop_the_message() -> None:
    assert from_kafka(with_id(("type", b"order\xff"))).type == "order\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (None, "no `id` header"),
        ([], "no `id` header"),
        ([("ID", b"m-1")], "no `id` header"),
        ([("id", None)], "no `id` header"),
        ([("id", b"")], "`id` header is empty"),
        ([("id", b"\xff\xfe")], "not UTF-8"),
        ([("id", b"a\0b")], "U\\+0000"),
        ([("id", b"x" * 1025)], "1025 bytes, 1024 are the limit"),
    ],
)
def test_without_a_usable_id_the_error_names_the_place_the_reason_and_the_remedy(
    headers: list[tuple[str, bytes | None]] | None, reason: str
) -> None:
    place = "topic 'orders', partition 3, offset 41"
    with pytest.raises(MissingMessageId, match=rf"{place}.*{reason}.*pass id_from="):
        from_kafka(FakeKafkaMessage(headers))


def test_id_from_gives_the_id_where_no_header_does() -> None:
    received = from_kafka(FakeKafkaMessage(), id_from=lambda m: f"{m.topic()}/{m.offset()}")
    assert received.id == "orders/41"


def test_id_from_is_not_asked_where_a_header_gives_the_id() -> None:
    assert from_kafka(with_id(), id_from=lambda _: pytest.fail("was asked")).id == "m-1"


@pytest.mark.parametrize(
    ("answer", "reason"), [("", "is empty"), (None, "not text but NoneType"), ("\ud800", "lone")]
)
def test_an_unusable_answer_of_id_from_is_refused(answer: str, reason: str) -> None:
    with pytest.raises(MissingMessageId, match=rf"id_from returned .*{reason}"):
        from_kafka(FakeKafkaMessage(), id_from=lambda _: answer)


def test_an_id_of_1024_bytes_is_accepted() -> None:
    assert from_kafka(FakeKafkaMessage([("id", "ü".encode() * 512)])).id == "ü" * 512


def test_an_error_event_is_not_taken_for_a_message() -> None:
    with pytest.raises(InvalidMessage, match=r"Broker: unknown topic.*look at message\.error"):
        from_kafka(with_id(event="Broker: unknown topic"))


def test_the_repr_shows_nothing_private() -> None:
    received = from_kafka(with_id(("token", b"secret"), sent_key=b"secret", sent_value=b"secret"))
    assert "secret" not in repr(received)
    assert "id='m-1', topic='orders', partition=3, offset=41" in repr(received)


def test_a_received_message_cannot_be_changed() -> None:
    received = ReceivedMessage("m-1", "orders", 0, 0)
    with pytest.raises(AttributeError):
        received.id = "m-2"  # type: ignore[misc] # which is the point


def test_importing_the_inbox_loads_no_driver() -> None:
    drivers = {"confluent_kafka", "sqlalchemy", "psycopg", "click"}
    program = f"import sys, outbox.inbox; print({drivers!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
