"""What every publisher must do. Subclasses give a `kit`."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import pytest

from outbox.errors import BrokerUnavailable, MessageRefused, OutboxError
from outbox.publishers.base import DeliveryFailed
from tests.conformance.publisher_kit import (
    PREFIX,
    TIMEOUT_S,
    Arrived,
    Sending,
    ids,
    ids_by_key,
    record,
    some_records,
)
from tests.waiting import wait_until

if TYPE_CHECKING:
    from outbox.publishers.base import Publisher

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MANY = 2_000  # more than fit between two looks at the lease
CLOSED_WITHIN_S = 5.0


class PublisherKit(Protocol):
    """A broker, publishers to it, and a look into it."""

    def topic(self, partitions: int = 1) -> str:
        """Return a fresh topic."""

    def publisher(self, *, fails_at: int | None = None) -> Publisher:
        """Return a publisher, connected; its message number `fails_at`, from 0, will not arrive.

        With `fails_at` every message is sent alone, so that the broker takes those before it.
        """

    def break_delivery(self, topic: str) -> None:
        """Make what `fails_at` announced come true for the next message."""

    def read(self, topic: str) -> list[Arrived]:
        """Return what is in the topic's log, by partition and offset."""


class PublisherSuite:
    """Subclass it and give it a fixture `kit`."""

    # What arrives

    def test_messages_of_a_key_arrive_in_the_order_of_publish(self, kit: PublisherKit) -> None:
        # Given three pages of messages with many keys, on several partitions
        topic = kit.topic(partitions=3)
        sending = Sending(kit.publisher())
        records = [record(topic, seq, key=f"key-{seq % 7}") for seq in range(1, 601)]

        # When they are published one page after the other, without waiting in between
        for start in range(0, 600, 200):
            sending.publish(records[start : start + 200])
        sending.publisher.flush(TIMEOUT_S)

        # Then each key is in one partition, and in order
        arrived = kit.read(topic)
        assert len(arrived) == 600
        for key in {each.key for each in records}:
            expected = [each.id for each in records if each.key == key]
            of_key = [each for each in arrived if each.key == (key or "").encode()]
            assert ids(of_key) == expected
            assert len({each.partition for each in of_key}) == 1

    def test_pages_of_any_size_keep_the_order_of_keys_in_several_topics(
        self, kit: PublisherKit
    ) -> None:
        # Given messages for two topics, some of the later ones without a key
        topics = [kit.topic(partitions=3), kit.topic()]
        sending = Sending(kit.publisher())
        records = [
            record(
                topics[seq % 5 == 0],
                seq,
                key=None if seq > 5_000 and seq % 7 == 0 else f"key-{seq % 29}",
            )
            for seq in range(1, 6_001)
        ]

        # When they are published one page after the other, large and small ones
        start = 0
        for size in (1, 3, 1_996, 2_000, 900, 1_100):
            sending.publish(records[start : start + size])
            start += size
        sending.publisher.flush(TIMEOUT_S)

        # Then each is acknowledged, and is there once and in the order of its key
        assert sending.tally.indexes == list(range(6_000))
        for topic in topics:
            expected = [each for each in records if each.topic == topic]
            arrived = kit.read(topic)
            assert sorted(ids(arrived)) == sorted(ids(expected))
            in_order = {key: of_key for key, of_key in ids_by_key(expected).items() if key}
            assert {key: ids_by_key(arrived)[key] for key in in_order} == in_order

    def test_one_partition_holds_the_messages_in_the_order_of_publish(
        self, kit: PublisherKit
    ) -> None:
        topic = kit.topic()
        sending = Sending(kit.publisher())

        sending.deliver(record(topic, seq, key=f"key-{seq % 7}") for seq in range(1, 601))

        arrived = kit.read(topic)
        assert ids(arrived) == ids(sending.records)
        assert [each.offset for each in arrived] == list(range(600))

    def test_messages_without_a_key_arrive(self, kit: PublisherKit) -> None:
        topic = kit.topic(partitions=3)
        sending = Sending(kit.publisher())

        sending.deliver(some_records(topic, 50, key=None))

        arrived = kit.read(topic)
        assert {each.key for each in arrived} == {None}
        assert sorted(ids(arrived)) == sorted(ids(sending.records))

    @pytest.mark.parametrize(
        "payload",
        [None, b"", bytes(range(256)), b"x" * 900_000],
        ids=["tombstone", "empty", "binary", "large"],
    )
    def test_a_payload_arrives_as_it_is(self, kit: PublisherKit, payload: bytes | None) -> None:
        topic = kit.topic()

        Sending(kit.publisher()).deliver([record(topic, payload=payload)])

        (arrived,) = kit.read(topic)
        assert arrived.payload == payload

    @pytest.mark.parametrize("key", ["", "Größe", "注文-7", "🦊", "k" * 1024])
    def test_a_key_arrives_as_utf_8(self, kit: PublisherKit, key: str) -> None:
        topic = kit.topic(partitions=3)

        Sending(kit.publisher()).deliver([record(topic, key=key)])

        (arrived,) = kit.read(topic)
        assert arrived.key == key.encode()

    def test_several_topics_fit_in_one_page(self, kit: PublisherKit) -> None:
        topics = [kit.topic() for _ in range(3)]
        sending = Sending(kit.publisher())

        sending.deliver(record(topics[seq % 3], seq) for seq in range(1, 31))

        for topic in topics:
            expected = [each.id for each in sending.records if each.topic == topic]
            assert ids(kit.read(topic)) == expected

    # Headers

    def test_headers_are_ours_and_then_the_users(self, kit: PublisherKit) -> None:
        # Given a message with everything a message can have
        topic = kit.topic()
        message = record(
            topic,
            seq=12,
            type="order.placed",
            content_type="application/json",
            headers=json.dumps([["tenant", "acme"], ["tag", "ä"], ["tag", "2"], ["none", None]]),
            traceparent=TRACEPARENT,
            tracestate="vendor=1",
        )

        # When it is published
        Sending(kit.publisher()).deliver([message])

        # Then all of it is there, in this order and form
        (arrived,) = kit.read(topic)
        assert arrived.headers == (
            ("id", message.id.encode()),
            ("type", b"order.placed"),
            ("content-type", b"application/json"),
            ("traceparent", TRACEPARENT.encode()),
            ("tracestate", b"vendor=1"),
            ("outbox-position", f"{PREFIX}12".encode()),
            ("tenant", b"acme"),
            ("tag", "ä".encode()),
            ("tag", b"2"),
            ("none", None),
        )

    def test_what_a_message_has_not_got_sends_no_header(self, kit: PublisherKit) -> None:
        topic = kit.topic()
        message = record(topic, seq=3)

        Sending(kit.publisher()).deliver([message])

        (arrived,) = kit.read(topic)
        position = ("outbox-position", f"{PREFIX}3".encode())
        assert arrived.headers == (("id", message.id.encode()), position)

    def test_a_users_header_never_takes_the_place_of_ours(self, kit: PublisherKit) -> None:
        topic = kit.topic()
        stored = json.dumps(
            {"ID": "x", "traceparent": "x", "Outbox-Position": "x", "mine": {"a": 1}}
        )
        message = record(topic, headers=stored, traceparent=TRACEPARENT)

        Sending(kit.publisher()).deliver([message])

        (arrived,) = kit.read(topic)
        assert [name for name, _ in arrived.headers] == [
            *("id", "traceparent", "outbox-position", "mine")
        ]
        assert arrived.headers[1] == ("traceparent", TRACEPARENT.encode())
        assert arrived.headers[3] == ("mine", b'{"a":1}')

    def test_headers_that_are_none_are_refused_before_anything_is_sent(
        self, kit: PublisherKit
    ) -> None:
        # Given a page whose last message has headers that no writer of ours would store
        topic = kit.topic()
        page = [*some_records(topic, MANY), record(topic, headers='"no pairs"')]
        sending = Sending(kit.publisher())

        # When it is published, then it is refused
        with pytest.raises(MessageRefused, match="no pairs"):
            sending.publish(page)

        # And nothing of it was sent
        _close_and_look_again(sending.publisher)
        assert sending.tally.indexes == []
        assert kit.read(topic) == []

    # Acknowledgements

    def test_every_message_is_acknowledged_once_and_only_when_it_is_in_the_log(
        self, kit: PublisherKit
    ) -> None:
        # Given messages on several partitions
        topic = kit.topic(partitions=3)
        sending = Sending(kit.publisher())
        sending.publish(record(topic, seq, key=f"{seq}") for seq in range(1, MANY + 1))

        # When some are acknowledged
        while not sending.tally.acknowledgements:
            sending.publisher.poll(0.01)
        early = sending.acknowledged_ids

        # Then these are in the log, and in the end all are acknowledged
        assert early <= set(ids(kit.read(topic)))
        sending.publisher.flush(TIMEOUT_S)
        assert sending.tally.indexes == list(range(MANY))

    def test_nothing_is_acknowledged_before_a_poll(self, kit: PublisherKit) -> None:
        sending = Sending(kit.publisher())

        sending.publish(some_records(kit.topic(), 1))

        assert sending.tally.acknowledgements == []

    def test_after_a_failed_delivery_nothing_counts_any_more(self, kit: PublisherKit) -> None:
        # Given a publisher whose sixth message will not arrive
        topic = kit.topic()
        sending = Sending(kit.publisher(fails_at=5))
        sending.deliver(some_records(topic, 5))
        kit.break_delivery(topic)

        # When that and more are published, then the failure is raised, and again each time
        with suppress(DeliveryFailed):  # as soon as it is known
            sending.publish(some_records(topic, 20))
        for _ in range(2):
            with pytest.raises(DeliveryFailed):
                sending.publisher.flush(TIMEOUT_S)

        # And nothing behind it counts, not even what the broker took
        _close_and_look_again(sending.publisher)
        assert sending.tally.indexes == list(range(5))

    # Being stopped

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

        # And nothing was sent after that
        with suppress(OutboxError):
            sending.publisher.flush(TIMEOUT_S)
        arrived = ids(kit.read(topic))
        assert 0 < len(arrived) < MANY
        assert arrived == ids(sending.records)[: len(arrived)]

    def test_nothing_is_acknowledged_after_close(self, kit: PublisherKit) -> None:
        # Given messages that were published and perhaps not yet sent
        topic = kit.topic()
        sending = Sending(kit.publisher())
        sending.publish(some_records(topic, MANY))

        # When the publisher is closed
        sending.publisher.close()
        acknowledged = set(sending.acknowledged_ids)
        arrived = set(ids(kit.read(topic)))

        # Then what counts is in the log, and no more comes to it
        _close_and_look_again(sending.publisher)
        assert sending.acknowledged_ids == acknowledged
        assert acknowledged <= arrived

    def test_close_can_be_called_twice(self, kit: PublisherKit) -> None:
        publisher = kit.publisher()
        publisher.close()
        publisher.close()


class OutageKit(PublisherKit, Protocol):
    """A broker that can be taken away, messages and all, and brought back with them."""

    def unconnected(self) -> Publisher:
        """Return a publisher that has not been connected."""

    def take_away(self) -> None:
        """Let nothing answer at the broker's address."""

    def bring_back(self) -> None:
        """Let the broker answer again."""


class OutageSuite:
    """Subclass it and give it a fixture `kit`."""

    def test_messages_wait_for_the_broker_and_arrive_in_order(self, kit: OutageKit) -> None:
        # Given a publisher whose broker goes away
        topic = kit.topic()
        sending = Sending(kit.publisher())
        sending.deliver(some_records(topic, 1))
        kit.take_away()

        # When it publishes, then it says what is wrong, and acknowledges nothing
        sending.publish(some_records(topic, 100))
        wait_until(lambda: _trouble(sending.publisher), what="a complaint")
        assert sending.tally.indexes == [0]

        # And when the broker is back, all arrives in order, and the trouble is over
        kit.bring_back()
        sending.publisher.flush(TIMEOUT_S)
        assert sending.tally.indexes == list(range(101))
        assert ids(kit.read(topic)) == ids(sending.records)
        assert sending.publisher.trouble is None

    def test_close_does_not_wait_for_a_broker_that_is_away(self, kit: OutageKit) -> None:
        # Given messages that cannot be sent
        topic = kit.topic()
        sending = Sending(kit.publisher())
        sending.deliver(some_records(topic, 1))
        kit.take_away()
        sending.publish(some_records(topic, MANY))

        # When the publisher is closed, then that is a matter of seconds
        began = time.monotonic()
        sending.publisher.close()
        assert time.monotonic() - began < CLOSED_WITHIN_S

        # And nothing of it is acknowledged or arrives, now or later
        kit.bring_back()
        _close_and_look_again(sending.publisher)
        assert sending.tally.indexes == [0]
        assert len(kit.read(topic)) == 1

    def test_connect_gives_up_within_its_timeout(self, kit: OutageKit) -> None:
        # Given a broker that is away
        publisher = kit.unconnected()
        kit.take_away()

        # When a publisher connects, then it says so in time
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"Kafka cannot be reached: ."):
            publisher.connect(1.0)
        assert 0.5 < time.monotonic() - began < 1.0 + CLOSED_WITHIN_S

        # And it can be closed
        publisher.close()
        assert time.monotonic() - began < 1.0 + CLOSED_WITHIN_S


def _trouble(publisher: Publisher) -> str | None:
    publisher.poll(0.05)
    return publisher.trouble


def _close_and_look_again(publisher: Publisher) -> None:
    """Give a late acknowledgement every chance to be counted."""
    publisher.close()
    with suppress(OutboxError):
        publisher.poll(0.2)
