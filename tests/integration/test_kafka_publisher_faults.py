"""What the Kafka publisher makes of errors: nothing is lost in silence, and the reason is told.

The mock cluster gives each error on demand. It takes any sequence number, so whether a message can
overtake one that was refused is shown elsewhere, on a real broker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError

from outbox.errors import MessageRefused, OutboxError
from outbox.publishers.base import DeliveryFailed
from outbox.publishers.kafka import KafkaPublisher
from outbox.publishers.reports import RUNS_FROM
from outbox.record import Record
from tests.conformance.publisher_kit import (
    TIMEOUT_S,
    Sending,
    as_arrived,
    headers_of,
    ids,
    some_records,
)
from tests.servers.kafka_mock import MockCluster

ALONE = {"batch.num.messages": 1, "linger.ms": 0}  # every message is a request of its own
_KBYTES = "queue.buffering.max.kbytes"
BEFORE, AFTER = 3, 20  # messages before and after the first error

OUTAGES = [
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
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
    KafkaError.NETWORK_EXCEPTION,
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
@pytest.mark.parametrize(
    ("properties", "count"),
    [(ALONE, AFTER), ({}, AFTER), ({"batch.num.messages": 100}, RUNS_FROM)],
    ids=["alone", "in batches", "in runs"],
)
def test_no_error_loses_a_message_in_silence(
    cluster: MockCluster, code: int, properties: dict[str, object], count: int
) -> None:
    # Given a broker that answers a request with an error, in the middle of others
    sending = begin(cluster, **properties)
    cluster.refuse(code)

    # When messages are published, for as long as the publisher is of use
    failure = _failure(sending, some_records("orders", count))
    sending.publisher.close()

    # Then it is held against the message only where nothing else is to blame
    assert isinstance(failure, MessageRefused) == (code in REFUSALS and count < RUNS_FROM)
    assert failure is None or code not in OUTAGES

    # And what is acknowledged is in the log, up to the first that is not acknowledged
    acknowledged = len(sending.tally.indexes)
    assert sending.tally.indexes == list(range(acknowledged))
    assert sending.acknowledged_ids <= set(log(cluster))

    # And when the rest is sent again, every message has come
    again = begin(cluster, **properties)
    again.deliver(sending.records[acknowledged:])
    again.publisher.close()
    assert set(ids(sending.records)) <= set(log(cluster))


def _failure(sending: Sending, records: list[Record]) -> OutboxError | None:
    try:
        sending.publish(records)
        sending.publisher.flush(TIMEOUT_S)
    except OutboxError as failure:
        return failure
    return None


@pytest.mark.parametrize("code", REFUSALS, ids=name)
@pytest.mark.parametrize("count", [1, RUNS_FROM - 1])
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
        sending.deliver(records)

    # And nothing after it counts
    sending.publisher.close()
    assert sending.tally.indexes == list(range(BEFORE))


@pytest.mark.parametrize("code", REFUSALS, ids=name)
def test_of_a_large_page_the_reason_is_told(cluster: MockCluster, code: int) -> None:
    """Which message it is turns out when the relay sends fewer, as it does after a failure."""
    sending = begin(cluster, **ALONE)
    cluster.refuse(code)

    reason = KafkaError(code).str().removeprefix("Broker: ")
    with pytest.raises(OutboxError, match=rf"orders.*{reason}"):
        sending.deliver(some_records("orders", RUNS_FROM))

    sending.publisher.close()
    assert sending.tally.indexes == list(range(BEFORE))


def test_a_broken_producer_says_why(cluster: MockCluster) -> None:
    # Given a producer that is fatally broken
    sending = begin(cluster, **ALONE)
    cluster.refuse(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
    with pytest.raises(DeliveryFailed, match=r"sequence"):
        sending.deliver(some_records("orders", AFTER))

    # When it is used again, then it fails again with the reason
    with pytest.raises(DeliveryFailed, match=r"sequence"):
        sending.publisher.poll(0.1)
    with pytest.raises(DeliveryFailed, match=r"sequence"):
        sending.publish(some_records("orders", 1))
    sending.publisher.close()


@pytest.mark.parametrize("count", [500, 2 * RUNS_FROM])
@pytest.mark.parametrize("limit", [{"queue.buffering.max.messages": 10}, {_KBYTES: 1}], ids=str)
def test_a_full_queue_keeps_the_order(
    cluster: MockCluster, limit: dict[str, object], count: int
) -> None:
    # Given a producer with room for a few messages
    sending = begin(cluster, **limit)

    # When far more are published at once
    sending.deliver(some_records("orders", count))

    # Then all are there in order
    assert log(cluster) == ids(sending.records)
    sending.publisher.close()


class ByNameOnly:
    """A producer of a later version of the client, whose arguments have other places."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def produce(self, topic: str, value: Any, key: Any, *others: Any, **named: Any) -> None:
        if others:
            raise TypeError("function takes at most 3 positional arguments")
        self._producer.produce(topic, value, key, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def __len__(self) -> int:
        return len(self._producer)


def test_arguments_by_position_are_not_needed(cluster: MockCluster) -> None:
    publisher = KafkaPublisher({"bootstrap.servers": cluster.bootstrap_servers})
    publisher._producer = ByNameOnly(publisher._producer)
    sending = Sending(publisher)
    publisher.connect(TIMEOUT_S)

    sending.deliver(some_records("orders", 100))

    assert sending.tally.indexes == list(range(100))
    arrived = sorted(map(as_arrived, cluster.read("orders")), key=lambda each: each.offset)
    assert [list(each.headers) for each in arrived] == list(map(headers_of, sending.records))
    publisher.close()


def test_this_version_takes_arguments_by_position(cluster: MockCluster) -> None:
    """Or else each message costs an exception."""
    publisher = KafkaPublisher({"bootstrap.servers": cluster.bootstrap_servers})
    with pytest.raises(TypeError, match="header"):
        publisher._producer.produce("orders", b"x", "k", -1, print, None, 0, "no headers")
    publisher.close()


def test_waiting_for_room_ends_when_the_check_raises(cluster: MockCluster) -> None:
    # Given a producer with room for a few messages, whose broker is away
    sending = begin(cluster, **{"queue.buffering.max.messages": 10})
    cluster.take_down()

    # When more are published, then the check ends the wait
    with pytest.raises(InterruptedError, match="the lease ran out"):
        sending.publish(some_records("orders", 100), _raising_at(5))

    # And nothing is in the log that was not there before
    sending.publisher.close()
    cluster.bring_up()
    assert len(log(cluster)) == BEFORE


def test_waiting_for_what_was_sent_before_ends_when_the_check_raises(
    cluster: MockCluster,
) -> None:
    # Given messages that cannot be sent, and a topic that needs smaller batches from now on
    sending = begin(cluster)
    cluster.take_down()
    sending.publish(some_records("orders", AFTER))
    sending.publisher._topics._limits["orders"] = 10_000  # type: ignore[attr-defined] # as if met
    before = sending.publisher._producer  # type: ignore[attr-defined] # no other way to tell

    # When more are published, then they wait as long as the check allows
    with pytest.raises(InterruptedError, match="the lease ran out"):
        sending.publish(some_records("orders", 1), _raising_at(5))

    # And the messages that wait were not given up for that
    assert sending.publisher._producer is before  # type: ignore[attr-defined] # see above
    assert len(before) == AFTER
    sending.publisher.close()


def _raising_at(call: int) -> Callable[[], None]:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == call:
            raise InterruptedError("the lease ran out")

    return check


def test_giving_up_what_was_not_sent_is_no_news(
    cluster: MockCluster, caplog: pytest.LogCaptureFixture
) -> None:
    # Given messages that cannot be sent
    sending = begin(cluster)
    cluster.take_down()
    sending.publish(some_records("orders", AFTER))

    # When the publisher is closed, then the log does not call that an error
    with caplog.at_level(logging.ERROR):
        sending.publisher.close()
    assert caplog.records == []


def test_what_librdkafka_says_before_that_is_logged(
    cluster: MockCluster, caplog: pytest.LogCaptureFixture
) -> None:
    sending = begin(cluster, **ALONE)
    cluster.refuse(KafkaError.POLICY_VIOLATION)

    with pytest.raises(DeliveryFailed):
        sending.deliver(some_records("orders", AFTER))

    assert "outbox.librdkafka" in {each.name for each in caplog.records}
    sending.publisher.close()
