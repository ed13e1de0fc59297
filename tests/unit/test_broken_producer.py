"""What is reported behind the news that a producer is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from confluent_kafka import KafkaError, KafkaException

from outbox.errors import OutboxError
from outbox.publishers.base import Fenced
from outbox.publishers.kafka import KafkaPublisher
from outbox.publishers.librdkafka import abandon
from outbox.publishers.reports import RUNS_FROM
from outbox.publishers.transactional import TransactionalPublisher
from tests.conformance.publisher_kit import Reported, Tally, record, some_records

FATAL = KafkaException(KafkaError(KafkaError._FATAL, "a gap", fatal=True))


@dataclass
class Broken:
    """A producer that says first that it is broken, and then what it has to say otherwise."""

    others: Callable[[], None]
    polls: list[float] = field(default_factory=list)

    def poll(self, timeout_s: float) -> int:
        self.polls.append(timeout_s)
        if len(self.polls) == 1:
            raise FATAL
        if len(self.polls) == 2:
            self.others()
        return 0


@pytest.mark.parametrize("in_runs", [False, True], ids=["each reported", "in runs"])
@pytest.mark.parametrize("foreign", [0, RUNS_FROM, 5 * RUNS_FROM])
def test_a_success_behind_the_failure_does_not_count(in_runs: bool, foreign: int) -> None:
    """The first half of a page is refused, in silence where it is a run, and the second half is
    taken, by a broker that has forgotten the producer; others' messages fill the gap."""
    # Given a partition on which a message has arrived, and a page on its way
    publisher = KafkaPublisher({"bootstrap.servers": "127.0.0.1:1"})
    abandon(publisher._producer, publisher._log)
    reports = publisher._reports
    (first,) = reports.on_each(reports.page([record("orders")], Tally()))
    first(None, Reported(0, 10))
    delivery = Tally()
    page = reports.page(some_records("orders", 2 * RUNS_FROM), delivery)
    given = list(
        reports.on_runs(page, [0] * len(page.records)) if in_runs else reports.on_each(page)
    )

    # When its first half is refused for good and its second half succeeds
    def others() -> None:
        for index, report in enumerate(given):
            if report is None:
                continue
            if index < RUNS_FROM:
                report(KafkaError(KafkaError.INVALID_RECORD), Reported(0, None))
            else:
                report(None, Reported(0, 11 + foreign + index - RUNS_FROM))

    publisher._producer = Broken(others)
    with pytest.raises(OutboxError, match=r"a gap|validate"):
        publisher.poll(0.0)

    # Then nothing of it is acknowledged
    assert len(publisher._producer.polls) >= 2
    assert delivery.indexes == []


def test_the_cause_is_told_whatever_else_comes_out_of_the_client_before() -> None:
    # Given a transactional producer that is broken, and says so in three ways, one after the other
    publisher = TransactionalPublisher({"bootstrap.servers": "127.0.0.1:1"})
    abandon(publisher._client, publisher._log)
    fenced = KafkaException(KafkaError(KafkaError._FENCED, "another one", fatal=True))
    publisher._producer = Saying(
        [FATAL, SystemError("returned a result with an exception"), fenced]
    )

    # When it is served, then the one that names the cause counts
    with pytest.raises(Fenced):
        publisher.poll(0.0)


@dataclass
class Saying:
    """A producer that raises these, one with each poll."""

    errors: list[Exception]

    def poll(self, timeout_s: float) -> int:
        raise self.errors.pop(0)
