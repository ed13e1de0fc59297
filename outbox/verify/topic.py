"""Read a topic from an offset to its present end, without joining or making a consumer group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from outbox.errors import BrokerUnavailable, MissingExtra, OutboxError
from outbox.publishers.kafka import DEFAULTS
from outbox.publishers.topics import connection_properties

_RECORDS_AT_ONCE = 5_000
_POLL_S = 0.1

#: librdkafka fetches ahead of what is asked for, so much at the most.
_QUEUE_KIB = 16 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """What is read of a partition: from `start`, and not beyond `end`. `begin`: its first offset.

    Where `begin` is not 0, older records have been deleted.
    """

    partition: int
    begin: int
    start: int
    end: int


class TopicReader:
    """Reads the topics of one Kafka. Raises BrokerUnavailable when it does not answer in time."""

    def __init__(
        self, properties: Mapping[str, object], *, isolation: str, timeout_s: float
    ) -> None:
        self._properties = {**connection_properties({**DEFAULTS, **properties}), "log_level": 0}
        self._isolation = isolation
        self._timeout_s = timeout_s
        self._complaint = ""
        self._known: Any = None

    def cluster_id(self) -> str:
        """Reach the broker and return its cluster's id."""
        with self._consumer("read_uncommitted") as consumer:
            self._known = self._asked(lambda: consumer.list_topics(timeout=self._timeout_s))
            return str(self._known.cluster_id or "")

    def spans(self, topic: str, since: float) -> list[Span] | None:
        """Return what of a topic may have been sent at `since`, in seconds, or later.

        None for a topic that does not exist.
        """
        from confluent_kafka import TopicPartition

        if topic not in self._known.topics or self._known.topics[topic].error is not None:
            return None
        partitions = sorted(self._known.topics[topic].partitions)
        with self._consumer("read_uncommitted") as consumer:
            limits = {
                number: self._asked(
                    lambda number=number: consumer.get_watermark_offsets(
                        TopicPartition(topic, number), timeout=self._timeout_s
                    )
                )
                for number in partitions
            }
            wanted = [TopicPartition(topic, n, max(int(since * 1000), 0)) for n in partitions]
            starts = self._asked(lambda: consumer.offsets_for_times(wanted, self._timeout_s))
        return [_span(start, *limits[start.partition]) for start in starts]

    def is_compacted(self, topic: str) -> bool:
        """Return whether the topic keeps the last message of each key only."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient, ConfigResource

        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        admin = AdminClient(self._properties)
        try:
            future = admin.describe_configs([resource], request_timeout=self._timeout_s)[resource]
            return "compact" in future.result()["cleanup.policy"].value
        except KafkaException:
            return False  # may not be asked for, or a broker without settings

    def first_stamp(self, topic: str, span: Span) -> float | None:
        """Return when the first record of a partition was sent, in seconds; None if it is empty."""
        for messages in self.read(topic, [Span(span.partition, span.begin, span.begin, span.end)]):
            for message in messages:
                return float(message.timestamp()[1]) / 1000
        return None

    def read(self, topic: str, spans: list[Span]) -> Iterator[list[Any]]:
        """Yield the records of these spans, some thousands at a time.

        Raises OutboxError where the end of a partition cannot be reached as a transaction is open.
        """
        from confluent_kafka import TopicPartition

        ends = {span.partition: span.end for span in spans if span.start < span.end}
        if not ends:
            return
        with self._consumer(self._isolation) as consumer:
            consumer.assign(
                [TopicPartition(topic, s.partition, s.start) for s in spans if s.partition in ends]
            )
            yield from self._until(topic, consumer, ends)

    def _until(self, topic: str, consumer: Any, ends: dict[int, int]) -> Iterator[list[Any]]:
        from confluent_kafka import KafkaError, TopicPartition

        progress_at = time.monotonic()
        at_end: set[int] = set()
        while ends:
            found = []
            for message in consumer.consume(_RECORDS_AT_ONCE, _POLL_S):
                partition, error = message.partition(), message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                    self._complaint = error.str()
                    continue
                if partition not in ends:
                    continue
                if error is None and message.offset() < ends[partition]:
                    found.append(message)
                (at_end.discard if error is None else at_end.add)(partition)
                if message.offset() + (error is None) >= ends[partition]:
                    del ends[partition]
                    consumer.pause([TopicPartition(topic, partition)])
            if found:
                progress_at = time.monotonic()
                yield found
            elif time.monotonic() - progress_at > self._timeout_s:
                raise self._stuck(topic, ends, at_end)

    def _stuck(self, topic: str, ends: dict[int, int], at_end: set[int]) -> OutboxError:
        if ends.keys() <= at_end:
            return OutboxError(
                f"topic {topic!r}: an open transaction hides the end of partition "
                f"{', '.join(map(str, sorted(ends)))} from consumers with read_committed. Run it "
                "again when the transaction has ended, or with --isolation read_uncommitted"
            )
        return BrokerUnavailable(
            f"topic {topic!r} could not be read: {self._complaint or 'no answer'}"
        )

    def _asked(self, ask: Any) -> Any:
        from confluent_kafka import KafkaException

        try:
            return ask()
        except KafkaException as error:
            reason = self._complaint or error.args[0].str()
            raise BrokerUnavailable(f"Kafka does not answer: {reason}") from error

    @contextmanager
    def _consumer(self, isolation: str) -> Iterator[Any]:
        try:
            from confluent_kafka import Consumer
        except ImportError as error:
            raise MissingExtra(
                'Kafka needs confluent-kafka; run `pip install "outbox-relay[kafka]"`'
            ) from error
        consumer = Consumer(
            {
                **self._properties,
                # A group must be named and is never joined: nothing is committed under it.
                "group.id": "outbox-relay-verify",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "isolation.level": isolation,
                "queued.max.messages.kbytes": _QUEUE_KIB,
                "fetch.wait.max.ms": 50,  # at the end there is nothing to wait for
                "error_cb": self._note,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()

    def _note(self, error: Any) -> None:
        self._complaint = error.str()


def _span(start: Any, begin: int, end: int) -> Span:
    # No record that young: -1, as offset of the end.
    return Span(start.partition, begin, start.offset if start.offset >= 0 else end, end)
