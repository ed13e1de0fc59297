"""Read a topic whole, without joining a consumer group."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from outbox.errors import BrokerUnavailable
from outbox.inbox.received import ReceivedMessage, from_kafka

if TYPE_CHECKING:
    from outbox.inbox.received import KafkaMessage


def read_topic(
    bootstrap_servers: str,
    topic: str,
    *,
    timeout_s: float = 30.0,
    id_from: Callable[[KafkaMessage], str] | None = None,
) -> list[ReceivedMessage]:
    """Return what the topic holds, each partition in its order; a topic nobody made is empty.

    Raises BrokerUnavailable when that takes longer than `timeout_s` seconds, and what `from_kafka`
    raises.
    """
    from confluent_kafka import Consumer, KafkaException

    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "reader", "log_level": 0}
    )
    try:
        found = _read_to_end(consumer, topic, timeout_s)
    except KafkaException as error:
        raise BrokerUnavailable(f"topic {topic!r} could not be read: {error}") from error
    finally:
        consumer.close()
    messages = [from_kafka(message, id_from=id_from) for message in found]
    return sorted(messages, key=lambda message: (message.partition, message.offset))


def _read_to_end(consumer: Any, topic: str, timeout_s: float) -> list[Any]:
    from confluent_kafka import TopicPartition

    limits = _limits(consumer, topic, timeout_s)
    consumer.assign([TopicPartition(topic, number, low) for number, (low, _) in limits.items()])
    wanted = sum(high - low for low, high in limits.values())
    found: list[Any] = []
    deadline = time.monotonic() + timeout_s
    while len(found) < wanted:
        if time.monotonic() > deadline:
            raise BrokerUnavailable(
                f"topic {topic!r} could not be read within {timeout_s:g} s: {len(found)} of "
                f"{wanted} messages came"
            )
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            found.append(message)
    return found


def _limits(consumer: Any, topic: str, timeout_s: float) -> dict[int, tuple[int, int]]:
    """Return the first offset of each partition, and the one after the last."""
    from confluent_kafka import TopicPartition

    partitions = consumer.list_topics(topic, timeout=timeout_s).topics[topic].partitions
    return {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout_s)
        for number in partitions
    }
