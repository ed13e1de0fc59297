"""A Kafka of three brokers within this process: librdkafka's mock cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from outbox.errors import BrokerUnavailable, MissingExtra
from outbox.inbox.received import ReceivedMessage, from_kafka

BROKERS = 3

_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Cluster:
    """Brokers on loopback ports. They, and all messages, live as long as this process."""

    bootstrap_servers: str

    def read(self, topic: str) -> list[ReceivedMessage]:
        """Return all messages of a topic, each partition in its order, without joining a group."""
        from confluent_kafka import Consumer

        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap_servers, "group.id": "reader", "log_level": 0}
        )
        try:
            return _read_to_end(consumer, topic)
        finally:
            consumer.close()


def show(message: ReceivedMessage) -> Iterator[str]:
    """Yield a message as it is on the wire, line by line."""
    yield f"key       {(message.key or b'').decode()}"
    yield f"payload   {(message.payload or b'').decode()}"
    for name, value in message.headers:
        yield f"header    {name}: {(value or b'').decode()}"


@contextmanager
def run_cluster(topic: str) -> Iterator[Cluster]:
    """Run the brokers, with one topic of a few partitions."""
    try:
        from confluent_kafka import Producer
    except ImportError as error:
        raise MissingExtra(
            'the demo needs confluent-kafka; run `pip install "outbox-relay[all]"`'
        ) from error
    # This client is the cluster: it ends when the last reference to it does.
    owner = Producer(
        {"bootstrap.servers": "mock", "test.mock.num.brokers": BROKERS, "log_level": 0}
    )
    metadata = owner.list_topics(topic, timeout=_PATIENCE_S)  # asking for a topic makes it
    addresses = [f"{broker.host}:{broker.port}" for broker in metadata.brokers.values()]
    try:
        yield Cluster(",".join(addresses))
    finally:
        del owner


def _read_to_end(consumer: Any, topic: str) -> list[ReceivedMessage]:
    from confluent_kafka import OFFSET_BEGINNING, TopicPartition

    ends = _ends(consumer, topic)
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in ends])
    found: list[ReceivedMessage] = []
    deadline = time.monotonic() + _PATIENCE_S
    while len(found) < sum(ends.values()):
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"topic {topic!r} could not be read within {_PATIENCE_S:g} s")
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            found.append(from_kafka(message))
    return sorted(found, key=lambda message: (message.partition, message.offset))


def _ends(consumer: Any, topic: str) -> dict[int, int]:
    """Return how many messages each partition holds; the demo's are never trimmed."""
    from confluent_kafka import TopicPartition

    partitions = consumer.list_topics(topic, timeout=_PATIENCE_S).topics[topic].partitions
    return {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_PATIENCE_S)[
            1
        ]
        for number in partitions
    }
