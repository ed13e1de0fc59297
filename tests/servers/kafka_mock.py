"""A mock cluster that the tests read and describe as they do a real Kafka."""

from __future__ import annotations

from outbox.publishers.mock_kafka import MockKafka
from tests.servers.kafka_topics import KafkaServer


class MockCluster(MockKafka, KafkaServer):
    """Brokers within this process. Use it as a context manager, or call `close` at last."""
