"""The transactional publisher keeps the same promises, and more."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress

import pytest

from outbox.errors import BrokerUnavailable, OutboxError
from outbox.publishers import transactional
from outbox.publishers.transactional import TransactionalPublisher
from tests.conformance.publisher_kit import TIMEOUT_S, Sending, ids, some_records
from tests.conformance.publisher_suite import MANY, OutageSuite, PublisherKit, PublisherSuite
from tests.conformance.test_publishers import MockKit, PrivateKit, RealKit
from tests.servers.kafka import KafkaCluster
from tests.servers.kafka_mock import MockCluster
from tests.servers.kafka_topics import KafkaServer
from tests.waiting import wait_until


class TransactionalSuite(PublisherSuite):
    """What differs: of a page that was stopped in the middle, nothing becomes visible."""

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
        assert sending.tally.indexes == []
        assert self.visible(kit, topic) == 0

    def visible(self, kit: PublisherKit, topic: str) -> int:
        return len(kit.read(topic))


class TransactionalMock(MockKit):
    makes = TransactionalPublisher


class TransactionalReal(RealKit):
    makes = TransactionalPublisher

    def __init__(self, server: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(server)
        self._monkeypatch = monkeypatch

    def break_delivery(self, topic: str) -> None:
        super().break_delivery(topic)
        # librdkafka hopes for so long that the topic comes back.
        self._monkeypatch.setattr(transactional, "TIMEOUT_S", 1.0)


class TransactionalPrivate(PrivateKit):
    makes = TransactionalPublisher


class TestOnAMockCluster(TransactionalSuite):
    @pytest.fixture
    def kit(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockKit]:
        # The mock cluster never tells a topic's settings.
        monkeypatch.setattr("outbox.publishers.topics._ASK_TIMEOUT_S", 0.2)
        with MockCluster() as cluster:
            kit = TransactionalMock(cluster)
            yield kit
            kit.close()

    def visible(self, kit: PublisherKit, topic: str) -> int:
        return 0  # it shows what was aborted to everybody


@pytest.mark.kafka
class TestOnARealKafka(TransactionalSuite):
    @pytest.fixture
    def kit(self, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealKit]:
        kit = TransactionalReal(kafka, monkeypatch)
        yield kit
        kit.close()


@pytest.mark.kafka
class TestOutagesOfARealKafka(OutageSuite):
    @pytest.fixture
    def kit(self, private_kafka: KafkaCluster) -> Iterator[PrivateKit]:
        kit = TransactionalPrivate(private_kafka)
        yield kit
        kit.close()

    def test_messages_wait_for_the_broker_and_arrive_in_order(self, kit: PrivateKit) -> None:
        """It may give up, since it cannot know what became of its transaction; another can."""
        # Given a publisher whose broker goes away
        topic, identity = kit.topic(), f"relay-{secrets.token_hex(4)}"
        first = Sending(kit.unconnected())
        first.publisher.connect(TIMEOUT_S)
        first.publisher.claim(identity, TIMEOUT_S)
        first.deliver(some_records(topic, 1))
        kit.take_away()

        # When it publishes, then it says what is wrong, and acknowledges nothing
        rest = some_records(topic, 100)
        first.publish(rest)
        wait_until(lambda: _trouble(first), what="a complaint")
        assert first.tally.indexes == [0]

        # And when the broker is back, it or its successor brings all of it, in order, and once
        kit.bring_back()
        with suppress(BrokerUnavailable):
            first.publisher.flush(TIMEOUT_S)
            assert len(first.tally.indexes) == 101
        second = Sending(kit.unconnected())
        second.publisher.connect(TIMEOUT_S)
        marks = second.publisher.claim(identity, TIMEOUT_S)
        if marks != ["mark of 101"]:
            assert marks == ["mark of 1"]
            assert first.tally.indexes == [0]
            second.deliver(rest)
        assert ids(kit.read(topic)) == ids(first.records)


def _trouble(sending: Sending) -> str | None:
    with suppress(BrokerUnavailable):
        sending.publisher.poll(0.05)
    return sending.publisher.trouble
