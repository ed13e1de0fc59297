"""A broker refuses the first batch of a new producer and accepts the second.

The broker has no state of that producer yet, so it does not miss the first one. librdkafka takes
the second one's success for the first one's too, and reports a message as delivered that is not in
the log. On a real broker the timing is a matter of luck; a proxy makes it happen every time, and
all answers are the broker's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer, murmur2

from outbox.errors import BrokerUnavailable
from outbox.publishers.base import DeliveryFailed
from outbox.publishers.cold import ColdPartitions
from outbox.publishers.kafka import KafkaPublisher
from tests.conformance.publisher_kit import TIMEOUT_S, Sending, as_arrived, ids, record
from tests.servers.availability import require
from tests.servers.kafka import KafkaCluster
from tests.servers.kafka_proxy import PRODUCE, Frame, KafkaProxy
from tests.servers.kafka_topics import KafkaServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

    from outbox.record import Record

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

LEADER, FOLLOWER = 1, 2
#: Keys of the partition where it happens, and of one that warms the connection up.
KEY, OTHER_KEY = (next(k for k in "abcdef" if murmur2(k.encode(), 2) == n) for n in (0, 1))
#: Nothing but what makes it idempotent, and sends a key where we look for it.
LIBRDKAFKAS = {"enable.idempotence": True, "partitioner": "murmur2_random"}
ATTEMPTS = 3  # to show the loss with librdkafka's defaults


@dataclass
class RefusedThenAccepted:
    """Holds the refusal of the first batch until the second one, if any is sent, is accepted."""

    requests: list[Frame] = field(default_factory=list)
    responses: list[Frame] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: bool = False

    def on_request(self, frame: Frame) -> None:
        if frame.api != PRODUCE:
            frame.forward()
            return
        with self._lock:
            self.requests.append(frame)
            if len(self.requests) == 1 or self._open:
                frame.forward()

    def on_response(self, frame: Frame) -> None:
        if frame.api != PRODUCE:
            frame.forward()
            return
        with self._lock:
            self.responses.append(frame)
            if self._open:
                frame.forward()

    def let_the_second_pass(self) -> None:
        """Give the second request to the broker, and both answers to the client at once."""
        if self.requests[1:]:
            self.requests[1].forward()
            wait_until(lambda: self.responses[1:], what="the answer to the second batch")
        with self._lock:
            self._open = True
            for frame in (*self.requests[2:], *self.responses):
                frame.forward()


@dataclass
class Stage:
    """Two brokers, of which both must have a message, and a proxy before the leader."""

    cluster: KafkaCluster
    proxy: KafkaProxy

    @property
    def address(self) -> str:
        return self.cluster.proxied_bootstrap_servers

    def create_topic(self) -> str:
        replicas = [[LEADER, FOLLOWER]] * 2
        return self.cluster.create_topic(replica_assignment=replicas, min_insync_replicas="2")

    def perform(self, topic: str, send: Callable[[int], None]) -> int:
        """Have message 0 refused, then message 1 accepted; return how many requests that took."""
        play = RefusedThenAccepted()
        self._wait_for_replicas(topic, 2)
        self.cluster.broker(FOLLOWER).pause()
        try:
            self._wait_for_replicas(topic, 1)
            self.proxy.on_request, self.proxy.on_response = play.on_request, play.on_response
            send(0)
            wait_until(lambda: play.responses, what="the refusal of the first batch")
            send(1)
        finally:
            self.cluster.broker(FOLLOWER).resume()
        # By then a client that sends a second batch before the first is answered has done so.
        self._wait_for_replicas(topic, 2)
        requests = len(play.requests)
        play.let_the_second_pass()
        return requests

    def _wait_for_replicas(self, topic: str, count: int) -> None:
        # Only the leader knows: one that was paused still tells what was true before.
        leader = KafkaServer(f"127.0.0.1:{self.cluster.broker(LEADER).port}")
        wait_until(
            lambda: all(len(p.isrs) == count for p in leader.describe(topic).values()),
            what=f"{count} replicas in sync",
        )

    def payloads(self, topic: str) -> list[bytes | None]:
        return [message.value() for message in self.cluster.read(topic) if message.partition() == 0]


@pytest.fixture(autouse=True)
def _second_message_follows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the producer's settings show that they are enough: our publisher would let the first
    message for a partition go alone, so that it could not come to this."""
    monkeypatch.setattr(ColdPartitions, "must_wait", lambda *_: False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with require(lambda: KafkaCluster(2, proxied={LEADER})) as cluster:
        yield cluster


@pytest.fixture
def stage(cluster: KafkaCluster) -> Iterator[Stage]:
    leader = cluster.broker(LEADER)
    assert leader.advertised_port is not None
    assert leader.proxied_port is not None
    with KafkaProxy(leader.advertised_port, leader.proxied_port) as proxy:
        yield Stage(cluster, proxy)


def test_librdkafkas_defaults_report_a_lost_message_as_delivered(stage: Stage) -> None:
    for _ in range(ATTEMPTS):
        # Given an idempotent producer as librdkafka makes it, that has sent to another partition
        topic = stage.create_topic()
        reports: dict[bytes, tuple[KafkaError | None, int | None]] = {}
        producer = Producer({"bootstrap.servers": stage.address, **LIBRDKAFKAS})
        _produce(producer, topic, OTHER_KEY, b"warm", reports)
        assert producer.flush(TIMEOUT_S) == 0

        # When its first batch is refused and the second one accepted
        stage.perform(topic, lambda n: _produce(producer, topic, KEY, b"%d" % n, reports))  # noqa: B023 - performed here and now
        assert producer.flush(TIMEOUT_S) == 0

        # Then it says that both are delivered, and one is not there
        if stage.payloads(topic) == [b"1"]:
            assert reports[b"0"] == (None, None)  # no error, and no offset
            assert reports[b"1"][0] is None
            return
    pytest.fail(f"no loss in {ATTEMPTS} attempts: the test no longer shows what it is about")


def _produce(producer: Producer, topic: str, key: str, value: bytes, reports: Any) -> None:
    def report(error: KafkaError | None, message: Message) -> None:
        reports[value] = error, message.offset()

    producer.produce(topic, value, key=key, on_delivery=report)


def test_the_publisher_delivers_both_messages_in_order(stage: Stage) -> None:
    # Given a publisher that has sent to another partition
    topic = stage.create_topic()
    sending = _connected(stage)
    sending.deliver([_record(topic, OTHER_KEY, 9)])

    # When its first batch is refused by a broker that would accept the second one
    requests = stage.perform(topic, lambda n: sending.publish([_record(topic, KEY, n)]))
    sending.publisher.flush(TIMEOUT_S)

    # Then the second one was not sent before the first was accepted
    assert requests == 1
    assert stage.payloads(topic) == [b"0", b"1"]
    assert sending.tally.indexes == [0, 1, 2]
    sending.publisher.close()


def test_an_acknowledgement_without_an_offset_does_not_count(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a producer be deceived after all, what it reports is not believed."""
    # Given a publisher with librdkafka's defaults
    monkeypatch.setattr("outbox.publishers.kafka.OWNED", LIBRDKAFKAS)
    for _ in range(ATTEMPTS):
        topic = stage.create_topic()
        sending = _connected(stage)
        sending.deliver([_record(topic, OTHER_KEY, 9)])

        # When its first batch is refused and the second one accepted
        failure = _failure(stage, topic, sending)
        arrived = [as_arrived(message) for message in stage.cluster.read(topic)]
        sending.publisher.close()

        # Then it says so, and acknowledges neither
        assert sending.acknowledged_ids <= set(ids(arrived))
        if stage.payloads(topic) == [b"1"]:
            assert "acknowledged without an offset" in str(failure)
            assert sending.tally.indexes == [0]
            return
    pytest.fail(f"no loss in {ATTEMPTS} attempts: the test no longer shows what it is about")


def _failure(stage: Stage, topic: str, sending: Sending) -> BrokerUnavailable | None:
    stage.perform(topic, lambda n: sending.publish([_record(topic, KEY, n)]))
    try:
        sending.publisher.flush(TIMEOUT_S)
    except DeliveryFailed as failure:
        return failure
    return None


def _connected(stage: Stage) -> Sending:
    publisher = KafkaPublisher({"bootstrap.servers": stage.address})
    publisher.connect(TIMEOUT_S)
    return Sending(publisher)


def _record(topic: str, key: str, seq: int) -> Record:
    return record(topic, seq, key=key)
