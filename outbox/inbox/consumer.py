"""The loop that takes messages from Kafka and lets each take effect once."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from outbox.errors import ConfigurationError, NotInTransaction, SchemaMissing, SchemaTooOld
from outbox.inbox.handling import Handling, Outcome, check_handler
from outbox.inbox.pending import Pending, backoff
from outbox.inbox.received import from_kafka
from outbox.inbox.settings import checked_topics, consumer_settings
from outbox.inbox.subscription import Subscription
from outbox.tracing import process_span, tracing_is_on

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from outbox.inbox.handling import Handler, TransactionFactory
    from outbox.inbox.inbox import Inbox
    from outbox.inbox.pending import Waiting
    from outbox.inbox.received import KafkaMessage, ReceivedMessage
    from outbox.inbox.settings import KafkaSettings
    from outbox.topic.topic import Topic

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that `run` waits for Kafka at a time, so the longest it takes to see `stop`.
_SLICE: Final = 0.1


class InboxConsumer(Generic[T]):
    """Takes messages from Kafka topics and gives each to a handler, once.

    - `transaction_factory()` returns a context manager that gives a transaction, commits at its
      normal end and rolls back on an exception: `sessionmaker(engine).begin`, `engine.begin`, a
      psycopg pool's `connection`.
    - `kafka`: librdkafka properties; `bootstrap.servers` is needed. `group.id` defaults to the
      inbox's consumer name and `auto.offset.reset` to earliest.
    - `topics`: names, or Topics.
    - `id_from`: see `from_kafka`; for CloudEvents of other producers `cloudevents_id`.
    - `retry_delay`, `max_retry_delay`: seconds to wait after the first failure of a message, and
      at most; in between doubled each time, with jitter.

    Make it in the process and use it in the thread that runs it. Leave it with `close()`, or as a
    context manager. Raises ConfigurationError, and MissingExtra without confluent-kafka.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        transaction_factory: TransactionFactory[T],
        kafka: KafkaSettings,
        topics: Sequence[str | Topic[Any]],
        id_from: Callable[[KafkaMessage], str] | None = None,
        retry_delay: float = 0.1,
        max_retry_delay: float = 30.0,
    ) -> None:
        _check_delays(retry_delay, max_retry_delay)
        self._id_from = id_from
        self._delays = (retry_delay, max_retry_delay)
        self._handling = Handling(inbox, transaction_factory)
        self._pending = Pending()
        self._checked: Handler[T] | None = None
        settings = consumer_settings(kafka, group=inbox.consumer)
        self._group = str(settings["group.id"])
        self._subscription = Subscription(
            settings, checked_topics(topics), on_gone=self._pending.drop
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Commit the offsets of what was processed and leave the group."""
        self._subscription.close()

    def run(
        self,
        handler: Handler[T],
        *,
        stop: threading.Event | None = None,
        until_idle: float | None = None,
    ) -> None:
        """Handle messages until `stop` is set, or until none came for `until_idle` seconds.

        Idle time counts from when Kafka has assigned partitions, and not while a message waits to
        be tried again. A handler that raises is called again with the same message. Until then
        its partition waits; the others go on, except during a first wait of at most half a second.
        A handler must return within `max.poll.interval.ms` (5 minutes by default), else Kafka
        gives its partitions to another consumer.

        Raises what needs a person: MissingMessageId, NotInTransaction, ConfigurationError,
        SchemaMissing, BrokerUnavailable (an error that Kafka's client calls fatal). The message at
        hand is then not lost; this or the next consumer meets it again.
        """
        busy_at = time.monotonic()
        while stop is None or not stop.is_set():
            outcome = self.run_once(handler, timeout=_SLICE)
            now = time.monotonic()
            if outcome is not None or self._pending or not self._subscription.joined:
                busy_at = now
            elif until_idle is not None and now - busy_at >= until_idle:
                return

    def run_once(self, handler: Handler[T], *, timeout: float = 1.0) -> Outcome | None:
        """Turn to one message, once; return what became of it, or None if none came in time.

        A message that FAILED is tried again by a later call, when its delay is over. Between
        two calls not more than `max.poll.interval.ms` may pass. Raises what `run` raises.
        """
        if handler is not self._checked:
            check_handler(handler)
            self._checked = handler
        waiting = self._next(timeout)
        try:
            return None if waiting is None else self._turn_to(waiting, handler)
        finally:
            self._subscription.hold(self._pending.waiting_partitions)

    def _next(self, timeout: float) -> Waiting | None:
        if not self._pending:  # as nearly always; the path is hot
            fresh = self._subscription.poll(timeout)
            return None if fresh is None else self._pending.add(*fresh, time.monotonic())
        if at_hand := self._pending.at_hand():
            return _when_due(at_hand, timeout)
        # Polled also when one is due: a consumer that does not poll is expelled.
        patience = self._pending.patience(time.monotonic(), timeout)
        fresh = self._subscription.poll(patience)
        now = time.monotonic()
        if fresh is not None:
            self._pending.add(*fresh, now)
        return self._pending.due(now)

    def _turn_to(self, waiting: Waiting, handler: Handler[T]) -> Outcome:
        waiting.at_hand = False
        message = from_kafka(waiting.message, id_from=self._id_from)
        try:
            outcome = self._handle(handler, message)
        except (NotInTransaction, ConfigurationError, SchemaMissing, SchemaTooOld):
            raise  # no retry would heal these
        except Exception as error:  # noqa: BLE001 - whatever it is, the message must not be lost
            self._postpone(waiting, message, error)
            return Outcome.FAILED
        self._pending.done(waiting)
        self._subscription.processed(waiting.partition, message.offset)
        return outcome

    def _handle(self, handler: Handler[T], message: ReceivedMessage) -> Outcome:
        traceparent = message.traceparent
        if traceparent is None and not tracing_is_on():
            return self._handling.handle(handler, message)
        with process_span(
            message.topic,
            message.id,
            None if message.key is None else message.key.decode(errors="replace"),
            traceparent,
            message.tracestate,
            partition=message.partition,
            offset=message.offset,
            consumer=self._group,
            tombstone=message.payload is None,
        ) as span:
            outcome = self._handling.handle(handler, message)
            span.set_attribute("outbox.outcome", outcome.value)
        return outcome

    def _postpone(self, waiting: Waiting, message: ReceivedMessage, error: Exception) -> None:
        delay = backoff(waiting.failures + 1, *self._delays)
        waiting.postpone(time.monotonic(), delay)
        first = waiting.failures == 1
        _log.log(
            logging.ERROR if first else logging.WARNING,
            "message %s (topic %s, partition %d, offset %d) failed with %s, attempt %d; "
            "its partition waits %.3g s for the next one",
            *(message.id, message.topic, message.partition, message.offset),
            *(type(error).__name__, waiting.failures, delay),
            exc_info=error if first else None,
        )


def _when_due(waiting: Waiting, timeout: float) -> Waiting | None:
    wait = waiting.due - time.monotonic()
    time.sleep(max(0.0, min(wait, timeout)))
    return waiting if wait <= timeout else None


def _check_delays(retry_delay: float, max_retry_delay: float) -> None:
    if not 0 < retry_delay <= max_retry_delay:
        raise ConfigurationError(
            f"retry_delay={retry_delay} and max_retry_delay={max_retry_delay} do not fit: "
            "0 < retry_delay <= max_retry_delay, in seconds"
        )
