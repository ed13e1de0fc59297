"""What Kafka knows of a transactional producer: whose turn it is, and which marks it kept.

The marks are the metadata of offsets, of a consumer group that has no consumers and is called as
the producer. Why: docs/adr/0012-exactly-once.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from outbox.errors import BrokerUnavailable
from outbox.publishers.base import Fenced
from outbox.publishers.librdkafka import (
    Complaint,
    abandon,
    error_name,
    kafka_exceptions,
    make_producer,
    sentence_of,
)
from outbox.publishers.topics import connection_properties

_FENCED = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"})

#: Offsets are kept with as many topics as a transaction has, up to this. A topic that is deleted
#: takes its group offsets along, but also the messages that these tell of.
_TOPICS = 100

#: What the coordinator of a group answers while it cannot tell yet.
_SOON = frozenset(
    {
        "UNSTABLE_OFFSET_COMMIT",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "NOT_COORDINATOR",
    }
)
_ASK_AGAIN_S = 0.05


def fence(properties: Mapping[str, object], identity: str, timeout_s: float) -> list[str]:
    """Shut out the producers of this identity, and return the marks that they kept."""
    own = {**connection_properties(properties), "transactional.id": identity}
    producer, log = make_producer(own, Complaint().note)
    try:
        initialise(producer, identity, timeout_s)
    finally:
        abandon(producer, log)
    return kept_marks(properties, identity, timeout_s)


def initialise(producer: Any, identity: str, timeout_s: float) -> None:
    """Make this the one producer of its identity; what another has not committed is aborted."""
    try:
        producer.init_transactions(timeout_s)
    except kafka_exceptions() as error:
        if is_fenced(error):
            raise fenced(identity) from error
        raise BrokerUnavailable(
            f"Kafka does not let this relay publish as {identity!r}: {sentence_of(error)}. It needs"
            " the rights to write and describe that transactional id, and to read and describe the"
            " group of the same name"
        ) from error


def group_of(properties: Mapping[str, object], identity: str) -> Any:
    """Return what a producer must say of the group whose offsets it sends."""
    import confluent_kafka

    raw = next(c for c in confluent_kafka.Consumer.__mro__ if c.__module__ == "cimpl")
    consumer = raw({**connection_properties(properties), "group.id": identity})
    try:
        return consumer.consumer_group_metadata()
    finally:
        consumer.close()


def offsets_with(topics: Iterable[str], offset: int, mark: str) -> list[Any]:
    """Return the offsets that keep a mark, for topics of which each has a partition 0."""
    from confluent_kafka import TopicPartition

    return [TopicPartition(topic, 0, offset, mark) for topic in sorted(topics)[:_TOPICS]]


def kept_marks(properties: Mapping[str, object], identity: str, timeout_s: float) -> list[str]:
    """Return the marks that were committed, each of another topic; none may be the latest."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(connection_properties(properties))
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return _ask(admin, identity, max(deadline - time.monotonic(), 0.1))
        except kafka_exceptions() as error:
            if error_name(error) not in _SOON or time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"Kafka does not say how far {identity!r} has come: {sentence_of(error)}"
                ) from error
            time.sleep(_ASK_AGAIN_S)


def _ask(admin: Any, identity: str, timeout_s: float) -> list[str]:
    from confluent_kafka import ConsumerGroupTopicPartitions

    answer = admin.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(identity)], require_stable=True, request_timeout=timeout_s
    )
    found = answer[identity].result().topic_partitions
    return [partition.metadata for partition in found if partition.metadata]


def is_fenced(error: Exception) -> bool:
    """Return whether an error says that another producer has taken over."""
    return error_name(error) in _FENCED


def fenced(identity: str) -> Fenced:
    """Return what to raise then."""
    return Fenced(
        f"Kafka takes nothing more from this process: another one publishes as {identity!r} now,"
        " or a transaction took too long"
    )
