"""A Kafka of three brokers within this process: librdkafka's mock cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from outbox.errors import MissingExtra
from outbox.inbox.reading import read_topic
from outbox.inbox.received import ReceivedMessage

BROKERS = 3

_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Cluster:
    """Brokers on loopback ports. They, and all messages, live as long as this process."""

    bootstrap_servers: str

    def read(self, topic: str) -> list[ReceivedMessage]:
        """Return all messages of a topic, each partition in its order, without joining a group."""
        return read_topic(self.bootstrap_servers, topic, timeout_s=_PATIENCE_S)


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
