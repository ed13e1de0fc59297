"""What the Kafka publisher does with topics, sizes, keys and tracing, on a real Kafka."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, murmur2
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
)

from outbox.errors import BrokerUnavailable, ConfigurationError, MessageRefused, OutboxError
from outbox.publishers.base import TopicUnavailable
from outbox.publishers.kafka import KafkaPublisher
from outbox.publishers.sizes import batch_size, client_size
from outbox.record import Record
from tests.conformance.publisher_kit import (
    TIMEOUT_S,
    Sending,
    as_arrived,
    headers_of,
    ids,
    record,
    some_records,
)
from tests.integration.instrumented_publisher import TRACEPARENT
from tests.servers.availability import require
from tests.servers.kafka_programs import java_command
from tests.servers.kafka_topics import QUIET
from tests.servers.ports import free_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.kafka_topics import KafkaServer

CHECKOUT = Path(__file__).parents[2]
ALONE = {"batch.num.messages": 1, "linger.ms": 0}
NewSending = Callable[..., Sending]


@pytest.fixture
def new_sending(kafka: KafkaServer) -> Iterator[NewSending]:
    """Give `new_sending(**properties)`: a connected publisher."""
    made: list[KafkaPublisher] = []

    def make(**properties: Any) -> Sending:
        made.append(KafkaPublisher({"bootstrap.servers": kafka.bootstrap_servers, **properties}))
        made[-1].connect(TIMEOUT_S)
        return Sending(made[-1])

    yield make
    for publisher in made:
        publisher.close()


def log(kafka: KafkaServer, topic: str) -> list[str]:
    return ids(map(as_arrived, kafka.read(topic)))


# Keys and partitions


def test_a_key_goes_to_the_partition_that_javas_producer_takes(
    kafka: KafkaServer, new_sending: NewSending
) -> None:
    # Given the partitions in which Java's own producer puts many keys
    keys = [f"key-{n}" for n in range(200)] + ["Größe", "注文-7", "🦊", "k" * 300]
    theirs = kafka.create_topic(partitions=6)
    _produce_with_java(kafka, theirs, keys)

    # When the publisher sends the same keys
    ours = kafka.create_topic(partitions=6)
    new_sending().deliver(record(ours, seq, key=key) for seq, key in enumerate(keys, 1))

    # Then each is in the same partition, and they are spread over all of them
    assert _partitions(kafka, ours) == _partitions(kafka, theirs)
    assert len(_partitions(kafka, ours)) == len(keys)
    assert set(_partitions(kafka, ours).values()) == set(range(6))


def _produce_with_java(kafka: KafkaServer, topic: str, keys: list[str]) -> None:
    command = require(java_command)
    arguments = ["--bootstrap-server", kafka.bootstrap_servers, "--topic", topic]
    properties = ["--property", "parse.key=true", "--property", "key.separator=="]
    done = subprocess.run(
        [*command, "kafka.tools.ConsoleProducer", *arguments, *properties],
        input="".join(f"{key}=x\n" for key in keys).encode(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()


def _partitions(kafka: KafkaServer, topic: str) -> dict[str, int]:
    return {message.key().decode(): message.partition() for message in kafka.read(topic)}


def test_partitions_that_are_added_are_used_after_a_while(
    kafka: KafkaServer, new_sending: NewSending, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a publisher that has sent to a topic with two partitions
    keys = [f"key-{n}" for n in range(50)]
    topic = kafka.create_topic(partitions=2)
    sending = new_sending()
    sending.deliver(record(topic, seq, key=key) for seq, key in enumerate(keys))
    assert set(_partitions(kafka, topic).values()) == {0, 1}

    # When it gets four more, and the time has come to look
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    admin.create_partitions([NewPartitions(topic, 6)])[topic].result(30)
    wait_until(lambda: len(kafka.describe(topic)) == 6, what="six partitions")
    monkeypatch.setattr("outbox.publishers.topics._RECOUNT_S", 0.0)
    sending.deliver(record(topic, seq, key=key) for seq, key in enumerate(keys))

    # Then messages go where a client would put them that has never known it otherwise
    arrived = kafka.read(topic)
    places = {(message.key().decode(), message.partition()) for message in arrived}
    assert len(arrived) == 100
    assert {(key, murmur2(key.encode(), 6)) for key in keys} <= places


# Topics


def test_an_unknown_topic_is_named_before_anything_is_sent(
    kafka: KafkaServer, new_sending: NewSending
) -> None:
    # Given a page with a message for a topic that does not exist
    known = kafka.create_topic(partitions=1)
    sending = new_sending()

    # When it is published, then the topic is named, with what to do
    with pytest.raises(TopicUnavailable, match=r"'no-such-topic'.*create the topic"):
        sending.publish([*some_records(known, 10), record("no-such-topic")])

    # And nothing was sent, and no topic made
    sending.publisher.close()
    assert log(kafka, known) == []
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    assert "no-such-topic" not in admin.list_topics(timeout=10).topics


def test_a_topic_made_later_is_found_by_the_next_publisher(
    kafka: KafkaServer, new_sending: NewSending
) -> None:
    topic = f"{kafka.create_topic(partitions=1)}-later"
    with pytest.raises(TopicUnavailable):
        new_sending().publish([record(topic)])

    kafka.create_topic(topic, partitions=1)
    new_sending().deliver([record(topic)])

    assert len(log(kafka, topic)) == 1


# Sizes


def test_small_messages_are_not_refused_as_a_batch(
    kafka: KafkaServer, new_sending: NewSending
) -> None:
    # Given a topic that takes batches of 10 kB, in which librdkafka would send one of 100 kB
    topic = kafka.create_topic(partitions=1, max_message_bytes="10000")
    records = some_records(topic, 100, payload=bytes(1000))
    assert _send_as_anybody(kafka, *records) == {KafkaError.MSG_SIZE_TOO_LARGE}

    # When a hundred messages of 1 kB are published
    sending = new_sending()
    sending.deliver(records)

    # Then all of them are there
    assert log(kafka, topic) == ids(sending.records)


def _send_as_anybody(kafka: KafkaServer, *records: Record) -> set[int | None]:
    """Send with librdkafka's own batch size; return the errors that came back."""
    errors: set[int | None] = set()
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 100, **QUIET})
    for each in records:
        producer.produce(
            *(each.topic, each.payload, each.key),
            headers=headers_of(each),
            on_delivery=lambda error, _: errors.add(error and error.code()),
        )
    assert producer.flush(TIMEOUT_S) == 0
    return errors


def test_smaller_batches_keep_the_order_of_what_was_sent_before(
    kafka: KafkaServer, new_sending: NewSending
) -> None:
    # Given messages on their way
    large = kafka.create_topic(partitions=1)
    small = kafka.create_topic(partitions=1, max_message_bytes="10000")
    sending = new_sending()
    sending.publish(some_records(large, 1_000))

    # When a topic with a small limit comes in
    page = [record((large, small)[seq % 2], seq) for seq in range(200)]
    sending.publish(page)
    sending.publisher.flush(TIMEOUT_S)

    # Then every topic holds its messages in order
    assert sending.tally.indexes == list(range(1_200))
    for topic in (large, small):
        expected = [each.id for each in sending.records if each.topic == topic]
        assert log(kafka, topic) == expected


def test_an_oversized_message_is_refused_before_anything_of_its_page_is_sent(
    kafka: KafkaServer, new_sending: NewSending
) -> None:
    # Given a page with a message that is too large for its topic, behind some without payloads
    topic = kafka.create_topic(partitions=1, max_message_bytes="20000")
    guilty = record(topic, payload=bytes(20_001))
    some_before = [record(topic, payload=None), *some_records(topic, 50)]
    sending = new_sending()

    # When it is published, then message, topic and sizes are named
    with pytest.raises(MessageRefused, match=rf"{guilty.id}.*'{topic}'.* 20\d\d\d bytes.*20000"):
        sending.publish([*some_before, guilty])

    # And nothing was sent
    sending.publisher.close()
    assert log(kafka, topic) == []
    assert sending.tally.indexes == []


def test_a_topics_limit_is_known_to_the_byte(kafka: KafkaServer, new_sending: NewSending) -> None:
    """One byte less foresight, and the broker would refuse what others were sent behind."""
    # Given a message with key and headers whose batch has exactly the size that the topic takes
    headers = json.dumps({"tenant": "Größe", "long": "x" * 200, "none": None})
    topic = kafka.create_topic(partitions=1, max_message_bytes="20000")
    empty = record(topic, key="k" * 100, headers=headers)
    spare = 20_000 - batch_size(empty._replace(payload=bytes(10_000)), headers_of(empty))
    largest = empty._replace(payload=bytes(10_000 + spare))

    # When it is published, then it arrives
    new_sending().deliver([largest])
    assert log(kafka, topic) == [largest.id]

    # And with a byte more it is refused, by us, and by the broker if we did not
    larger = largest._replace(payload=bytes(10_000 + spare + 1))
    with pytest.raises(MessageRefused, match="20001 bytes"):
        new_sending().publish([larger])
    assert _send_as_anybody(kafka, larger) == {KafkaError.MSG_SIZE_TOO_LARGE}


@pytest.mark.parametrize("key", [None, "", "k" * 1_000])
@pytest.mark.parametrize("headers", [None, '{"long": "%s", "none": null}' % ("x" * 300)])
def test_the_clients_limit_is_known_to_the_byte(
    kafka: KafkaServer, new_sending: NewSending, key: str | None, headers: str | None
) -> None:
    # Given a message of exactly the size that the client takes
    topic = kafka.create_topic(partitions=1)
    empty = record(topic, key=key, headers=headers, payload=b"")
    spare = 20_000 - client_size(empty, headers_of(empty))
    limits = {"message.max.bytes": 20_000}

    # When it is published, then it arrives, and with a byte more it is refused
    new_sending(**limits).deliver([empty._replace(payload=bytes(spare))])
    with pytest.raises(MessageRefused, match=r"message\.max\.bytes: 20001 bytes"):
        new_sending(**limits).publish([empty._replace(payload=bytes(spare + 1))])

    # And the client would have taken no more
    larger = empty._replace(payload=bytes(spare + 1))
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, **limits})
    with pytest.raises(KafkaException, match="too large"):
        producer.produce(topic, larger.payload, larger.key, headers=headers_of(larger))


def test_what_the_client_would_not_take_is_refused_before_anything_of_its_page_is_sent(
    kafka: KafkaServer, new_sending: NewSending
) -> None:
    # Given a topic that takes more than the client's message.max.bytes
    topic = kafka.create_topic(partitions=1, max_message_bytes="3000000")
    guilty = record(topic, payload=bytes(1_500_000))
    sending = new_sending()

    # When a page with such a message is published, then the limit is named
    with pytest.raises(MessageRefused, match=rf"{guilty.id}.*message\.max\.bytes"):
        sending.publish([*some_records(topic, 50), guilty])

    # And nothing was sent
    sending.publisher.close()
    assert log(kafka, topic) == []

    # When the client may, then it arrives
    new_sending(**{"message.max.bytes": 3_000_000}).deliver([guilty])
    assert log(kafka, topic) == [guilty.id]


def test_a_message_behind_one_that_the_broker_refuses_does_not_overtake_it(
    kafka: KafkaServer, new_sending: NewSending
) -> None:
    # Given a partition that knows the producer, and a limit that was lowered since
    topic = kafka.create_topic(partitions=1)
    sending = new_sending(**ALONE)
    sending.deliver(some_records(topic, 3))
    _limit(kafka, topic, 5_000)

    # When a message above it is published with others behind it, and nobody looks for long
    guilty = record(topic, payload=bytes(6_000))
    with suppress(OutboxError):
        sending.publish([guilty, *some_records(topic, 20)])
    with suppress(KafkaException, SystemError):
        sending.publisher._producer.flush(2)  # type: ignore[attr-defined] # unseen by ours
    with pytest.raises(OutboxError):
        sending.publisher.flush(TIMEOUT_S)
    sending.publisher.close()

    # Then nothing behind it is in the log
    assert sending.tally.indexes == [0, 1, 2]
    assert log(kafka, topic) == ids(sending.records[:3])


def test_the_first_message_for_a_partition_is_not_overtaken_when_the_broker_refuses_it(
    kafka: KafkaServer, new_sending: NewSending
) -> None:
    """The broker takes the request behind a refused one from a producer that it does not know."""
    for _ in range(5):
        # Given a message whose size only the broker can judge, since messages are compressed
        topic = kafka.create_topic(partitions=1, max_message_bytes="5000")
        guilty = record(topic, payload=os.urandom(6_000))
        sending = new_sending(**{**ALONE, "compression.type": "gzip"})

        # When it is the first that a new producer sends there, with others behind it
        with suppress(OutboxError):
            sending.publish([guilty, *some_records(topic, 20)])
        with pytest.raises(OutboxError):
            sending.publisher.flush(TIMEOUT_S)
        sending.publisher.close()

        # Then nothing is in the log
        assert log(kafka, topic) == []


def _limit(kafka: KafkaServer, topic: str, size: int) -> None:
    """Lower a topic's limit and wait until the broker goes by it."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
    wait_until(
        lambda: (
            admin.describe_configs([resource])[resource].result(10)["max.message.bytes"].value
            == str(size)
        ),
        what=f"a limit of {size} bytes for {topic}",
    )


# Tracing


def test_one_traceparent_is_on_the_wire_whatever_instruments_the_client(
    kafka: KafkaServer,
) -> None:
    # Given a process in which OpenTelemetry's instrumentation of the client is on
    ordinary, ours = (kafka.create_topic(partitions=1) for _ in range(2))
    program = [sys.executable, "-m", "tests.integration.instrumented_publisher"]

    # When it sends a message with a trace context, as anybody and as we do
    subprocess.run(
        [*program, kafka.bootstrap_servers, ordinary, ours], cwd=CHECKOUT, timeout=60, check=True
    )

    # Then the instrumentation adds its own to the one, and the other has the context it was given
    assert len(_traceparents(kafka, ordinary)) == 2
    assert _traceparents(kafka, ours) == [TRACEPARENT]


def _traceparents(kafka: KafkaServer, topic: str) -> list[str]:
    (message,) = map(as_arrived, kafka.read(topic))
    return [(value or b"").decode() for name, value in message.headers if name == "traceparent"]


# Without a broker


@pytest.mark.parametrize(
    ("properties", "complaint"),
    [
        ({"no.such.property": 1}, r"no\.such\.property"),
        ({"socket.timeout.ms": "soon"}, r"socket\.timeout\.ms"),
        ({"compression.type": "winzip"}, r"winzip"),
    ],
)
def test_a_property_that_librdkafka_does_not_take_is_a_configuration_error(
    properties: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        KafkaPublisher({"bootstrap.servers": "127.0.0.1:1", **properties})


def test_an_address_where_nobody_listens_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    publisher = KafkaPublisher({"bootstrap.servers": address})
    with pytest.raises(BrokerUnavailable, match=rf"Kafka cannot be reached: .*{address}"):
        publisher.connect(1.0)
    publisher.close()


#: From the tests of Kafka's own clients: the hash of a key, as a signed number of 32 bits.
@pytest.mark.parametrize(
    ("key", "hashed"),
    [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)],
)
def test_the_hash_that_the_other_tests_rely_on_is_kafkas(key: str, hashed: int) -> None:
    assert murmur2(key.encode(), 1_000) == (hashed & 0x7FFFFFFF) % 1_000
