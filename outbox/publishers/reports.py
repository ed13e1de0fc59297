"""What librdkafka reports of a producer's messages: what has arrived, or the first failure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import itemgetter
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

from outbox.errors import MessageRefused
from outbox.publishers.base import Delivery, TopicUnavailable
from outbox.publishers.faults import Fault, fault_of
from outbox.publishers.librdkafka import Complaint
from outbox.publishers.partitioning import ANY_PARTITION, runs_of
from outbox.publishers.refusing import failure_of
from outbox.record import Record
from outbox.tracing import end_send_span, start_send_span

if TYPE_CHECKING:
    from opentelemetry.trace import Span

#: What librdkafka calls with an error or None, and a message.
Report = Callable[[Any, Any], None]

#: A page of so many messages is reported on in runs. Smaller ones cost little, and come after a
#: failure, when it matters which message is at fault.
RUNS_FROM: Final = 1_000

#: For so many messages to a topic each is reported after somebody else's were found between them.
_ALERT: Final = 10_000

#: What tells which message or topic is at fault, and not only that the producer is broken.
TELLING = (MessageRefused, TopicUnavailable)

_topic = itemgetter(2)


class SentPage:
    """The messages of one call of publish. `base`: the number of the first within the producer.

    `runs`: by the index of the last of each run, those of its messages; empty where each message
    is reported. `stalled`: librdkafka had no room for a while, in which it may have given up what
    was in its queue, and have begun anew.
    """

    __slots__ = ("base", "delivery", "records", "runs", "spans", "stalled", "topics")

    def __init__(self, records: Sequence[Record], delivery: Delivery, base: int) -> None:
        self.records = records
        self.topics = set(map(_topic, records))
        self.delivery = delivery
        self.base = base
        self.runs: dict[int, list[int]] = {}
        self.stalled = False
        self.spans: dict[int, Span] = {}

    def start_span(self, index: int) -> None:
        """Begin the span of a message, if its trace is recorded."""
        record = self.records[index]
        span = start_send_span(
            topic=record[2],
            message_id=record[1],
            key=record[3],
            traceparent=record[8],
            tracestate=record[9],
            tombstone=record[4] is None,
        )
        if span is not None:
            self.spans[index] = span

    def end_span(self, index: int, message: Any, error: str | None) -> None:
        """End the span of a message, if it has one."""
        if (span := self.spans.pop(index, None)) is not None:
            end_send_span(span, message.partition(), message.offset(), error)


class _Confirmed:
    """What is confirmed of a topic: by partition, number and offset of the last message.

    `alone`: how many have come since there was somebody else's between two of ours.
    """

    __slots__ = ("alone", "last")

    def __init__(self) -> None:
        self.last: dict[int, tuple[int, int]] = {}
        self.alone = _ALERT

    def take(self, partition: int, number: int, offset: int | None, length: int) -> str | None:
        """Note a run of `length` messages, or say why it does not count."""
        if offset is None:
            # An implicit acknowledgement: the broker never said where it is.
            return "acknowledged without an offset"
        before = self.last.get(partition)
        if before is not None:
            last_number, last_offset = before
            if number <= last_number or offset < last_offset + length:
                return "out of order"
            self.alone = self.alone + length if offset == last_offset + length else 0
        self.last[partition] = number, offset
        return None


class Reports:
    """Notes what became of messages, and the first failure, after which nothing counts any more.

    A report is about a run: messages of one partition that were produced one after the other, the
    last of which it names. Confirmations of a partition come in the order of producing, so that
    what comes before is confirmed with it, and its offset shows that all of it is in the log:
    between two of our offsets there are at least as many places as we sent messages.

    Usually a run is one message. In large pages it is all messages of a partition, since reports
    are a fifth of what a message costs.
    """

    def __init__(self, complaint: Complaint) -> None:
        self.failure: Exception | None = None
        self._complaint = complaint
        self._sent = 0
        self._topics: defaultdict[str, _Confirmed] = defaultdict(_Confirmed)

    def begin_anew(self) -> None:
        """Take it that another producer goes on, with nothing of this one's on its way."""
        for confirmed in self._topics.values():
            confirmed.last.clear()

    def page(self, records: Sequence[Record], delivery: Delivery) -> SentPage:
        """Take a page that is about to be sent."""
        page = SentPage(records, delivery, self._sent)
        self._sent += len(records)
        return page

    def on_each(self, page: SentPage) -> Iterable[Report]:
        """Return what to give to `produce` with each message: every one is reported."""
        # Bound methods are made far faster than partials (docs/adr/0011-speed.md).
        return map(MethodType, repeat(self._reporter(page)), range(len(page.records)))

    def on_runs(self, page: SentPage, partitions: Sequence[int]) -> Iterable[Report | None]:
        """Return the same, with a report for the last message of each partition alone."""
        page.runs = {run[-1]: run for run in runs_of(page.records, partitions)}
        report = self._reporter(page)
        reports: list[Report | None] = [None] * len(page.records)
        for last in page.runs:
            reports[last] = MethodType(report, last)
        return reports

    def can_be_in_runs(self, page: SentPage, partitions: Sequence[int]) -> bool:
        """Return whether a page may be reported in runs.

        Not where the partition is not known, and not for a while in topics that others write to,
        where offsets alone do not prove that all of a run has arrived.
        """
        if len(page.records) < RUNS_FROM or ANY_PARTITION in partitions:
            return False
        return all(self._topics[topic].alone >= _ALERT for topic in page.topics)

    # Called by librdkafka, from within poll. Must not raise, and may be called while its client's
    # exception is pending: then whatever looks for one raises it (an index of -1 does so).

    def _reporter(self, page: SentPage) -> Callable[[int, Any, Any], None]:
        """Return what notes what became of a page's messages.

        It may run for every one of them, so what it needs is at hand in local names.
        """
        records, base, spans, runs = page.records, page.base, page.spans, page.runs
        confirmed = {topic: self._topics[topic] for topic in page.topics}
        acknowledged, complaint = page.delivery.acknowledged, self._complaint

        def report(index: int, error: Any, message: Any) -> None:
            if error is not None or self.failure is not None:
                self._report_failure(page, index, error, message)
                return
            run = runs[index] if runs else (index,)
            take = confirmed[records[index][2]].take
            problem = take(message.partition(), base + index, message.offset(), len(run))
            if runs and page.stalled:
                problem = "confirmed after a time in which there was no room to send it"
            if problem is not None:
                self._fail(page, index, problem, Fault.BROKER)
                page.end_span(index, message, "not confirmed")
                return
            for each in run:
                acknowledged(each)
            complaint.text = None
            if spans:
                page.end_span(index, message, None)

        return report

    def _report_failure(self, page: SentPage, index: int, error: Any, message: Any) -> None:
        """Note a failure; or a success behind one, which counts only when all before it does."""
        page.end_span(index, message, error.name() if error is not None else "not confirmed")
        if error is not None:
            self._fail(page, index, error.str(), fault_of(error.name()))

    def _fail(self, page: SentPage, index: int, reason: str, fault: Fault) -> None:
        """Keep the first failure, unless a message or its topic turns out to be at fault: when a
        producer breaks on one, those that were in its queue may be reported before it."""
        if (before := len(page.runs.get(index, ())) - 1) > 0:
            reason = f"{reason} (it, or one of the {before} before it in its partition)"
        failure = failure_of(Record(*page.records[index]), reason, fault)
        tells = isinstance(failure, TELLING) and not isinstance(self.failure, TELLING)
        if self.failure is None or tells:
            self.failure = failure
