"""The Kafka of the examples: a given one, or librdkafka's mock cluster within this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from examples.running.setup import SetupError
from outbox.demo.cluster import run_cluster

TOPICS = ("orders", "invoices")
PARTITIONS = 3

_PATIENCE_S = 10.0


@contextmanager
def kafka(bootstrap_servers: str) -> Iterator[str]:
    """Yield the address of a Kafka that has the topics. Raises SetupError."""
    if bootstrap_servers:
        _make_topics(bootstrap_servers)
        yield bootstrap_servers
        return
    with run_cluster(TOPICS[0]) as cluster:
        asking = Producer({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
        for topic in TOPICS[1:]:
            asking.list_topics(topic, timeout=_PATIENCE_S)  # asking for a topic makes it
        yield cluster.bootstrap_servers


def _make_topics(bootstrap_servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    wanted = [NewTopic(name, num_partitions=PARTITIONS) for name in TOPICS]
    for name, made in admin.create_topics(wanted, request_timeout=_PATIENCE_S).items():
        try:
            made.result(_PATIENCE_S)
        except TimeoutError as error:
            raise _no_topic(bootstrap_servers, name, "no answer") from error
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _no_topic(bootstrap_servers, name, error.args[0].str()) from error


def _no_topic(bootstrap_servers: str, name: str, reason: str) -> SetupError:
    return SetupError(
        f"KAFKA_BOOTSTRAP_SERVERS={bootstrap_servers}: could not make the topic {name}: {reason}"
    )
