"""Every publisher keeps the same promises."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from outbox.publishers.base import Publisher
from outbox.publishers.kafka import KafkaPublisher
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from tests.conformance.publisher_kit import TIMEOUT_S, Arrived, as_arrived
from tests.conformance.publisher_suite import OutageSuite, PublisherSuite
from tests.servers.kafka import KafkaCluster
from tests.servers.kafka_mock import MockCluster
from tests.servers.kafka_topics import QUIET, KafkaServer
from tests.waiting import wait_until

ALONE = {"batch.num.messages": 1}


@dataclass
class MemoryKit:
    """Memory, where everything goes into one list."""

    published: list[PublishedMessage] = field(default_factory=list)

    def topic(self, partitions: int = 1) -> str:
        return f"topic-{secrets.token_hex(4)}"

    def publisher(self, *, fails_at: int | None = None) -> MemoryPublisher:
        publisher = MemoryPublisher(self.published, fail_at=fails_at)
        publisher.connect(TIMEOUT_S)
        return publisher

    def break_delivery(self, topic: str) -> None:
        pass  # the publisher knows

    def read(self, topic: str) -> list[Arrived]:
        messages = [message for message in self.published if message.topic == topic]
        return [_as_on_the_wire(n, message) for n, message in enumerate(messages)]


def _as_on_the_wire(offset: int, message: PublishedMessage) -> Arrived:
    key = None if message.key is None else message.key.encode()
    headers = [(n, v.encode() if isinstance(v, str) else v) for n, v in message.headers]
    return Arrived(0, offset, key, message.payload, tuple(headers))


class KafkaKit:
    """What the kits for Kafka share. `makes`: the publisher that is looked at."""

    makes: Callable[[dict[str, Any]], Publisher] = KafkaPublisher

    def __init__(self, server: KafkaServer) -> None:
        self.server = server
        self._publishers: list[Publisher] = []

    def publisher(self, *, fails_at: int | None = None, **more: Any) -> Publisher:
        publisher = self.unconnected(**({} if fails_at is None else ALONE), **more)
        publisher.connect(TIMEOUT_S)
        if publisher.transactional:
            publisher.claim(f"relay-{secrets.token_hex(4)}", TIMEOUT_S)
        return publisher

    def unconnected(self, **more: Any) -> Publisher:
        publisher = self.makes({"bootstrap.servers": self.server.bootstrap_servers, **more})
        self._publishers.append(publisher)
        return publisher

    def read(self, topic: str) -> list[Arrived]:
        return [as_arrived(message) for message in self.server.read(topic)]

    def close(self) -> None:
        for publisher in self._publishers:
            publisher.close()


class MockKit(KafkaKit):
    """librdkafka's mock cluster."""

    server: MockCluster

    def topic(self, partitions: int = 1) -> str:
        return self.server.make_topic(f"topic-{secrets.token_hex(4)}", partitions)

    def break_delivery(self, topic: str) -> None:
        self.server.refuse(KafkaError.POLICY_VIOLATION)

    def take_away(self) -> None:
        self.server.take_down()

    def bring_back(self) -> None:
        self.server.bring_up()


class RealKit(KafkaKit):
    """A real Kafka."""

    def topic(self, partitions: int = 1) -> str:
        return self.server.create_topic(partitions=partitions)

    def publisher(self, *, fails_at: int | None = None, **more: Any) -> Publisher:
        # How long a client waits for a topic that is not there, before it gives up.
        patience = {"topic.metadata.propagation.max.ms": 500, "retry.backoff.ms": 50}
        return super().publisher(fails_at=fails_at, **patience, **more)

    def break_delivery(self, topic: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.server.bootstrap_servers, **QUIET})
        admin.delete_topics([topic])[topic].result(TIMEOUT_S)
        wait_until(
            lambda: topic not in admin.list_topics(timeout=10).topics, what=f"the end of {topic}"
        )


class PrivateKit(RealKit):
    """A real Kafka to kill."""

    server: KafkaCluster

    def take_away(self) -> None:
        self.server.kill()

    def bring_back(self) -> None:
        self.server.start()


@pytest.fixture
def mock_kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockKit]:
    # The mock cluster never tells a topic's settings.
    monkeypatch.setattr("outbox.publishers.topics._ASK_TIMEOUT_S", 0.2)
    with MockCluster() as cluster:
        kit = MockKit(cluster)
        yield kit
        kit.close()


class TestMemoryPublisher(PublisherSuite):
    @pytest.fixture
    def kit(self) -> MemoryKit:
        return MemoryKit()


class TestKafkaPublisherOnAMockCluster(PublisherSuite):
    @pytest.fixture
    def kit(self, mock_kit: MockKit) -> MockKit:
        return mock_kit


class TestKafkaPublisherOnARealKafka(PublisherSuite):
    @pytest.fixture
    def kit(self, kafka: KafkaServer) -> Iterator[RealKit]:
        kit = RealKit(kafka)
        yield kit
        kit.close()


class TestOutagesOfAMockCluster(OutageSuite):
    @pytest.fixture
    def kit(self, mock_kit: MockKit) -> MockKit:
        return mock_kit


class TestOutagesOfARealKafka(OutageSuite):
    @pytest.fixture
    def kit(self, private_kafka: KafkaCluster) -> Iterator[PrivateKit]:
        kit = PrivateKit(private_kafka)
        yield kit
        kit.close()
