"""Where messages go, as it is known before they are sent."""

from __future__ import annotations

from confluent_kafka import murmur2

from outbox.publishers.partitioning import ANY_PARTITION, partitions_of, places_of, runs_of
from tests.conformance.publisher_kit import record

COUNTS = {"orders": 6, "bills": 3}


def test_a_key_decides_as_the_other_clients_take_it() -> None:
    records = [record("orders", key="a"), record("bills", key="a"), record("orders", key="Größe")]

    assert partitions_of(records, COUNTS.get) == [
        murmur2(b"a", 6),
        murmur2(b"a", 3),
        murmur2("Größe".encode(), 6),
    ]


def test_the_rest_is_left_to_librdkafka() -> None:
    records = [record("orders", key=None), record("orders", key="a"), record("new", key="a")]

    partitions = partitions_of(records, COUNTS.get)

    assert partitions == [ANY_PARTITION, murmur2(b"a", 6), ANY_PARTITION]
    assert places_of(records, partitions) == [
        None,
        ("orders", murmur2(b"a", 6)),
        ("new", ANY_PARTITION),
    ]


def test_the_messages_of_a_partition_are_a_run() -> None:
    topics = ["orders", "bills", "orders", "orders", "bills"]
    records = [record(topic) for topic in topics]

    assert sorted(runs_of(records, [0, 0, 1, 0, 0])) == [[0, 3], [1, 4], [2]]
