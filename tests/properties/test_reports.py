"""Reports on runs of messages: what is not in the log is never taken for delivered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.publishers.base import DeliveryFailed
from outbox.publishers.librdkafka import Complaint
from outbox.publishers.partitioning import ANY_PARTITION
from outbox.publishers.reports import RUNS_FROM, Report, Reports
from tests.conformance.publisher_kit import Reported, Tally, some_records

TOPIC = "orders"
PARTITIONS = st.integers(0, 2)


@dataclass
class Broker:
    """Takes messages, or pretends to."""

    sizes: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def take(self, partition: int, report: Report | None) -> None:
        number = self.sizes[partition]
        self.sizes[partition] += 1
        if report is not None:
            report(None, Reported(partition, number))

    def swallow(self, partition: int, report: Report | None) -> None:
        """Say that a message has arrived which is not in the log, as after a sequence number that
        was taken for another's: the client knows no offset then."""
        if report is not None:
            report(None, Reported(partition, None))

    def take_from_others(self, partition: int) -> None:
        self.sizes[partition] += 1


def send(
    broker: Broker, reports: Reports, partitions: Sequence[int], *, swallowed: frozenset[int]
) -> Tally:
    """Send a page in runs; the messages at `swallowed` do not get into the log."""
    delivery = Tally()
    page = reports.page(some_records(TOPIC, len(partitions)), delivery)
    on_runs = zip(partitions, reports.on_runs(page, partitions), strict=True)
    for index, (partition, report) in enumerate(on_runs):
        (broker.swallow if index in swallowed else broker.take)(partition, report)
    return delivery


@given(pages=st.lists(st.lists(PARTITIONS, min_size=1, max_size=20), min_size=1, max_size=5))
def test_all_of_it_is_acknowledged_once_where_nothing_is_lost(pages: list[list[int]]) -> None:
    broker, reports = Broker(), Reports(Complaint())
    for partitions in pages:
        delivery = send(broker, reports, partitions, swallowed=frozenset())
        assert delivery.indexes == list(range(len(partitions)))
    assert reports.failure is None


@given(
    before=st.lists(PARTITIONS, max_size=5),
    partitions=st.lists(PARTITIONS, min_size=1, max_size=20),
    data=st.data(),
)
def test_a_run_of_which_a_message_is_not_in_the_log_does_not_count(
    before: list[int], partitions: list[int], data: st.DataObject
) -> None:
    # Given a producer that the broker knows on every partition
    broker, reports = Broker(), Reports(Complaint())
    send(broker, reports, [0, 1, 2, *before], swallowed=frozenset())
    swallowed = data.draw(
        st.frozensets(st.sampled_from(range(len(partitions))), min_size=1), label="swallowed"
    )

    # When some messages of a page do not get into its log, and are said to be delivered
    delivery = send(broker, reports, partitions, swallowed=swallowed)

    # Then that is noticed, and none of them counts
    assert isinstance(reports.failure, DeliveryFailed)
    assert swallowed.isdisjoint(delivery.indexes)
    of_lost = {partitions[index] for index in swallowed}
    assert of_lost.isdisjoint(partitions[index] for index in delivery.indexes)


def test_nothing_counts_behind_a_failure() -> None:
    broker, reports = Broker(), Reports(Complaint())
    send(broker, reports, [0, 0, 0], swallowed=frozenset())
    send(broker, reports, [0, 0, 0], swallowed=frozenset({1}))

    assert send(broker, reports, [1, 1], swallowed=frozenset()).indexes == []
    assert "out of order" in str(reports.failure)


def test_each_message_is_reported_for_a_while_where_others_write_too() -> None:
    # Given a topic that we have had for ourselves
    broker, reports = Broker(), Reports(Complaint())
    large = [0] * RUNS_FROM
    send(broker, reports, [0], swallowed=frozenset())
    assert in_runs(reports, large)

    # When somebody else's message comes between ours
    broker.take_from_others(0)
    send(broker, reports, [0], swallowed=frozenset())

    # Then each message is reported, until 10,000 have gone without that
    assert not in_runs(reports, large)
    for _ in range(10):
        send(broker, reports, large, swallowed=frozenset())
    assert in_runs(reports, large)
    assert reports.failure is None


def test_what_goes_to_other_topics_does_not_end_that() -> None:
    # Given a topic that others write to as well
    broker, reports = Broker(), Reports(Complaint())
    large = [0] * RUNS_FROM
    send(broker, reports, [0], swallowed=frozenset())
    broker.take_from_others(0)
    send(broker, reports, [0], swallowed=frozenset())

    # When much is sent to another one
    bills = some_records("bills", RUNS_FROM)
    for start in range(0, 20 * RUNS_FROM, RUNS_FROM):
        page = reports.page(bills, Tally())
        for index, report in enumerate(reports.on_each(page)):
            report(None, Reported(0, start + index))

    # Then each message to the first is reported all the same
    assert not in_runs(reports, large)


def test_a_run_does_not_count_that_was_broken_off_for_want_of_room() -> None:
    # Given a page in runs, in the midst of which there was no room for a while
    broker, reports = Broker(), Reports(Complaint())
    send(broker, reports, [0], swallowed=frozenset())
    delivery = Tally()
    page = reports.page(some_records(TOPIC, 3), delivery)
    page.stalled = True

    # When all of it seems to have arrived
    for report in reports.on_runs(page, [0, 0, 0]):
        broker.take(0, report)

    # Then it is sent again: what was in the queue may have been given up in between
    assert delivery.indexes == []
    assert "no room" in str(reports.failure)


@pytest.mark.parametrize("partitions", [[0] * (RUNS_FROM - 1), [0] * RUNS_FROM + [ANY_PARTITION]])
def test_each_message_is_reported_of_small_pages_and_where_the_partition_is_not_known(
    partitions: list[int],
) -> None:
    assert not in_runs(Reports(Complaint()), partitions)


def in_runs(reports: Reports, partitions: list[int]) -> bool:
    page = reports.page(some_records(TOPIC, len(partitions)), Tally())
    return reports.can_be_in_runs(page, partitions)
