"""A Kafka within the test's process: what it takes, keeps and refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, Producer
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from outbox import BrokerUnavailable, ConfigurationError, Message, Outbox, OutboxError
from outbox.database import DatabaseUrl
from outbox.inbox import Inbox, InboxConsumer, Outcome, ReceivedMessage
from outbox.names import Names
from outbox.publishers.kafka import KafkaPublisher
from outbox.relay.relay import Relay
from outbox.store.opening import open_store
from outbox.testing import KafkaMock, drain
from tests.integration.writing import Database
from tests.waiting import wait_until

order = Message("orders", {"order": 1}, key="ada", type="order.placed")


@pytest.fixture
def kafka_mock(monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaMock]:
    """Give the mock cluster of the plugin, with a publisher that does not wait for settings."""
    monkeypatch.setattr("outbox.publishers.topics._ASK_TIMEOUT_S", 0.2)
    with KafkaMock() as kafka:
        yield kafka


def test_what_is_sent_can_be_read(kafka_mock: KafkaMock) -> None:
    """As it is on the wire, repeats included."""
    # Given a topic
    assert kafka_mock.create_topic("orders", partitions=3) == "orders"

    # When a message is sent twice
    kafka_mock.send(order, times=2)

    # Then it is there twice, with one id
    first, second = kafka_mock.read("orders")
    assert (first.id, first.type, first.key) == (str(order.id), "order.placed", b"ada")
    assert first.payload == b'{"order":1}'
    assert second.id == first.id
    assert second.offset == first.offset + 1


def test_a_topic_that_nobody_made_is_empty(kafka_mock: KafkaMock) -> None:
    """It comes into being when it is asked for."""
    assert kafka_mock.read("orders") == []


def test_a_message_without_an_id_gets_its_place(kafka_mock: KafkaMock) -> None:
    """Others write to Kafka, too."""
    kafka_mock.create_topic("orders")
    producer = Producer({"bootstrap.servers": kafka_mock.bootstrap_servers})
    producer.produce("orders", b"x")
    assert producer.flush(30) == 0

    assert [message.id for message in kafka_mock.read("orders")] == ["orders/0/0"]


def test_the_relay_publishes_to_it(kafka_mock: KafkaMock, sqlite: Database) -> None:
    """And waits out what it refuses for a while."""
    # Given some messages, and a broker that refuses two requests
    kafka_mock.create_topic("orders")
    with Session(sqlite.engine()) as session:
        Outbox().add_all(session, [Message("orders", n, key="ada") for n in range(5)])
        session.commit()
    kafka_mock.fail_sends(2)

    # When the relay runs
    store = open_store(DatabaseUrl.parse(sqlite.url), Names())
    properties = {"bootstrap.servers": kafka_mock.bootstrap_servers, "retry.backoff.ms": 10}
    with Relay(store, lambda: KafkaPublisher(properties)) as relay:
        relay.run_once()

    # Then all of them are there, in order
    assert [int(m.payload or b"") for m in kafka_mock.read("orders")] == [0, 1, 2, 3, 4]


def test_an_inbox_consumer_takes_what_was_drained_twice(
    kafka_mock: KafkaMock, sqlite: Database
) -> None:
    """The whole way through a Kafka, without a server."""
    # Given a message on its way, twice
    sessions = sessionmaker(sqlite.engine())
    with sessions.begin() as session:
        Outbox().add(session, "orders", {"order": 1}, key="ada")
        session.execute(text("create table bill (id text)"))
    kafka_mock.create_topic("orders")
    kafka_mock.send(*drain(sqlite.url), times=2)

    # When a consumer takes both
    def write_bill(session: Session, message: ReceivedMessage) -> None:
        session.execute(text("insert into bill values (:id)"), {"id": message.id})

    with InboxConsumer(
        Inbox("billing"),
        transaction_factory=sessions.begin,
        kafka={"bootstrap.servers": kafka_mock.bootstrap_servers},
        topics=["orders"],
    ) as consumer:
        outcomes = [
            wait_until(lambda: consumer.run_once(write_bill, timeout=0.1), what="a message")
            for _ in range(2)
        ]

    # Then it took effect once
    assert outcomes == [Outcome.HANDLED, Outcome.DUPLICATE]
    assert len(sqlite.rows("(select rowid as seq, * from bill)")) == 1


@pytest.mark.parametrize("error", ["MSG_SIZE_TOO_LARGE", KafkaError.MSG_SIZE_TOO_LARGE])
def test_it_refuses_on_demand(kafka_mock: KafkaMock, error: str | int) -> None:
    """With an error that does not pass."""
    kafka_mock.create_topic("orders")
    kafka_mock.fail_sends(error=error)

    with pytest.raises(BrokerUnavailable, match="MSG_SIZE_TOO_LARGE"):
        kafka_mock.send(order)

    assert kafka_mock.read("orders") == []


def test_it_goes_down_and_comes_up_with_its_messages(kafka_mock: KafkaMock) -> None:
    """An outage is not a loss."""
    kafka_mock.create_topic("orders")
    kafka_mock.send(order)
    kafka_mock.take_down()
    with pytest.raises(BrokerUnavailable, match="topic 'orders' could not be read"):
        kafka_mock.read("orders", timeout_s=0.5)

    kafka_mock.bring_up()

    assert len(kafka_mock.read("orders")) == 1


def test_it_answers_late_on_demand(kafka_mock: KafkaMock) -> None:
    """An acknowledgement takes as long as it is told to."""
    kafka_mock.create_topic("orders")
    kafka_mock.send(order)
    kafka_mock.delay(0.1)

    began = time.monotonic()
    kafka_mock.send(order)

    assert time.monotonic() - began >= 0.1


def test_what_it_has_forgotten_is_said(kafka_mock: KafkaMock) -> None:
    """A test that read half of a topic would pass by luck."""
    kafka_mock.create_topic("orders")
    kafka_mock.send(Message("orders", b"x" * 900_000), times=8)

    with pytest.raises(OutboxError, match="is not whole any more"):
        kafka_mock.read("orders")


def test_nonsense_is_refused(kafka_mock: KafkaMock) -> None:
    """By name."""
    with pytest.raises(ConfigurationError, match="'NO_SUCH' is not the name"):
        kafka_mock.fail_sends(error="NO_SUCH")
    kafka_mock.create_topic("orders")
    with pytest.raises(ConfigurationError, match=r"made no topic 'orders' .* TOPIC_ALREADY_EXISTS"):
        kafka_mock.create_topic("orders")


def test_closing_twice_is_fine() -> None:
    """As with files."""
    kafka = KafkaMock(brokers=3)
    assert kafka.bootstrap_servers.count(":") == 3
    kafka.close()
    kafka.close()
