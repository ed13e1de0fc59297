"""Where the promises end: what Kafka itself loses, moves or forgets."""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from outbox import Outbox
from outbox.database import DatabaseUrl
from outbox.migrations import migrate
from outbox.names import Names
from outbox.publishers.kafka import KafkaPublisher
from outbox.relay.relay import Relay
from outbox.store.opening import open_store
from tests.integration.inbox_world import IDLE, World, affect, ids, make_world
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.kafka_topics import KafkaServer

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]
world = pytest.fixture(make_world)

#: Keys that Java's hash sends elsewhere when three partitions become six.
KEYS = [f"key-{number}" for number in range(30)]


def write(url: str, topic: str, text: str) -> None:
    events = Outbox()
    with psycopg.connect(url) as connection:
        for key in KEYS:
            events.add(connection, topic, text.encode(), key=key)


def drain(url: str, kafka: KafkaServer) -> None:
    publisher = partial(KafkaPublisher, {"bootstrap.servers": kafka.bootstrap_servers})
    with closing(Relay(open_store(DatabaseUrl.parse(url), Names()), publisher)) as relay:
        relay.run(threading.Event(), drain=True)


def delete_records(kafka: KafkaServer, topic: str, partitions: int) -> None:
    """Let Kafka forget what it has, as retention does, or a lost disk."""
    client = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    ends = [TopicPartition(topic, number, -1) for number in range(partitions)]
    for done in client.delete_records(ends).values():
        done.result(timeout=30)


def test_what_kafka_lost_after_confirming_it_is_not_sent_again(
    postgresql_url: str, kafka: KafkaServer
) -> None:
    # Given messages that Kafka confirmed, and then lost
    migrate(postgresql_url)
    topic = kafka.create_topic(partitions=1)
    write(postgresql_url, topic, "before")
    drain(postgresql_url, kafka)
    assert len(kafka.read(topic)) == len(KEYS)
    delete_records(kafka, topic, 1)

    # When the relay goes on
    write(postgresql_url, topic, "after")
    drain(postgresql_url, kafka)

    # Then it sends what is new, and has no way to know of the rest
    assert {message.value() for message in kafka.read(topic)} == {b"after"}


def test_a_key_may_move_to_another_partition_when_partitions_are_added(
    postgresql_url: str, kafka: KafkaServer
) -> None:
    # Given a topic whose messages all went to one of three partitions by their key
    migrate(postgresql_url)
    topic = kafka.create_topic(partitions=3)
    write(postgresql_url, topic, "before")
    drain(postgresql_url, kafka)

    # When it gets three more
    client = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for done in client.create_partitions([NewPartitions(topic, 6)]).values():
        done.result(timeout=30)
    wait_until(lambda: len(kafka.describe(topic)) == 6, what="six partitions")
    write(postgresql_url, topic, "after")
    drain(postgresql_url, kafka)

    # Then some keys have their messages in two partitions, each once in each order
    places: dict[str, list[tuple[bytes, int]]] = {key: [] for key in KEYS}
    for message in kafka.read(topic):
        places[message.key().decode()].append((message.value(), message.partition()))
    assert all(len(place) == 2 for place in places.values())
    moved = [key for key, place in places.items() if len({where for _, where in place}) == 2]
    assert 0 < len(moved) < len(KEYS)


def test_what_the_topic_no_longer_keeps_is_skipped(world: World) -> None:
    # Given messages that retention took before the consumer read them
    world.send(ids(10, "old"))
    delete_records(world.kafka, world.topic, 2)
    world.send(ids(10, "new"))

    # When it runs
    with world.consume() as consumer:
        consumer.run(affect, until_idle=IDLE)

    # Then those that are left take effect
    assert sorted(world.effects()) == sorted(ids(10, "new"))
