"""Kafka, through librdkafka, with the settings under which nothing is lost or reordered.

Why each of them is what it is: docs/adr/0003-producer.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import repeat
from operator import itemgetter
from types import MethodType
from typing import TYPE_CHECKING, Any

from outbox.errors import MessageRefused
from outbox.headers import WireHeaders
from outbox.publishers.base import Delivery, DeliveryFailed, TopicUnavailable
from outbox.publishers.cold import ColdPartitions
from outbox.publishers.faults import Fault, fault_of
from outbox.publishers.fencing import fence
from outbox.publishers.librdkafka import (
    Complaint,
    abandon,
    error_name,
    kafka_exceptions,
    make_producer,
    reach,
    sentence_of,
)
from outbox.publishers.refusing import failure_of, wires_of
from outbox.publishers.topics import TopicLimits
from outbox.record import Record
from outbox.tracing import end_send_span, start_send_span, tracing_is_on

if TYPE_CHECKING:
    from opentelemetry.trace import Span

#: Ours: under these, and no others, what the relay promises is true.
OWNED: Mapping[str, object] = {
    "acks": "all",
    "enable.idempotence": True,
    # With more than one, a fresh idempotent producer can report a message as delivered that the
    # broker refused, when a later request of the same connection is accepted.
    "max.in.flight.requests.per.connection": 1,
    "enable.gapless.guarantee": True,
    # A message that times out in the queue leaves a gap that later ones overtake.
    "message.timeout.ms": 0,
    "partitioner": "murmur2_random",
}

#: Good for a relay; the user may know better.
DEFAULTS: Mapping[str, object] = {
    "allow.auto.create.topics": False,
    "socket.timeout.ms": 10_000,
    # A broker answers this first question at once or not at all.
    "api.version.request.timeout.ms": 3_000,
    # Half of it also passes before librdkafka makes the first connection that it needs.
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 2_000,
    "linger.ms": 0,
    # Above what `Outbox` admits by default (1,000,000 bytes) by the headers that we add.
    "message.max.bytes": 1_040_000,
    "client.id": "outbox-relay",
    # Only what is critical: the relay itself says, once, that a broker is away.
    "log_level": 2,
}

_CHECK_EVERY = 256

#: How long one page may wait for those before it, in seconds; well within a lease.
_PATIENCE_S = 3.0

#: Half of the default of the broker's `producer.id.expiration.ms`.
_BROKER_REMEMBERS_S = 12 * 3600.0

#: How often, and for how many seconds, to look what broke a producer.
_LOOKS, _LOOK_S = 3, 0.1

#: Offsets count from 0; librdkafka says -1001 where it knows none.
_BEFORE_ALL = -1

#: The partitioner chooses.
_ANY_PARTITION = -1

#: What tells which message or topic is at fault, and not only that the producer is broken.
_TELLING = (MessageRefused, TopicUnavailable)

_topic = itemgetter(2)
_parent = itemgetter(8)
#: What `produce` takes first, in its order.
_topic_payload_key = itemgetter(2, 4, 3)


class KafkaPublisher:
    """An idempotent producer for one term of a relay; implements Publisher.

    Raises MissingExtra where confluent-kafka is not installed, ConfigurationError for properties
    that librdkafka does not take. Make it after any fork, in the process that uses it.
    """

    def __init__(self, properties: Mapping[str, object]) -> None:
        self._properties = {**DEFAULTS, **properties, **OWNED}
        self._complaint = Complaint()
        self._producer, self._log = make_producer(self._properties, self._complaint.note)
        self._topics = TopicLimits(self._properties)
        self._cold = ColdPartitions(self._topics.partition_count)
        self._sent_at = time.monotonic()
        self._kafka_error = kafka_exceptions()
        self._not_queued: tuple[type[Exception], ...] = (
            BufferError,
            TypeError,
            *self._kafka_error,
        )
        self._failure: Exception | None = None
        self._sent = 0
        # By topic, and then by partition: the last acknowledged message's number and offset.
        self._last: dict[str, dict[int, list[int]]] = {}
        self._traced = tracing_is_on()

    @property
    def trouble(self) -> str | None:
        """Return what keeps the broker from answering, or None."""
        return self._complaint.text

    @property
    def transactional(self) -> bool:
        """Return False: each message becomes true for itself."""
        return False

    def claim(self, identity: str, timeout_s: float) -> list[str]:
        """Shut out whoever published exactly once before."""
        return fence(self._properties, identity, timeout_s)

    def connect(self, timeout_s: float) -> str:
        """Reach the broker and return its cluster's id."""
        metadata = reach(self._producer, self._complaint, timeout_s)
        self._topics.know(metadata)
        return str(metadata.cluster_id or "")

    def publish(
        self,
        records: list[Record],
        position_prefix: str,
        delivery: Delivery,
        check: Callable[[], None],
    ) -> None:
        """Hand a page's messages to librdkafka, in order."""
        # All of them first: headers that are none refuse their message before any is sent.
        wires = wires_of(records, position_prefix)
        self._look_at_topics(records, wires, check)
        self._forget_if_idle()
        page = _SentPage(records, delivery, self._sent)
        self._sent += len(records)
        self._produce(page, wires, check)

    def _forget_if_idle(self) -> None:
        now = time.monotonic()
        if now - self._sent_at > _BROKER_REMEMBERS_S:
            self._cold = ColdPartitions(self._topics.partition_count)
        self._sent_at = now

    def _look_at_topics(
        self, records: list[Record], wires: list[WireHeaders], check: Callable[[], None]
    ) -> None:
        """Find out, before anything is sent, what the broker would refuse."""
        self._topics.meet(set(map(_topic, records)), self._producer)
        if self._topics.smallest_batch < int(str(self._properties.get("batch.size", 1_000_000))):
            self._rebuild(check)
        self._topics.refuse(records, wires)

    def _wait_for_acknowledgements(self, check: Callable[[], None], whose: str = "") -> None:
        """Wait, but not for long: meanwhile nobody renews the lease or looks for a signal."""
        deadline = time.monotonic() + _PATIENCE_S
        while len(self._producer):
            if time.monotonic() > deadline:
                reason = self._complaint.text or (
                    f"no acknowledgement came{whose}; `outbox-relay doctor` looks for the cause"
                )
                raise DeliveryFailed(f"Kafka does not answer: {reason}")
            check()
            self.poll(0.1)

    def _rebuild(self, check: Callable[[], None]) -> None:
        """Go on with batches that fit the smallest topic: a batch of many small messages is refused
        as a whole when it is larger than the topic's `max.message.bytes`."""
        self._wait_for_acknowledgements(check)
        self._properties["batch.size"] = self._topics.smallest_batch
        abandon(self._producer, self._log)
        self._producer, self._log = make_producer(self._properties, self._complaint.note)
        self._last.clear()
        self._cold = ColdPartitions(self._topics.partition_count)

    def _produce(
        self,
        page: _SentPage,
        wires: list[WireHeaders],
        check: Callable[[], None],
    ) -> None:
        produce = self._producer.produce
        records = page.records
        cold = self._cold.among(set(map(_topic, records)))
        eventful = self._traced or bool(cold)
        # The path is hot (docs/adr/0011-speed.md): bound methods are made far faster than partials,
        # and arguments by position, the last of which are not documented, save a tenth of all.
        reports = map(MethodType, repeat(self._reporter(page)), range(len(records)))
        messages = zip(map(_topic_payload_key, records), wires, reports, strict=True)
        for index, ((topic, payload, key), wire, report) in enumerate(messages):
            if not index % _CHECK_EVERY:
                check()
                self.poll(0)
            if eventful:
                self._prepare(page, index, cold, check)
            try:
                produce(topic, payload, key, _ANY_PARTITION, report, None, 0, wire)
            except self._not_queued as error:
                self._produce_later(records[index], report, wire, error, check)

    def _prepare(
        self, page: _SentPage, index: int, cold: set[str], check: Callable[[], None]
    ) -> None:
        """Let a message wait for those before it where it must, and begin its span."""
        record = page.records[index]
        topic, _, key = _topic_payload_key(record)
        if topic in cold and key is not None and self._cold.must_wait(topic, key):
            self._wait_for_acknowledgements(check, f" for what was sent to topic {topic!r}")
            self._cold.acknowledged(topic, key)
        if self._traced and _parent(record) is not None:
            page.start_span(index, record)

    def _produce_later(
        self,
        record: Record,
        report: Callable[[Any, Any], None],
        wire: WireHeaders,
        error: Exception,
        check: Callable[[], None],
    ) -> None:
        """Wait for room in librdkafka's queue; skipping the message would break the order.

        By name, since only that is documented; a TypeError says that the positions have changed.
        """
        topic, payload, key = _topic_payload_key(record)
        while isinstance(error, BufferError | TypeError):
            try:
                self._producer.produce(topic, payload, key, on_delivery=report, headers=wire)
            except BufferError:
                check()
                self.poll(0.1)
            except self._kafka_error as refused:
                error = refused
            else:
                return
        raise self._refusal(Record(*record), error) from error

    def poll(self, timeout_s: float) -> None:
        """Report what became of messages."""
        try:
            self._producer.poll(timeout_s)
        except self._kafka_error as error:
            raise self._diagnosis(error) from error
        if self._failure is not None:
            raise self._failure

    def flush(self, timeout_s: float) -> None:
        """Wait until everything sent was reported; check with `len`, not with the return value."""
        deadline = time.monotonic() + timeout_s
        while len(self._producer) and time.monotonic() < deadline:
            self.poll(min(0.1, max(deadline - time.monotonic(), 0.0)))
        self.poll(0)  # raises again what has been raised before, though nothing is left to report

    def close(self) -> None:
        """Give up whatever was not sent."""
        abandon(self._producer, self._log)

    def _refusal(self, record: Record, error: Exception) -> Exception:
        """Return what it means that librdkafka did not even queue a message."""
        name = error_name(error)
        if name == "_FATAL":
            return self._diagnosis(error)
        return failure_of(record, sentence_of(error), fault_of(name))

    def _diagnosis(self, error: Exception) -> Exception:
        """Return why the producer broke. The news that it did overtakes the report on the message
        that it broke on, and without that report nobody would know that waiting is no use."""
        for _ in range(_LOOKS):
            if isinstance(self._failure, _TELLING):
                break
            try:
                self._producer.poll(_LOOK_S)
            except self._kafka_error as later:
                error = error if isinstance(later, SystemError) else later
        if not isinstance(self._failure, _TELLING):
            self._failure = DeliveryFailed(f"the producer failed: {sentence_of(error)}")
        return self._failure

    # Called by librdkafka, from within poll. Must not raise.

    def _reporter(self, page: _SentPage) -> Callable[[int, Any, Any], None]:
        """Return what notes what became of a page's messages.

        It runs for every message, so what it needs is at hand in local names.
        """
        base, spans = page.base, page.spans
        topics = list(map(_topic, page.records))
        of_topics = {topic: self._last.setdefault(topic, {}) for topic in set(topics)}
        last = list(map(of_topics.__getitem__, topics))
        acknowledged, complaint = page.delivery.acknowledged, self._complaint

        def report(index: int, error: Any, message: Any) -> None:
            if error is not None or self._failure is not None:
                self._report_failure(page, index, error, message)
                return
            offset = message.offset()
            number = base + index
            partition = message.partition()
            before = last[index].get(partition)
            if before is None:
                before = last[index][partition] = [_BEFORE_ALL, _BEFORE_ALL]
            if offset is None or offset <= before[1] or number <= before[0]:
                # No offset: an implicit acknowledgement, the broker never said where it is.
                reason = "acknowledged without an offset" if offset is None else "out of order"
                self._fail(page, index, reason, Fault.BROKER)
                page.end_span(index, message, "not confirmed")
                return
            before[0] = number
            before[1] = offset
            acknowledged(index)
            if complaint.text is not None:
                complaint.text = None
            if spans:
                page.end_span(index, message, None)

        return report

    def _report_failure(self, page: _SentPage, index: int, error: Any, message: Any) -> None:
        """Note a failure; or a success behind one, which counts only when all before it does."""
        page.end_span(index, message, error.name() if error is not None else "not confirmed")
        if error is not None:
            self._fail(page, index, error.str(), fault_of(error.name()))

    def _fail(self, page: _SentPage, index: int, reason: str, fault: Fault) -> None:
        """Keep the first failure, unless a message or its topic turns out to be at fault: when a
        producer breaks on one, those that were in its queue may be reported before it."""
        failure = failure_of(Record(*page.records[index]), reason, fault)
        tells = isinstance(failure, _TELLING) and not isinstance(self._failure, _TELLING)
        if self._failure is None or tells:
            self._failure = failure


class _SentPage:
    """The messages of one call of publish. `base`: the number of the first within this producer."""

    __slots__ = ("base", "delivery", "records", "spans")

    def __init__(self, records: list[Record], delivery: Delivery, base: int) -> None:
        self.records = records
        self.delivery = delivery
        self.base = base
        self.spans: dict[int, Span] = {}

    def start_span(self, index: int, record: Record) -> None:
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
        if (span := self.spans.pop(index, None)) is not None:
            end_send_span(span, message.partition(), message.offset(), error)
