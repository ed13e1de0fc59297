"""Which of Kafka's publishers a way of delivery needs."""

from __future__ import annotations

from collections.abc import Mapping

from outbox.publishers.base import Publisher
from outbox.record import EXACTLY_ONCE, DeliveryMode


def make_publisher(properties: Mapping[str, object], delivery: DeliveryMode) -> Publisher:
    """Return a publisher for one term. Raises what its class raises."""
    if delivery == EXACTLY_ONCE:
        from outbox.publishers.transactional import TransactionalPublisher

        return TransactionalPublisher(properties)
    from outbox.publishers.kafka import KafkaPublisher

    return KafkaPublisher(properties)
