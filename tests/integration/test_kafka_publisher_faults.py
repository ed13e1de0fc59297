"""What the Kafka publisher makes of errors: nothing is lost in silence, nothing overtakes.

The mock cluster gives each error on demand. What a broker would then keep is shown elsewhere, on a
real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError

from outbox.errors import MessageRefused, OutboxError
from outbox.publishers.base import DeliveryFailed
from outbox.publishers.kafka import KafkaPublisher
from tests.conformance.publisher_kit import TIMEOUT_S, Sending, as_arrived, ids, some_records
from tests.servers.kafka_mock import MockCluster

ALONE = {"batch.num.messages": 1, "linger.ms": 0}  # every message is a request of its own
BEFORE, AFTER = 3, 20  # messages before and after the first error

OUTAGES = [
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError._TRANSPORT,  # the connection breaks instead of an answer
]
BREAKING = [
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,  # fatal without more ado
    KafkaError.DUPLICATE_SEQUENCE_NUMBER,  # "delivered", and nobody knows where
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    KafkaError.THROTTLING_QUOTA_EXCEEDED,
    KafkaError.UNKNOWN,
]
REFUSALS = [
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
]


def name(code: int) -> str:
    return str(KafkaError(code).name())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockCluster]:
    # The mock cluster never tells a topic's settings.
    monkeypatch.setattr("outbox.publishers.topics._ASK_TIMEOUT_S", 0.2)
    with MockCluster() as cluster:
        cluster.make_topic("orders")
        yield cluster


def begin(cluster: MockCluster, **properties: Any) -> Sending:
    """Return a publisher that has delivered a few messages."""
    given = {"bootstrap.servers": cluster.bootstrap_servers, "retry.backoff.ms": 10}
    sending = Sending(KafkaPublisher({**given, **properties}))
    sending.publisher.connect(TIMEOUT_S)
    sending.deliver(some_records("orders", BEFORE))
    return sending


def log(cluster: MockCluster) -> list[str]:
    return ids(map(as_arrived, cluster.read("orders")))


@pytest.mark.parametrize("code", OUTAGES, ids=name)
def test_an_outage_is_waited_out_in_order(cluster: MockCluster, code: int) -> None:
    # Given a broker that answers three requests in turn with an error that passes
    sending = begin(cluster, **ALONE)
    cluster.refuse(code, code, code)

    # When messages are published
    sending.publish(some_records("orders", AFTER))
    sending.publisher.flush(TIMEOUT_S)

    # Then all of them are there once and in order
    assert sending.tally.indexes == list(range(BEFORE + AFTER))
    assert log(cluster) == ids(sending.records)
    sending.publisher.close()


@pytest.mark.parametrize("code", OUTAGES + BREAKING + REFUSALS, ids=name)
@pytest.mark.parametrize("properties", [ALONE, {}], ids=["alone", "in batches"])
def test_no_error_loses_a_message_or_lets_one_overtake(
    cluster: MockCluster, code: int, properties: dict[str, object]
) -> None:
    # Given a broker that answers a request with an error, in the middle of others
    sending = begin(cluster, **properties)
    cluster.refuse(code)

    # When messages are published, for as long as the publisher is of use
    try:
        sending.publish(some_records("orders", AFTER))
        sending.publisher.flush(TIMEOUT_S)
    except OutboxError:
        pass
    sending.publisher.close()

    # Then what is acknowledged is in the log, up to the first that is not acknowledged
    acknowledged = len(sending.tally.indexes)
    assert sending.tally.indexes == list(range(acknowledged))
    assert sending.acknowledged_ids <= set(log(cluster))

    # And when the rest is sent again, every message has come in its turn
    again = begin(cluster, **properties)
    again.deliver(sending.records[acknowledged:])
    again.publisher.close()
    first_time = dict.fromkeys(log(cluster))
    assert [each for each in first_time if each in ids(sending.records)] == ids(sending.records)


@pytest.mark.parametrize("code", BREAKING, ids=name)
def test_an_error_that_may_pass_is_never_held_against_a_message(
    cluster: MockCluster, code: int
) -> None:
    sending = begin(cluster, **ALONE)
    cluster.refuse(code)
    try:
        sending.publish(some_records("orders", AFTER))
        sending.publisher.flush(TIMEOUT_S)
    except DeliveryFailed as failure:
        assert str(failure)
    else:
        assert len(sending.tally.indexes) == BEFORE + AFTER
    sending.publisher.close()


@pytest.mark.parametrize("code", REFUSALS, ids=name)
@pytest.mark.parametrize("count", [1, AFTER, 2_000])
def test_a_message_that_the_broker_refuses_is_named(
    cluster: MockCluster, code: int, count: int
) -> None:
    """Also when the producer has broken on it, and the news of that comes first."""
    # Given a broker that refuses a message for what it is
    sending = begin(cluster, **ALONE)
    cluster.refuse(code)

    # When it is published with others behind it, then the message is named, with the reason
    records = some_records("orders", count)
    reason = KafkaError(code).str().removeprefix("Broker: ")
    with pytest.raises(MessageRefused, match=rf"{records[0].id} .*'orders'.*{reason}"):
        _publish_and_flush(sending, records)

    # And nothing after it counts
    sending.publisher.close()
    assert sending.tally.indexes == list(range(BEFORE))


def _publish_and_flush(sending: Sending, records: Any) -> None:
    sending.publish(records)
    sending.publisher.flush(TIMEOUT_S)


def test_a_broken_producer_says_why(cluster: MockCluster) -> None:
    # Given a producer that is fatally broken
    sending = begin(cluster, **ALONE)
    cluster.refuse(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
    with pytest.raises(DeliveryFailed, match=r"sequence"):
        _publish_and_flush(sending, some_records("orders", AFTER))

    # When it is used again, then it fails again with the reason
    with pytest.raises(DeliveryFailed, match=r"sequence"):
        sending.publisher.poll(0.1)
    with pytest.raises(DeliveryFailed, match=r"sequence"):
        sending.publish(some_records("orders", 1))
    sending.publisher.close()


def test_a_full_queue_keeps_the_order(cluster: MockCluster) -> None:
    # Given a producer with room for a few messages
    sending = begin(cluster, **{"queue.buffering.max.messages": 10})

    # When far more are published at once
    sending.deliver(some_records("orders", 500))

    # Then all are there in order
    assert log(cluster) == ids(sending.records)
    sending.publisher.close()


def test_waiting_for_room_ends_when_the_check_raises(cluster: MockCluster) -> None:
    # Given a producer with room for a few messages, whose broker is away
    sending = begin(cluster, **{"queue.buffering.max.messages": 10})
    cluster.take_down()
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise InterruptedError("the lease ran out")

    # When more are published, then the check ends the wait
    with pytest.raises(InterruptedError, match="the lease ran out"):
        sending.publish(some_records("orders", 100), check)

    # And nothing is in the log that was not there before
    sending.publisher.close()
    cluster.bring_up()
    assert len(log(cluster)) == BEFORE
