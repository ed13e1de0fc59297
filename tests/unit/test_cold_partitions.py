"""Which messages go ahead, alone, on partitions where the broker does not know the producer."""

from __future__ import annotations

from outbox.publishers.cold import ColdPartitions
from outbox.publishers.partitioning import Place

COUNTS = {"orders": 2, "bills": 1}
A, B, C = ("orders", 0), ("orders", 1), ("bills", 0)


def cold() -> ColdPartitions:
    return ColdPartitions(COUNTS.get)


def test_the_first_message_of_each_partition_goes_ahead_and_the_others_wait_for_it() -> None:
    partitions = cold()
    places: list[Place | None] = [A, A, B, None, C, B]

    assert partitions.firsts(places) == [0, 2, 4]
    assert partitions.must_wait([A, B, None, B])


def test_a_lone_message_and_those_without_a_key_wait_for_nothing() -> None:
    partitions = cold()

    assert partitions.firsts([A]) == [0]
    assert not partitions.must_wait([])
    assert not partitions.must_wait([None, B])


def test_a_later_page_waits_for_the_first_message_of_an_earlier_one() -> None:
    partitions = cold()
    partitions.firsts([A])

    assert partitions.firsts([B, A]) == [0]
    assert partitions.must_wait([A])


def test_nothing_waits_once_all_is_acknowledged() -> None:
    partitions = cold()
    partitions.firsts([A, B])
    partitions.acknowledged()

    assert partitions.firsts([A, B, B]) == []
    assert not partitions.must_wait([A, B])
    assert not partitions.any_among({"orders"})
    assert partitions.any_among({"orders", "bills"})


def test_what_was_sent_and_not_acknowledged_is_not_known_to_the_broker() -> None:
    partitions = cold()
    partitions.firsts([A])
    partitions.acknowledged()
    partitions.firsts([B])

    assert partitions.any_among({"orders"})
    assert partitions.must_wait([B])


def test_partitions_that_are_added_are_new_to_the_producer() -> None:
    counts = {"orders": 1}
    partitions = ColdPartitions(counts.get)
    partitions.firsts([A])
    partitions.acknowledged()
    assert not partitions.any_among({"orders"})

    counts["orders"] = 2

    assert partitions.any_among({"orders"})
    assert partitions.firsts([A, B]) == [1]


def test_the_messages_of_a_topic_that_nobody_knows_wait_for_its_first() -> None:
    partitions = cold()
    unknown = ("new", -1)

    assert partitions.firsts([unknown, unknown]) == [0]
    assert partitions.must_wait([unknown])
    partitions.acknowledged()
    assert partitions.any_among({"new"})
    assert not partitions.must_wait([unknown])
