"""A topic, a database and a consumer's name, for tests of the consumer's loop."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import confluent_kafka
from confluent_kafka import Producer, TopicPartition
from sqlalchemy import Connection, create_engine, text

from outbox.inbox import Inbox, InboxConsumer, Outcome, ReceivedMessage
from outbox.migrations import migrate
from tests.waiting import wait_until

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.servers.kafka_topics import KafkaServer

PARTITIONS = 2
IDLE = 1.5  # seconds without a message after which a run counts as finished
#: So that tests don't wait: the broker notices and answers soon.
IMPATIENT = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 200, "fetch.wait.max.ms": 20}


@dataclass
class World:
    """A topic, a database with the inbox's tables and one for effects, and a consumer's name."""

    kafka: KafkaServer
    engine: Engine
    topic: str
    consumer: str

    def consume(self, **changes: Any) -> InboxConsumer[Connection]:
        settings: dict[str, Any] = {
            "transaction_factory": self.engine.begin,
            "kafka": self.properties(),
            "topics": [self.topic],
            "retry_delay": 0.01,
        }
        return InboxConsumer(Inbox(self.consumer), **{**settings, **changes})

    def properties(self, **more: object) -> dict[str, object]:
        return {"bootstrap.servers": self.kafka.bootstrap_servers, **IMPATIENT, **more}

    def send(self, ids: list[str], *, partition: int | None = None, payload: bytes = b"{}") -> None:
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap_servers, "linger.ms": 0})
        for n, name in enumerate(ids):
            where = partition if partition is not None else n % PARTITIONS
            producer.produce(
                self.topic,
                payload,
                partition=where,
                headers=[("id", name.encode())] if name else [],
            )
        assert producer.flush(30) == 0

    @property
    def offsets(self) -> list[int]:
        """The offset committed to Kafka for each partition; -1001 for none."""
        client = confluent_kafka.Consumer(self.properties(**{"group.id": self.consumer}))
        try:
            wanted = [TopicPartition(self.topic, number) for number in range(PARTITIONS)]
            return [each.offset for each in client.committed(wanted, timeout=10)]
        finally:
            client.close()

    def effects(self) -> list[str]:
        with self.engine.connect() as connection:
            query = "select message_id from effect order by number"
            return list(connection.execute(text(query)).scalars())


def make_world(kafka: KafkaServer, postgresql_url: str) -> Iterator[World]:
    """Give a fresh world; the test modules make a fixture of it."""
    migrate(postgresql_url, only="inbox")
    engine = create_engine(postgresql_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(
            text("create table effect (number bigserial, message_id text, partition int)")
        )
    name = f"billing-{secrets.token_hex(4)}"
    yield World(kafka, engine, kafka.create_topic(partitions=PARTITIONS), name)
    engine.dispose()


def affect(transaction: Connection, message: ReceivedMessage) -> None:
    transaction.execute(
        text("insert into effect (message_id, partition) values (:id, :partition)"),
        {"id": message.id, "partition": message.partition},
    )


def ids(count: int, prefix: str = "m") -> list[str]:
    return [f"{prefix}-{n}" for n in range(count)]


def take(consumer: InboxConsumer[Connection], handler: Callable[..., None] = affect) -> Outcome:
    """Turn to the next message, however long Kafka needs to assign its partition."""
    return wait_until(lambda: consumer.run_once(handler, timeout=0.1), what="a message")
