"""What Kafka knows of a transactional producer: whose turn it is, and which marks it kept.

The marks are the metadata of offsets, of a consumer group that has no consumers and is called as
the producer. Why: docs/adr/0012-exactly-once.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

#: What whoever grants rights has to know.
_RIGHTS = (
    "It needs the rights to write and describe that transactional id, and to read and describe the "
    "group of the same name"
)
_FENCED = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"})

#: Offsets are kept with as many topics as a transaction has, up to this. A topic that is deleted
#: takes its group offsets along, but also the messages that these tell of.
_TOPICS = 100

#: How often to ask how far a group has come while its coordinator cannot tell yet, in seconds.
_ASK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Claimed:
    """What is known once an identity is claimed. `group`: what to say of the group when committing.

    `marks`: those that were kept, each of another topic; none may be the latest.
    """

    group: Any
    marks: list[str]


def fence(properties: Mapping[str, object], identity: str, timeout_s: float) -> list[str]:
    """Shut out the producers of this identity, and return the marks that they kept."""
    own = {**connection_properties(properties), "transactional.id": identity}
    producer, log = make_producer(own, Complaint().note)
    try:
        return take_over(producer, properties, identity, timeout_s).marks
    finally:
        abandon(producer, log)


def take_over(
    producer: Any, properties: Mapping[str, object], identity: str, timeout_s: float
) -> Claimed:
    """Make this the one producer of its identity, then see how far the ones before it came.

    In a thread of its own: librdkafka 2.16 does not always keep the timeout that it is given.
    """
    outcome: list[Claimed | Exception] = []

    def run() -> None:
        try:
            outcome.append(_take_over(producer, properties, identity, timeout_s))
        except Exception as error:  # noqa: BLE001 - raised below
            outcome.append(error)

    thread = threading.Thread(target=run, name="outbox-claim", daemon=True)
    thread.start()
    thread.join(timeout_s + 1)
    if not outcome:
        raise BrokerUnavailable(f"Kafka does not say whether this relay may be {identity!r}")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _take_over(
    producer: Any, properties: Mapping[str, object], identity: str, timeout_s: float
) -> Claimed:
    _initialise(producer, identity, timeout_s)
    complaint = Complaint()
    consumer = _consumer(properties, identity, complaint)
    try:
        marks = _kept_marks(producer, consumer, time.monotonic() + timeout_s)
        return Claimed(consumer.consumer_group_metadata(), marks)
    except kafka_exceptions() as error:
        reason = complaint.text or sentence_of(error)
        raise BrokerUnavailable(
            f"Kafka does not say how far {identity!r} has come: {reason.rstrip('.')}. {_RIGHTS}"
        ) from error
    finally:
        consumer.close()


def _initialise(producer: Any, identity: str, timeout_s: float) -> None:
    """Let Kafka refuse all other producers, and abort what they have not committed."""
    try:
        # Without a connection at hand librdkafka looks for one in half a second.
        producer.list_topics(timeout=timeout_s)
        producer.init_transactions(timeout_s)
    except kafka_exceptions() as error:
        if is_fenced(error):
            raise fenced(identity) from error
        raise BrokerUnavailable(
            f"Kafka does not let this relay publish as {identity!r}:"
            f" {sentence_of(error).rstrip('.')}. {_RIGHTS}"
        ) from error


def _consumer(properties: Mapping[str, object], identity: str, complaint: Complaint) -> Any:
    """Make a consumer that consumes nothing. An AdminClient would do for asking, and crashes the
    process when the group's coordinator has just moved (librdkafka 2.16)."""
    import confluent_kafka

    raw = next(c for c in confluent_kafka.Consumer.__mro__ if c.__module__ == "cimpl")
    own = {"group.id": identity, "enable.auto.commit": False, "isolation.level": "read_committed"}
    return raw({**connection_properties(properties), **own, "error_cb": complaint.note})


def offsets_with(topics: Iterable[str], offset: int, mark: str) -> list[Any]:
    """Return the offsets that keep a mark, for topics of which each has a partition 0."""
    from confluent_kafka import TopicPartition

    return [TopicPartition(topic, 0, offset, mark) for topic in sorted(topics)[:_TOPICS]]


def _kept_marks(producer: Any, consumer: Any, deadline: float) -> list[str]:
    """Ask for all topics there are: which ones the last transaction was about, nobody knows."""
    from confluent_kafka import TopicPartition

    while True:
        left = max(deadline - time.monotonic(), _ASK_AGAIN_S)
        try:
            topics = producer.list_topics(timeout=left).topics
            if not topics:
                return []
            found = consumer.committed([TopicPartition(name, 0) for name in topics], left)
            return [mark for mark in map(_mark, found) if mark]
        except kafka_exceptions():
            consumer.poll(0)  # what librdkafka has to say of it
            if time.monotonic() > deadline:
                raise
            time.sleep(_ASK_AGAIN_S)


def _mark(partition: Any) -> str:
    """Return what was kept with a partition; that it cannot be told yet is not nothing."""
    error = partition.error
    if error is not None and error.name() != "UNKNOWN_TOPIC_OR_PART":  # deleted meanwhile
        from confluent_kafka import KafkaException

        raise KafkaException(error)
    return str(partition.metadata or "")


def is_fenced(error: Exception) -> bool:
    """Return whether an error says that another producer has taken over."""
    return error_name(error) in _FENCED


def fenced(identity: str) -> Fenced:
    """Return what to raise then."""
    return Fenced(
        f"Kafka takes nothing more from this process: another one publishes as {identity!r} now,"
        " or a transaction took too long"
    )
