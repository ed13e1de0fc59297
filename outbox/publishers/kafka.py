"""Kafka, through librdkafka, with the settings under which nothing is lost or reordered.

Why each of them is what it is: docs/adr/0003-producer.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter

from outbox.headers import WireHeaders
from outbox.publishers.base import Delivery, DeliveryFailed
from outbox.publishers.cold import ColdPartitions
from outbox.publishers.faults import fault_of
from outbox.publishers.fencing import fence
from outbox.publishers.librdkafka import (
    Complaint,
    abandon,
    error_name,
    kafka_exceptions,
    make_producer,
    queue_room,
    reach,
    sentence_of,
)
from outbox.publishers.partitioning import Place, partitions_of, places_of
from outbox.publishers.refusing import failure_of, wires_of
from outbox.publishers.reports import TELLING, Report, Reports, SentPage
from outbox.publishers.topics import TopicLimits
from outbox.record import Record
from outbox.tracing import tracing_is_on

#: Ours: under these, and no others, what the relay promises is true.
OWNED: Mapping[str, object] = {
    "acks": "all",
    "enable.idempotence": True,
    # With more than one, a fresh idempotent producer can report a message as delivered that the
    # broker refused, when a later request of the same connection is accepted.
    "max.in.flight.requests.per.connection": 1,
    "enable.gapless.guarantee": True,
    # A message that times out in the queue, or has been tried too often, leaves a gap that later
    # ones overtake.
    "message.timeout.ms": 0,
    "retries": 2_147_483_647,
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

#: Half of the default of the broker's `producer.id.expiration.ms`. It forgets each partition's
#: producers by themselves, and it is not known here which partition was sent to when.
_BROKER_REMEMBERS_S = 12 * 3600.0

#: How often, and for how many seconds, to look what broke a producer.
_LOOKS, _LOOK_S = 3, 0.1

_topic = itemgetter(2)
_parent = itemgetter(8)
#: What `produce` takes first, in its order.
_topic_payload_key = itemgetter(2, 4, 3)

#: The index of a message in its page, and what `produce` is given.
_Produced = tuple[int, tuple[tuple[str, bytes | None, str | None], int, WireHeaders, Report | None]]


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
        self._cold_since = time.monotonic()
        self._kafka_error = kafka_exceptions()
        self._not_queued: tuple[type[Exception], ...] = (
            BufferError,
            TypeError,
            *self._kafka_error,
        )
        self._reports = Reports(self._complaint)
        self._room = queue_room(self._properties)
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
        self._forget_now_and_then()
        self._produce(self._reports.page(records, delivery), wires, check)

    def _forget_now_and_then(self) -> None:
        """Take no partition for one where the broker knows us that has been one for long."""
        now = time.monotonic()
        if now - self._cold_since > _BROKER_REMEMBERS_S:
            self._cold.forget()
            self._cold_since = now

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
        self._reports.begin_anew()
        self._cold.forget()

    def _produce(self, page: SentPage, wires: list[WireHeaders], check: Callable[[], None]) -> None:
        records = page.records
        partitions = partitions_of(records, self._topics.partition_count)
        may_be_cold = self._cold.any_among(page.topics)
        places = places_of(records, partitions) if may_be_cold else ()
        ahead = self._cold.firsts(places)
        is_cold = bool(ahead) or self._cold.must_wait(places)
        reports = self._reports_on(page, partitions, each=is_cold or self._traced)
        messages = enumerate(
            zip(map(_topic_payload_key, records), partitions, wires, reports, strict=True)
        )
        if is_cold:
            self._hand_over_in_two(page, list(messages), places, ahead, check)
        else:
            self._hand_over(page, messages, check)

    def _reports_on(
        self, page: SentPage, partitions: Sequence[int], *, each: bool
    ) -> Iterable[Report | None]:
        has_room = len(self._producer) + len(page.records) <= self._room
        if each or not (has_room and self._reports.can_be_in_runs(page, partitions)):
            return self._reports.on_each(page)
        return self._reports.on_runs(page, partitions)

    def _hand_over_in_two(
        self,
        page: SentPage,
        messages: Sequence[_Produced],
        places: Sequence[Place | None],
        ahead: Sequence[int],
        check: Callable[[], None],
    ) -> None:
        """Send the first messages for their partitions, and let what is behind them wait for it."""
        self._hand_over(page, map(messages.__getitem__, ahead), check)
        rest = sorted(set(range(len(messages))).difference(ahead))
        if self._cold.must_wait([places[index] for index in rest]):
            topic = page.records[rest[0]][2]
            self._wait_for_acknowledgements(check, f" for what was sent to topic {topic!r}")
            self._cold.acknowledged()
        self._hand_over(page, map(messages.__getitem__, rest), check)

    def _hand_over(
        self, page: SentPage, messages: Iterable[_Produced], check: Callable[[], None]
    ) -> None:
        # The path is hot (docs/adr/0011-speed.md): arguments by position, the last of which are
        # not documented, save a tenth of all.
        produce, traced = self._producer.produce, self._traced
        for index, ((topic, payload, key), partition, wire, report) in messages:
            if not index % _CHECK_EVERY:
                check()
                self.poll(0)
            if traced and _parent(page.records[index]) is not None:
                page.start_span(index)
            try:
                produce(topic, payload, key, partition, report, None, 0, wire)
            except self._not_queued as error:
                self._produce_later(page, index, (partition, report, wire), error, check)

    def _produce_later(
        self,
        page: SentPage,
        index: int,
        rest: tuple[int, Report | None, WireHeaders],
        error: Exception,
        check: Callable[[], None],
    ) -> None:
        """Wait for room in librdkafka's queue; skipping the message would break the order.

        By name, since only that is documented; a TypeError says that the positions have changed.
        """
        record = Record(*page.records[index])
        named = dict(zip(("partition", "on_delivery", "headers"), rest, strict=True))
        while isinstance(error, BufferError | TypeError):
            try:
                self._producer.produce(record.topic, record.payload, record.key, **named)
            except BufferError:
                page.stalled = True
                check()
                self.poll(0.1)
            except self._kafka_error as refused:
                error = refused
            else:
                return
        raise self._refusal(record, error) from error

    def poll(self, timeout_s: float) -> None:
        """Report what became of messages."""
        try:
            self._producer.poll(timeout_s)
        except self._kafka_error as error:
            raise self._diagnosis(error) from error
        if self._reports.failure is not None:
            raise self._reports.failure

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
        reports = self._reports
        if reports.failure is None:
            # Before anything else is reported: a success behind the failure does not count, and
            # what failed may have no report of its own.
            reports.failure = DeliveryFailed(f"the producer failed: {sentence_of(error)}")
        for _ in range(_LOOKS):
            if isinstance(reports.failure, TELLING):
                break
            try:
                self._producer.poll(_LOOK_S)
            except self._kafka_error as later:
                error = error if isinstance(later, SystemError) else later
        if not isinstance(reports.failure, TELLING):
            reports.failure = DeliveryFailed(f"the producer failed: {sentence_of(error)}")
        return reports.failure
