"""Kafka, as far as a benchmark needs it: a topic, and what arrives in it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from outbox.errors import BrokerUnavailable, ConfigurationError, MissingExtra
from outbox.publishers.topics import connection_properties

#: How long an answer may take, in seconds.
_TIMEOUT_S = 30.0

#: What librdkafka's mock cluster calls itself, which keeps what it is given in memory.
_MOCK = "mockCluster"

#: What says how safe a message is in a topic.
_TELLING = ("min.insync.replicas", "compression.type", "message.timestamp.type")


class Broker:
    """A Kafka cluster that answers.

    Raises BrokerUnavailable, MissingExtra; ConfigurationError for a mock cluster, whose figures
    would say nothing.
    """

    def __init__(self, properties: Mapping[str, object], timeout_s: float = 30.0) -> None:
        try:
            from confluent_kafka.admin import AdminClient
        except ImportError as error:
            raise MissingExtra(
                'Kafka needs confluent-kafka; run `pip install "outbox-relay[kafka]"`'
            ) from error
        if any(name.startswith("test.mock") for name in properties):
            raise ConfigurationError(_NO_MOCK)
        self._timeout_s = timeout_s
        self._quiet = {**connection_properties(properties), "log_level": 2}
        self._admin = AdminClient(self._quiet)
        metadata = self._metadata()
        self.cluster_id = str(metadata.cluster_id or "")
        self.size = len(metadata.brokers)
        if self.cluster_id.startswith(_MOCK):
            raise ConfigurationError(_NO_MOCK)

    def _metadata(self, topic: str | None = None) -> Any:
        from confluent_kafka import KafkaException

        try:
            return self._admin.list_topics(topic, timeout=self._timeout_s)
        except KafkaException as error:
            raise BrokerUnavailable(f"Kafka cannot be reached: {error.args[0].str()}") from error

    def create_topic(self, name: str, partitions: int, replication: int = -1) -> None:
        """Make a topic and wait until each partition has a leader."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import NewTopic

        made = self._admin.create_topics(
            [NewTopic(name, partitions, replication)], operation_timeout=_TIMEOUT_S
        )
        try:
            made[name].result(_TIMEOUT_S)
        except KafkaException as error:
            raise _refused(f"the topic {name} cannot be created", error) from error
        deadline = time.monotonic() + _TIMEOUT_S
        while not _is_usable(self._metadata(name).topics[name], partitions):
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"the new topic {name} has no leaders yet")
            time.sleep(0.05)

    def delete_topic(self, name: str) -> None:
        """Delete a topic, unless it is gone."""
        from confluent_kafka import KafkaError, KafkaException

        try:
            self._admin.delete_topics([name], operation_timeout=_TIMEOUT_S)[name].result(_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise _refused(f"the topic {name} cannot be deleted", error) from error

    def delete_groups(self, marks: Sequence[str]) -> None:
        """Delete the consumer groups whose names contain one of these, each unique in the world."""
        from confluent_kafka import KafkaException

        try:
            listed = self._admin.list_consumer_groups().result(_TIMEOUT_S).valid
            names = [each.group_id for each in listed]
            found = [name for name in names if any(mark in name for mark in marks)]
            if found:
                for done in self._admin.delete_consumer_groups(found).values():
                    done.result(_TIMEOUT_S)
        except KafkaException as error:
            raise _refused("a consumer group cannot be deleted", error) from error

    def topic_conditions(self, name: str) -> dict[str, object]:
        """Return partitions and replicas of a topic, and the settings that say how safe it is."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import ConfigResource

        partitions = self._metadata(name).topics[name].partitions
        found: dict[str, object] = {
            "partitions": len(partitions),
            "replicas": min(len(each.replicas) for each in partitions.values()),
        }
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        try:
            settings = self._admin.describe_configs([resource])[resource].result(_TIMEOUT_S)
        except KafkaException:
            return found  # we may not ask; what we were told is what we print
        return found | {key: settings[key].value for key in _TELLING if key in settings}

    @contextmanager
    def reading(self, topic: str, **properties: object) -> Iterator[Any]:
        """Yield a consumer that begins at the present end, joins no group and commits nothing."""
        from confluent_kafka import Consumer

        consumer = Consumer(
            {
                **self._quiet,
                "group.id": topic,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                **properties,
            }
        )
        try:
            consumer.assign(_ends(consumer, topic))
            yield consumer
        finally:
            consumer.close()


def arrived(
    consumer: Any, expected: int, patience_s: float = _TIMEOUT_S, *, linger_s: float = 0.2
) -> int:
    """Return how many messages came to a consumer, having waited for as many as expected.

    What else comes within `linger_s` is counted as well.
    """
    count, deadline = 0, time.monotonic() + patience_s
    while count < expected and time.monotonic() < deadline:
        # One that waits for many waits for as long as it may.
        got = _messages(consumer, min(expected - count, 10_000), 0.2)
        count += got
        if got:
            deadline = time.monotonic() + patience_s
    return count + (_messages(consumer, 10_000, linger_s) if linger_s else 0)


def _messages(consumer: Any, at_most: int, timeout_s: float) -> int:
    return sum(1 for each in consumer.consume(at_most, timeout_s) if each.error() is None)


def _ends(consumer: Any, topic: str) -> list[Any]:
    from confluent_kafka import KafkaException, TopicPartition

    try:
        partitions = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions
        return [
            TopicPartition(
                topic,
                number,
                consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_TIMEOUT_S)[
                    1
                ],
            )
            for number in partitions
        ]
    except KafkaException as error:
        raise BrokerUnavailable(f"Kafka does not answer: {error.args[0].str()}") from error


def _is_usable(topic: Any, partitions: int) -> bool:
    leaders = [each.leader for each in topic.partitions.values()]
    return len(leaders) == partitions and all(leader >= 0 for leader in leaders)


def _refused(what: str, error: Any) -> ConfigurationError | BrokerUnavailable:
    reason = error.args[0]
    sentence = f"{what}: {reason.str()}"
    if reason.name().endswith("AUTHORIZATION_FAILED"):
        return ConfigurationError(
            f"{sentence}. The benchmark needs a topic of its own, whose name begins with "
            "outbox-bench-: the rights to create, write, read and delete it"
        )
    if reason.name() in ("INVALID_REPLICATION_FACTOR", "INVALID_PARTITIONS", "POLICY_VIOLATION"):
        return ConfigurationError(sentence)
    return BrokerUnavailable(sentence)


_NO_MOCK = (
    "this is librdkafka's mock cluster, which lives in memory and keeps little of what it is given:"
    " its figures would say nothing of a broker. Give a real one: -X bootstrap.servers=HOST:PORT"
)
