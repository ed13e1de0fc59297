"""The transactional publisher keeps the same promises, and more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from outbox.errors import OutboxError
from outbox.publishers.transactional import TransactionalPublisher
from tests.conformance.publisher_kit import TIMEOUT_S, Sending, some_records
from tests.conformance.publisher_suite import MANY, OutageSuite, PublisherKit, PublisherSuite
from tests.conformance.test_publishers import MockKit, PrivateKit, RealKit
from tests.servers.kafka import KafkaCluster
from tests.servers.kafka_mock import MockCluster
from tests.servers.kafka_topics import KafkaServer


class TransactionalSuite(PublisherSuite):
    """What differs: nothing is visible before the commit, and so nothing of half a page is."""

    def test_one_partition_holds_the_messages_in_the_order_of_publish(
        self, kit: PublisherKit
    ) -> None:
        topic = kit.topic()
        sending = Sending(kit.publisher())

        sending.deliver(some_records(topic, 600))

        arrived = kit.read(topic)
        assert [each.id for each in arrived] == [each.id for each in sending.records]
        # Kafka's own note of the commit takes an offset too, behind them.
        assert [each.offset for each in arrived] == list(range(600))

    def test_publish_stops_when_its_check_raises(self, kit: PublisherKit) -> None:
        # Given a check that raises the third time
        topic = kit.topic()
        sending = Sending(kit.publisher())
        calls: list[int] = []

        def check() -> None:
            calls.append(1)
            if len(calls) == 3:
                raise InterruptedError("the lease ran out")

        # When a large page is published, then the check's exception passes through
        with pytest.raises(InterruptedError, match="the lease ran out"):
            sending.publish(some_records(topic, MANY), check)

        # And nothing of it can be committed any more
        with pytest.raises(OutboxError, match="in the middle of a page"):
            sending.publisher.flush(TIMEOUT_S)
        sending.publisher.close()
        with suppress(OutboxError):
            sending.publisher.flush(TIMEOUT_S)
        assert kit.read(topic) == []
        assert sending.tally.indexes == []


class TransactionalMock(MockKit):
    makes = TransactionalPublisher


class TransactionalReal(RealKit):
    makes = TransactionalPublisher


class TransactionalPrivate(PrivateKit):
    makes = TransactionalPublisher


class TestOnAMockCluster(TransactionalSuite):
    @pytest.fixture
    def kit(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockKit]:
        monkeypatch.setattr("outbox.publishers.topics._ASK_TIMEOUT_S", 0.2)
        with MockCluster() as cluster:
            kit = TransactionalMock(cluster)
            yield kit
            kit.close()


@pytest.mark.kafka
class TestOnARealKafka(TransactionalSuite):
    @pytest.fixture
    def kit(self, kafka: KafkaServer) -> Iterator[RealKit]:
        kit = TransactionalReal(kafka)
        yield kit
        kit.close()


@pytest.mark.kafka
class TestOutagesOfARealKafka(OutageSuite):
    @pytest.fixture
    def kit(self, private_kafka: KafkaCluster) -> Iterator[PrivateKit]:
        kit = TransactionalPrivate(private_kafka)
        yield kit
        kit.close()
