"""Compare a log with its topics: what is missing, repeated, out of order, or from nowhere.

In this order, so that a system that is at work shows nothing that is not there: how far the relay
name is; the log; the ends of the topics; the topics up to there. What was delivered at the first
moment is in the topics at the third. A record that the log did not know at the second may have come
since, and is looked up once more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from outbox.errors import ConfigurationError
from outbox.store.retained import DISORDER_S, Standing
from outbox.verify.courses import Courses
from outbox.verify.ledger import PASSED, Ledger, NotFound, Seen
from outbox.verify.partitions import partition_of
from outbox.verify.records import Streams, occurrence
from outbox.verify.report import Finding, Kind, Report, TopicReport

if TYPE_CHECKING:
    from outbox.store.retained import Entry, Label, Reach, RetainedLog
    from outbox.verify.topic import Span, TopicReader

_ENTRIES_AT_ONCE = 10_000
_LABELS_AT_ONCE = 1_000
_REMOVALS_AT_ONCE = 100

#: In seconds: how far the clocks of the database, the relay and the broker may be apart.
CLOCKS_APART_S = 300.0

#: In seconds: a slot may have been emptied a moment before its messages' retention was over by the
#: clock of whoever asks.
_PRUNING_MARGIN_S = 60.0

Item = TypeVar("Item")
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Scope:
    """What is compared. Times in seconds since 1970, by the database's clock, when written."""

    relay: str = "default"
    topics: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    limit: int = 20  # findings of each kind

    def covers(self, entry: Entry) -> bool:
        """Return whether a message of the log is to be looked at."""
        return (
            (not self.topics or entry.topic in self.topics)
            and (self.since is None or entry.created_at >= self.since)
            and (self.until is None or entry.created_at < self.until)
        )


def verify(
    log: RetainedLog,
    kafka: TopicReader,
    scope: Scope,
    *,
    isolation: str = "read_committed",
    progress: Progress = lambda _what, _done, _of: None,
) -> Report:
    """Compare what a relay name has delivered with what its topics hold.

    `progress` is told now and then what is read and how much of it, of how many (None: unknown).
    Raises DatabaseUnavailable and BrokerUnavailable, ConfigurationError for an unknown relay name
    or another cluster than the relay name's own.
    """
    report = Report(scope.relay, isolation, scope.since, scope.until)
    with Ledger() as ledger:
        reach = log.reach(scope.relay)
        _check_cluster(reach, kafka.cluster_id())
        _read_log(log, reach, scope, ledger, progress)
        # After the log: what was held a moment ago may have been discarded since.
        _read_removals(log, scope, ledger)
        for topic in sorted({*ledger.topics(), *scope.topics}):
            comparison = _Comparison(log, kafka, ledger, scope, topic, progress)
            report.topics.append(comparison.run())
            report.findings += comparison.findings
    return report


def _check_cluster(reach: Reach, cluster_id: str) -> None:
    if reach.cluster_id and cluster_id and reach.cluster_id != cluster_id:
        raise ConfigurationError(
            f"relay {reach.relay!r} publishes to Kafka cluster {reach.cluster_id!r}, and this is"
            f" {cluster_id!r}: give the address of the other one"
        )


def _read_log(
    log: RetainedLog, reach: Reach, scope: Scope, ledger: Ledger, progress: Progress
) -> None:
    after = 0 if scope.since is None else log.first_since(scope.since)
    read = 0
    while entries := log.entries(reach, after, _ENTRIES_AT_ONCE):
        after = entries[-1].seq
        read += len(entries)
        ledger.add_entries(filter(scope.covers, entries))
        progress("messages of the log", read, None)
        # Numbers and times agree but for DISORDER_S.
        if scope.until is not None and entries[0].created_at > scope.until + DISORDER_S:
            break


def _read_removals(log: RetainedLog, scope: Scope, ledger: Ledger) -> None:
    mark: int | None = 0
    while mark is not None:
        removals, mark = log.removals(scope.relay, mark, _REMOVALS_AT_ONCE)
        for removal in removals:
            ledger.remove(removal, scope.topics)


@dataclass
class _Comparison:
    """One topic against the ledger."""

    log: RetainedLog
    kafka: TopicReader
    ledger: Ledger
    scope: Scope
    topic: str
    progress: Progress
    findings: list[Finding] = field(default_factory=list)

    def run(self) -> TopicReport:
        report = TopicReport(self.topic)
        if self.topic not in self.ledger.topics():
            return report
        self._count_messages(report)
        spans = self.kafka.spans(self.topic, self.ledger.oldest(self.topic) - CLOCKS_APART_S)
        report.exists = spans is not None
        streams = Streams(self.log.facts().log_id, self.scope.relay)
        self._read(report, spans or [], streams)
        self._judge_messages(report, spans)
        self._judge_records(report, streams.current)
        return report

    def _count_messages(self, report: TopicReport) -> None:
        standings = self.ledger.standings(self.topic)
        report.messages = sum(standings.values())
        report.waiting = standings.get(Standing.WAITING, 0)
        report.held = standings.get(Standing.HELD, 0)
        report.earlier = standings.get(Standing.EARLIER, 0)
        report.expired = standings.get(Standing.EXPIRED, 0)
        report.replaced = standings.get(Standing.REPLACED, 0)
        report.found = sum(standings.get(standing, 0) for standing in PASSED)

    def _read(self, report: TopicReport, spans: list[Span], streams: Streams) -> None:
        self.ledger.begin_topic()
        offsets = sum(span.end - span.start for span in spans)
        for messages in self.kafka.read(self.topic, spans):
            report.records += len(messages)
            found = [
                (
                    message.timestamp()[1],
                    occurrence(
                        message.partition(), message.offset(), message.headers() or (), streams
                    ),
                )
                for message in messages
            ]
            self.ledger.add_records((at, each) for at, each in found if each is not None)
            self.progress(f"records of topic {self.topic}", report.records, offsets)
        self.ledger.match(self.topic)

    # What the log has and the topic has not

    def _judge_messages(self, report: TopicReport, spans: list[Span] | None) -> None:
        compacted = spans is not None and self.kafka.is_compacted(self.topic)
        beginnings = _Beginnings(self.kafka, self.topic, spans or [])
        lost = self.ledger.not_found(self.topic, compacted=compacted)
        for chunk in _chunks(lost, _LABELS_AT_ONCE):
            labels = self.log.labels([message.seq for message in chunk])
            for message in chunk:
                report.found -= 1
                if message.standing is Standing.DISCARDED:
                    report.discarded += 1
                    continue
                label = labels.get(message.seq)
                gone = compacted and (message.followed or message.tombstone)
                if gone or beginnings.may_hide(message, label):
                    report.no_longer_there += 1
                    continue
                report.missing += 1
                self._note_missing(report, message, label)

    def _note_missing(self, report: TopicReport, message: NotFound, label: Label | None) -> None:
        if report.missing <= self.scope.limit:
            where = "is not in the topic" if report.exists else "has no topic: it does not exist"
            replaced = message.standing is Standing.REPLACED
            done = (
                "replaced by an operator, and what goes instead" if replaced else "delivered, and"
            )
            self.findings.append(
                Finding(
                    kind="missing",
                    topic=self.topic,
                    what=f"{done} {where}",
                    id=_text(label.id) if label else None,
                    key=label.key if label else None,
                    seq=message.seq,
                )
            )

    # What the topic has

    def _judge_records(self, report: TopicReport, current: Mapping[int, str]) -> None:
        matched, report.again, report.requeued = self.ledger.count_records()
        report.out_of_order = self._note(
            "out of order",
            self.ledger.out_of_order(Courses(self.log.topologies(), current)),
            "lies behind a later message of its key",
        )
        if report.again > report.requeued:
            report.repeated = self._note(
                "repeated", self.ledger.repeated(), "came again, out of the row"
            )
        report.resent = report.again - report.requeued - report.repeated
        report.misplaced = self._note(
            "misplaced",
            self.ledger.misplaced(current),
            "has a position that is not its message's, or two positions",
        )
        facts = self.log.facts()
        kept = self.ledger.seqs(facts.now - facts.retention_s + _PRUNING_MARGIN_S)
        report.unknown = self._note(
            "unknown",
            self._not_in_log(self.ledger.unknown(current, kept)),
            "says that it is of this log, which does not know its id",
        )
        report.foreign = report.records - matched - report.unknown

    def _not_in_log(self, candidates: Iterable[Seen]) -> Iterator[Seen]:
        """Yield those that the log does not know now either."""
        for chunk in _chunks(candidates, _LABELS_AT_ONCE):
            labels = self.log.labels({record.seq for record in chunk if record.seq is not None})
            for record in chunk:
                label = labels.get(record.seq or 0)
                if label is None or label.id != record.id:
                    yield record

    def _note(self, kind: Kind, records: Iterable[Seen], what: str) -> int:
        """Count records; keep the first as findings."""
        count = 0
        noted: list[Seen] = []
        for record in records:
            count += 1
            if count <= self.scope.limit:
                noted.append(record)
        labels = self.log.labels({each.message for each in noted if each.message is not None})
        for record in noted:
            label = labels.get(record.message or 0)
            self.findings.append(
                Finding(
                    kind=kind,
                    topic=self.topic,
                    what=what,
                    id=_text(record.id),
                    key=label.key if label else None,
                    seq=record.seq,
                    partition=record.partition,
                    offset=record.offset,
                )
            )
        return count


class _Beginnings:
    """Where the partitions of a topic begin, if their first records have been deleted."""

    def __init__(self, kafka: TopicReader, topic: str, spans: list[Span]) -> None:
        self._kafka = kafka
        self._topic = topic
        self._spans = {span.partition: span for span in spans}
        self._stamps: dict[int, float] = {}

    def may_hide(self, message: NotFound, label: Label | None) -> bool:
        """Return whether a message may have been among the records that were deleted.

        That is so if it was written before the first record that is left was sent. Without a key,
        it may have been in any partition.
        """
        if label is not None and label.key is not None and self._spans:
            partitions: Collection[int] = [partition_of(label.key, len(self._spans))]
        else:
            partitions = self._spans
        return any(
            message.created_at <= self._first_stamp(partition) + CLOCKS_APART_S
            for partition in partitions
            if self._spans[partition].begin > 0
        )

    def _first_stamp(self, partition: int) -> float:
        if partition not in self._stamps:
            found = self._kafka.first_stamp(self._topic, self._spans[partition])
            self._stamps[partition] = float("inf") if found is None else found
        return self._stamps[partition]


def _text(id_: bytes) -> str:
    return str(UUID(bytes=id_))


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
