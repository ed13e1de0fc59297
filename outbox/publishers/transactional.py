"""Kafka with transactions: messages and the relay's position become true together.

Why it is built as it is: docs/adr/0012-exactly-once.md.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import itemgetter
from typing import Any

from outbox.errors import BrokerUnavailable, ConfigurationError, MessageRefused
from outbox.headers import WireHeaders
from outbox.publishers.base import Delivery, DeliveryFailed
from outbox.publishers.faults import Fault, fault_of
from outbox.publishers.fencing import fenced, is_fenced, take_over
from outbox.publishers.kafka import DEFAULTS, OWNED
from outbox.publishers.librdkafka import (
    Complaint,
    abandon,
    error_name,
    kafka_exceptions,
    make_producer,
    reach,
    sentence_of,
)
from outbox.publishers.partitioning import ANY_PARTITION
from outbox.publishers.refusing import topic_lost, wires_of
from outbox.publishers.topics import TopicLimits
from outbox.publishers.transaction import PreparedPage, Transaction
from outbox.record import Record
from outbox.tracing import tracing_is_on

#: How long a transaction may stay open before Kafka aborts it. Until then it holds up every
#: `read_committed` consumer of its partitions.
TIMEOUT_S = 10.0

#: What is not as with `KafkaPublisher`. A gap or a timeout aborts the transaction, so nothing need
#: be done against them; and whether a message has arrived is known once the transaction has ended.
_IN_TRANSACTIONS: Mapping[str, object] = {
    "transaction.timeout.ms": round(TIMEOUT_S * 1000),
    "delivery.report.only.error": True,
}
_NOT_IN_TRANSACTIONS = frozenset({"message.timeout.ms", "enable.gapless.guarantee"})

#: Between two transactions the broker asks for a little patience; librdkafka's would be 100 ms.
_TRANSACTIONAL_DEFAULTS: Mapping[str, object] = {"retry.backoff.ms": 10}

#: How long after that to give up on librdkafka, in seconds.
_MARGIN_S = 1.0

_CHECK_EVERY = 256

#: What `produce` takes first, in its order.
_topic_payload_key = itemgetter(2, 4, 3)

#: How long to wait for librdkafka to tell what broke a producer, in seconds.
_CAUSE_S = 0.5

#: Kafka lets nobody keep a position of a topic that they may not read.
_RIGHT = "write to it and to read it"

#: How long a transaction in progress may hold up the end of a term, in seconds.
_CLOSE_S = 1.0

#: The largest batch that suits the topics met so far, by broker addresses. It outlives a publisher:
#: a transactional producer cannot be made anew within a term.
_batch_sizes: dict[str, int] = {}


class TransactionalPublisher:
    """A transactional producer for one term of a relay; implements Publisher.

    Acknowledges messages when the transaction they are in is committed. A `poll` that may wait says
    that nothing more is to come for now, and ends the transaction. While one ends, in a thread of
    its own, the next pages are prepared; there is one open transaction at a time.

    Raises what KafkaPublisher raises, and Fenced.
    """

    def __init__(self, properties: Mapping[str, object]) -> None:
        owned = {name: value for name, value in OWNED.items() if name not in _NOT_IN_TRANSACTIONS}
        self._properties: dict[str, object] = {
            **DEFAULTS,
            **_TRANSACTIONAL_DEFAULTS,
            **properties,
            **owned,
            **_IN_TRANSACTIONS,
        }
        self._complaint = Complaint()
        # Has no identity yet; it tells what is wrong with the properties, and reaches the broker.
        self._client, self._log = make_producer(self._properties, self._complaint.note)
        self._topics = TopicLimits(self._properties)
        self._kafka_error = kafka_exceptions()
        self._not_queued: tuple[type[Exception], ...] = (BufferError, TypeError, *self._kafka_error)
        self._identity = ""
        self._producer: Any = None
        self._group: Any = None
        self._prepared: deque[PreparedPage] = deque()
        self._open: Transaction | None = None
        self._ending: Transaction | None = None
        self._overdue_at = 0.0
        self._failure: Exception | None = None
        self._traced = tracing_is_on()

    @property
    def transactional(self) -> bool:
        """Return True."""
        return True

    @property
    def trouble(self) -> str | None:
        """Return what keeps the broker from answering, or None."""
        return self._complaint.text

    def connect(self, timeout_s: float) -> str:
        """Reach the broker and return its cluster's id."""
        metadata = reach(self._client, self._complaint, timeout_s)
        self._topics.know(metadata)
        return str(metadata.cluster_id or "")

    def claim(self, identity: str, timeout_s: float) -> list[str]:
        """Make the producer, alone under its identity, and return the marks that were kept."""
        self._identity = identity
        abandon(self._client, self._log)
        own = {**self._properties, "transactional.id": identity, "batch.size": self._batch_size}
        self._client, self._log = make_producer(own, self._complaint.note)
        self._producer = self._client
        claimed = take_over(self._producer, self._properties, identity, timeout_s)
        self._group = claimed.group
        return claimed.marks

    # Sending

    def publish(
        self,
        records: list[Record],
        position_prefix: str,
        delivery: Delivery,
        check: Callable[[], None],
    ) -> None:
        """Hand a page's messages to librdkafka, or keep them until a transaction has ended."""
        if self._producer is None:
            raise ConfigurationError("a transactional publisher must claim an identity first")
        if self._failure is not None:
            raise self._failure
        wires = wires_of(records, position_prefix)
        self._look_at_topics(records, wires)
        self._prepared.append(PreparedPage(records, wires, delivery, check))
        self._take_end(0)
        self._produce_prepared()

    def _look_at_topics(self, records: list[Record], wires: list[WireHeaders]) -> None:
        """Find out, before anything is sent, what the broker would refuse."""
        self._topics.meet({record[2] for record in records}, self._producer)
        if (smallest := self._topics.smallest_batch) < self._batch_size:
            _batch_sizes[self._address] = smallest
            raise DeliveryFailed(
                f"a topic takes batches of {smallest} bytes at most, so a producer is needed that"
                " makes smaller ones"
            )
        self._topics.refuse(records, wires)

    @property
    def _address(self) -> str:
        return str(self._properties.get("bootstrap.servers"))

    @property
    def _batch_size(self) -> int:
        wanted = int(str(self._properties.get("batch.size", 1_000_000)))
        return min(wanted, _batch_sizes.get(self._address, wanted))

    def _produce_prepared(self) -> None:
        """Send what is prepared, unless a transaction has not ended yet."""
        while self._prepared and self._ending is None:
            if self._open is None:
                self._open = self._begin()
            self._produce(self._prepared.popleft(), self._open)

    def _begin(self) -> Transaction:
        try:
            self._producer.begin_transaction()
        except self._kafka_error as error:
            raise self._failed(error) from error
        return Transaction(time.monotonic())

    def _produce(self, page: PreparedPage, transaction: Transaction) -> None:
        """Send a page's messages; if that breaks off, none of the transaction may be committed."""
        self._failure = DeliveryFailed("publishing stopped in the middle of a page")
        transaction.add(page)
        if self._traced:
            page.start_spans()
        produce = self._producer.produce
        # As in KafkaPublisher: arguments by position save a tenth of all.
        messages = zip(map(_topic_payload_key, page.records), page.wires, strict=True)
        for index, ((topic, payload, key), wire) in enumerate(messages):
            if not index % _CHECK_EVERY:
                page.check()
                self._serve()
            try:
                produce(topic, payload, key, ANY_PARTITION, None, None, 0, wire)
            except self._not_queued as error:
                self._produce_later(page, index, error)
        self._failure = None

    def _produce_later(self, page: PreparedPage, index: int, error: Exception) -> None:
        """Wait for room in librdkafka's queue; skipping the message would break the order.

        By name, since only that is documented; a TypeError says that the positions have changed.
        """
        topic, payload, key = _topic_payload_key(page.records[index])
        while isinstance(error, BufferError | TypeError):
            try:
                self._producer.produce(topic, payload, key, headers=page.wires[index])
            except BufferError:
                page.check()
                self._serve(0.1)
            except self._kafka_error as refused:
                error = refused
            else:
                return
        raise self._failed(error) from error

    def _serve(self, wait_s: float = 0.0) -> None:
        """Let librdkafka say what it has to say."""
        try:
            self._producer.poll(wait_s)
        except self._kafka_error as error:
            raise self._failed(error) from error

    # Ending transactions

    def poll(self, timeout_s: float) -> None:
        """Go on with what is prepared; end a transaction when it is due, or when there is time."""
        if self._failure is not None:
            raise self._failure
        if self._producer is None:
            return
        self._serve()
        self._take_end(0)
        self._produce_prepared()
        if self._open is not None and (timeout_s > 0 or self._open.is_due(time.monotonic())):
            self._end(self._open)
        self._take_end(timeout_s)

    def flush(self, timeout_s: float) -> None:
        """Wait until everything sent was reported."""
        deadline = time.monotonic() + timeout_s
        while self._prepared or self._open or self._ending:
            if time.monotonic() > deadline:
                break
            self.poll(min(0.1, max(deadline - time.monotonic(), 0.001)))
        if self._failure is not None:
            raise self._failure

    def _end(self, transaction: Transaction) -> None:
        """Commit in a thread of its own, since that takes some round trips."""
        self._open, self._ending = None, transaction
        self._overdue_at = time.monotonic() + TIMEOUT_S + _MARGIN_S
        threading.Thread(
            target=transaction.commit,
            args=(self._producer, self._group, TIMEOUT_S),
            name="outbox-commit",
            daemon=True,  # what librdkafka waits for must not keep a process from ending
        ).start()

    def _take_end(self, wait_s: float) -> None:
        """Report the messages of a transaction that has ended, waiting for its end if need be."""
        transaction = self._ending
        if transaction is None:
            return
        if not transaction.ended.wait(wait_s):
            if time.monotonic() > self._overdue_at:
                # librdkafka 2.16 was seen to wait for ever, also for a broker that was back.
                raise self._failed(TimeoutError("Kafka does not say whether it was committed"))
            return
        if transaction.error is not None:
            raise self._failed(transaction.error, transaction) from transaction.error
        self._ending = None
        self._complaint.text = None
        transaction.acknowledge()

    def _failed(self, error: Exception, transaction: Transaction | None = None) -> Exception:
        """Return what an error means, and raise it from now on: after any error of a transactional
        producer it is unknown what became of its transaction, until another one has taken over."""
        transaction = transaction or self._open
        error = self._cause(error)
        fault = fault_of(error_name(error))
        topic = None if transaction is None else transaction.only_topic
        if is_fenced(error):
            self._failure = fenced(self._identity)
        elif transaction is not None and transaction.is_alone and fault is Fault.MESSAGE:
            self._failure = MessageRefused(f"{transaction.first}: {sentence_of(error)}")
        elif topic is not None and fault is Fault.TOPIC:
            self._failure = topic_lost(topic, sentence_of(error), _RIGHT)
        else:
            self._failure = DeliveryFailed(f"a transaction failed: {sentence_of(error)}")
        return self._failure

    def _cause(self, error: Exception) -> Exception:
        """Return what broke the producer, where an error only says that it is broken: `poll` raises
        it, a moment later."""
        deadline = time.monotonic() + _CAUSE_S
        while error_name(error) == "_FATAL" and time.monotonic() < deadline:
            try:
                self._producer.poll(_CAUSE_S)
            except self._kafka_error as later:
                error = error if isinstance(later, SystemError) else later
        return error

    # The end

    def close(self) -> None:
        """Give up whatever was not committed."""
        if self._log.closed:
            return
        transaction, self._open = self._open, None
        if self._ending is not None:
            self._ending.ended.wait(_CLOSE_S)
        elif transaction is not None and not isinstance(self._failure, BrokerUnavailable):
            # Kafka would do so in a while; until then consumers would wait.
            with suppress(*self._kafka_error):
                self._producer.abort_transaction(_CLOSE_S)
        self._failure = self._failure or DeliveryFailed("the publisher is closed")
        abandon(self._client, self._log)
