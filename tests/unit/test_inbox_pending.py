"""Whose turn it is among the messages at hand, and how long a failed one waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from outbox.inbox.pending import Pending, backoff

if TYPE_CHECKING:
    from outbox.inbox.received import KafkaMessage

FIRST, SECOND = ("orders", 0), ("orders", 1)


def message(text: str) -> KafkaMessage:
    return cast("KafkaMessage", text)  # is only passed through


def test_messages_of_a_partition_keep_their_order_while_the_first_waits() -> None:
    # Given a message that failed, and a later one of its partition
    pending = Pending()
    pending.add(FIRST, message("a"), now=0.0)
    pending.add(FIRST, message("b"), now=1.0)
    failed = pending.due(now=1.0)
    assert failed is not None
    failed.due = 5.0

    # Then nothing is due before the first one is
    assert pending.due(now=4.9) is None
    assert pending.due(now=5.0) is failed

    # And the later one follows it
    pending.done(failed)
    following = pending.due(now=5.0)
    assert following is not None
    assert following.message == "b"


def test_a_waiting_partition_does_not_hold_up_another() -> None:
    pending = Pending()
    pending.add(FIRST, message("a"), now=0.0)
    failed = pending.due(now=0.0)
    assert failed is not None
    failed.due = 60.0
    pending.add(SECOND, message("b"), now=1.0)
    other = pending.due(now=1.0)
    assert other is not None
    assert other.partition == SECOND


def test_what_has_been_due_for_longest_comes_first() -> None:
    pending = Pending()
    pending.add(SECOND, message("b"), now=2.0)
    pending.add(FIRST, message("a"), now=1.0)
    due = pending.due(now=3.0)
    assert due is not None
    assert due.partition == FIRST


def test_kafka_is_waited_for_until_the_next_message_is_due() -> None:
    pending = Pending()
    assert pending.patience(now=0.0, timeout=1.0) == 1.0
    pending.add(FIRST, message("a"), now=0.5)
    assert pending.patience(now=0.0, timeout=1.0) == 0.5
    assert pending.patience(now=0.0, timeout=0.1) == 0.1
    assert pending.patience(now=9.0, timeout=1.0) == 0.0


def test_a_message_that_lost_its_turn_comes_before_kafka_is_asked_for_more() -> None:
    # Given a message that was tried, one behind it, and one of another partition that was not
    pending = Pending()
    pending.add(FIRST, message("a"), now=0.0)
    tried = pending.due(now=0.0)
    assert tried is not None
    tried.at_hand = False
    pending.add(FIRST, message("b"), now=0.0)
    pending.add(SECOND, message("c"), now=0.0)

    # Then the first partition waits, and the other one's message is next
    assert pending.waiting_partitions == {FIRST}
    following = pending.at_hand()
    assert following is not None
    assert following.partition == SECOND


@pytest.mark.parametrize(
    ("delays", "at_hand"), [([0.1], True), ([0.5], True), ([0.6], False), ([0.1, 0.1], False)]
)
def test_only_the_first_short_wait_of_a_message_is_spent_without_pausing(
    delays: list[float], at_hand: bool
) -> None:
    pending = Pending()
    pending.add(FIRST, message("a"), now=0.0)
    failed = pending.due(now=0.0)
    assert failed is not None
    for delay in delays:
        failed.postpone(now=1.0, delay=delay)
    assert failed.due == 1.0 + delays[-1]
    assert failed.failures == len(delays)
    assert pending.waiting_partitions == (set() if at_hand else {FIRST})
    assert pending.at_hand() is (failed if at_hand else None)


def test_messages_of_partitions_that_are_gone_are_forgotten() -> None:
    pending = Pending()
    pending.add(FIRST, message("a"), now=0.0)
    pending.add(SECOND, message("b"), now=0.0)
    pending.drop({FIRST, ("orders", 7)})
    left = pending.at_hand()
    assert left is not None
    assert left.partition == SECOND


@pytest.mark.parametrize(
    ("failures", "whole"), [(1, 0.1), (2, 0.2), (5, 1.6), (10, 30.0), (5000, 30.0)]
)
def test_the_wait_doubles_up_to_the_longest_and_is_jittered_by_half(
    failures: int, whole: float
) -> None:
    waits = [backoff(failures, first=0.1, longest=30.0) for _ in range(200)]
    assert whole / 2 <= min(waits) < max(waits) <= whole
    assert max(waits) - min(waits) > whole / 4
