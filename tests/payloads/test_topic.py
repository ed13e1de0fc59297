"""A Topic stands where a name does, and knows what its payloads are."""

from __future__ import annotations

import dataclasses
import pickle
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypedDict
from uuid import UUID

import pytest

from outbox import (
    ConfigurationError,
    InvalidMessage,
    Message,
    Outbox,
    PayloadNotSerializable,
    Topic,
)
from outbox.inbox.settings import checked_topics


@dataclass(frozen=True)
class OrderPlaced:
    order: int


class ExpressOrderPlaced(OrderPlaced):
    """A payload of a subclass is one of the class."""


@dataclass(frozen=True)
class OrderCancelled:
    order: int


class Refund(TypedDict):
    order: int


def order_of(placed: OrderPlaced) -> int:
    return placed.order


class Upper:
    """A serializer of a topic's own."""

    content_type = "text/plain"

    def serialize(self, payload: Any) -> bytes:
        return str(payload).upper().encode()


PLACED = Topic("orders", OrderPlaced, type="order.placed", key=order_of, lane="fast")
CANCELLED = Topic("orders", OrderCancelled, type="order.cancelled", lane="fast")


def test_a_message_gets_what_its_topic_was_declared_with() -> None:
    message = Message(PLACED, OrderPlaced(7))

    assert (message.topic, message.type, message.key) == ("orders", "order.placed", "7")
    assert (message.lane, message.payload) == ("fast", OrderPlaced(7))


def test_a_message_that_says_otherwise_wins() -> None:
    message = Message(PLACED, OrderPlaced(7), key="k", type="t", lane="slow", content_type="a/b")

    assert (message.key, message.type, message.lane) == ("k", "t", "slow")
    assert message.content_type == "a/b"


def test_a_subclass_of_the_payload_is_taken() -> None:
    assert Message(PLACED, ExpressOrderPlaced(1)).type == "order.placed"


@pytest.mark.parametrize(
    ("topic", "payload", "sentence"),
    [
        (PLACED, OrderCancelled(1), "topic 'orders' takes OrderPlaced, not OrderCancelled"),
        (PLACED, {"order": 1}, r"topic 'orders' takes OrderPlaced, not dict: \{'order': 1\}"),
        (PLACED, b"{}", "topic 'orders' takes OrderPlaced, not bytes"),
        (PLACED | CANCELLED, 7, "takes OrderPlaced or OrderCancelled, not int: 7"),
        (Topic("refunds", Refund), [1], r"takes Refund, not list"),
        (Topic("numbers", list[int]), {}, r"takes list\[int\], not dict"),
    ],
)
def test_another_payload_is_refused_with_both_types(
    topic: Topic[Any], payload: object, sentence: str
) -> None:
    with pytest.raises(PayloadNotSerializable, match=sentence):
        Message(topic, payload)


def test_a_refused_payload_writes_nothing() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        with pytest.raises(InvalidMessage, match="takes OrderPlaced"):
            Outbox().add(connection, PLACED, "order 7")  # type: ignore[misc]  # that is the point

        assert not connection.in_transaction


def test_generic_types_are_taken_by_their_class() -> None:
    assert Message(Topic("numbers", list[int]), [1]).payload == [1]
    assert Message(Topic("refunds", Refund), {"order": 1}).payload == {"order": 1}
    assert Message(Topic("sizes", float), 1).payload == 1


def test_a_tombstone_needs_a_key_and_says_no_type() -> None:
    message = Message(PLACED | CANCELLED, None, key=7)

    assert (message.payload, message.key, message.type, message.lane) == (None, "7", None, "fast")
    with pytest.raises(InvalidMessage, match="tombstone"):
        Message(PLACED, None)


def test_a_topic_of_several_types_gives_each_its_own() -> None:
    orders = PLACED | CANCELLED

    assert Message(orders, OrderCancelled(1), key=1).type == "order.cancelled"
    assert Message(orders, OrderPlaced(1)).type == "order.placed"
    assert repr(orders) == "Topic('orders', OrderPlaced | OrderCancelled)"


def test_the_most_exact_of_several_types_counts() -> None:
    express = Topic("orders", ExpressOrderPlaced, type="order.express", lane="fast")

    assert Message(PLACED | express, ExpressOrderPlaced(1), key=1).type == "order.express"


def test_what_cannot_be_one_topic_is_refused() -> None:
    for other, sentence in (
        (Topic("refunds", Refund, type="r", lane="fast"), "its name cannot be both"),
        (Topic("orders", Refund, type="r"), "its lane cannot be both 'fast' and None"),
        (Topic("orders", Refund, lane="fast"), "give each of them its own type="),
        (Topic("orders", Refund, type="order.placed", lane="fast"), "its own type="),
        (Topic("orders", OrderPlaced, type="p", lane="fast"), "cannot be told apart"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            PLACED | other


def test_a_declaration_that_cannot_be_is_refused_where_it_stands() -> None:
    with pytest.raises(InvalidMessage, match="not a valid Kafka topic name"):
        Topic("my orders", OrderPlaced)
    with pytest.raises(ConfigurationError, match=r'Topic\("orders", OrderPlaced, type=…\) \| '):
        Topic("orders", OrderPlaced | OrderCancelled)  # type: ignore[arg-type]  # the point
    with pytest.raises(ConfigurationError, match="must be a class, not OrderPlaced\\(order=1\\)"):
        Topic("orders", OrderPlaced(1))  # type: ignore[arg-type]  # the point
    with pytest.raises(ConfigurationError, match="lane 'a b' is not a valid name"):
        Topic("orders", OrderPlaced, lane="a b")


def test_a_topic_is_a_value() -> None:
    assert Topic("orders", OrderPlaced, type="order.placed", key=order_of, lane="fast") == PLACED
    assert hash(PLACED) == hash(pickle.loads(pickle.dumps(PLACED)))
    assert str(PLACED) == "orders"
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLACED.name = "other"  # type: ignore[misc]  # that is the point


def test_a_serializer_of_the_topics_own_is_used_in_place_of_the_outboxs() -> None:
    message = Message(Topic("words", str, serializer=Upper()), "hello")

    assert (message.payload, message.content_type) == (b"HELLO", "text/plain")


def test_what_a_serializer_of_a_topics_own_returns_must_be_bytes() -> None:
    class Text(Upper):
        def serialize(self, payload: Any) -> bytes:
            return str(payload)  # type: ignore[return-value]  # that is the point

    with pytest.raises(PayloadNotSerializable, match=r"Text.serialize\(\) returned str"):
        Message(Topic("words", str, serializer=Text()), "hello")


def test_a_consumer_takes_topics_in_place_of_names() -> None:
    assert checked_topics([PLACED, "refunds"]) == ["orders", "refunds"]
    with pytest.raises(ConfigurationError, match="topics must be a list"):
        checked_topics(PLACED)  # type: ignore[arg-type]  # that is the point


def test_a_copied_message_keeps_what_its_topic_gave() -> None:
    message = Message(PLACED, OrderPlaced(7), id=UUID(int=1))

    assert dataclasses.replace(message) == message
    assert pickle.loads(pickle.dumps(message)) == message
