"""Deliver a message to an inbox, as often as Kafka might."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from outbox.errors import ConfigurationError, NotInTransaction
from outbox.inbox.handling import (
    Handler,
    Handling,
    Outcome,
    TransactionFactory,
    check_handler,
)
from outbox.inbox.inbox import Inbox
from outbox.inbox.received import ReceivedMessage
from outbox.testing.faults import CommitFailed, Faults
from outbox.testing.received import AnyMessage, as_received
from outbox.tracing import process_span

T = TypeVar("T")

logger = logging.getLogger("outbox.testing")


class Deliveries(list[Outcome]):
    """What became of each delivery. `errors`: what was raised by those that FAILED, in order."""

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        super().__init__(outcomes)
        self.errors: list[Exception] = []


def deliver(
    inbox: Inbox,
    message: AnyMessage,
    handler: Handler[T],
    *,
    transaction_factory: TransactionFactory[T],
    times: int = 2,
    faults: Faults | None = None,
) -> Deliveries:
    """Deliver a message so many times, as an InboxConsumer would, and return the outcomes.

    `message` is one that `drain` returned, `Message(topic, payload, …)` made by hand, or a
    ReceivedMessage; `inbox`, `handler` and `transaction_factory` are those of the InboxConsumer.
    What a handler raises makes a delivery FAILED, is logged, and kept in `errors`. Raises what ends
    a consumer: NotInTransaction, ConfigurationError.
    """
    check_handler(handler)
    _check_arguments(inbox, transaction_factory, times)
    received = as_received(message)
    factory = faults.transactions(transaction_factory) if faults else transaction_factory
    handling = Handling(inbox, factory)
    deliveries = Deliveries()
    for _ in range(times):
        _deliver_once(handling, inbox, received, handler, deliveries)
    return deliveries


def assert_takes_effect_once(
    inbox: Inbox,
    message: AnyMessage,
    handler: Handler[T],
    *,
    transaction_factory: TransactionFactory[T],
    effects: Callable[[], object],
) -> None:
    """Assert that a message takes effect once, however often it comes.

    `effects()` returns what can be seen of them: rows, a count, the calls of a fake. The message is
    delivered three times. First its commit fails, and there must be no effect; then it is handled,
    and there must be one; then it comes again, and nothing may change.
    """
    __tracebackhide__ = True
    faults = Faults()
    faults.fail_commits()
    received = as_received(message)  # by hand it would get another id every time

    def delivered() -> tuple[Outcome, object]:
        deliveries = deliver(
            inbox,
            received,
            handler,
            transaction_factory=transaction_factory,
            times=1,
            faults=faults,
        )
        if unexpected := [e for e in deliveries.errors if not isinstance(e, CommitFailed)]:
            raise AssertionError(f"the handler raised {unexpected[0]!r}") from unexpected[0]
        return deliveries[0], _frozen(effects())

    before = _frozen(effects())
    _, after_failure = delivered()
    _check_same(before, after_failure, "an effect outlived the transaction, which was rolled back")
    outcome, once = delivered()
    if outcome is Outcome.DUPLICATE:
        raise AssertionError("the inbox knew the message before it was delivered; use a new id")
    if once == before:
        raise AssertionError(f"the handler had no effect that effects() shows: {once!r}")
    _check_same(once, delivered()[1], "the message took effect a second time")


def _check_arguments(inbox: object, transaction_factory: object, times: object) -> None:
    if not isinstance(inbox, Inbox):
        raise TypeError(f"inbox must be an Inbox, not {type(inbox).__name__}: Inbox(consumer)")
    if not callable(transaction_factory):
        raise TypeError(
            f"transaction_factory must be a function, not {type(transaction_factory).__name__}: "
            "sessionmaker(engine).begin, say, or savepoints(session)"
        )
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise ValueError(f"times must be a positive number, not {times!r}")


def _check_same(before: object, after: object, complaint: str) -> None:
    __tracebackhide__ = True
    if after != before:
        raise AssertionError(f"{complaint}: effects() was {before!r} and is {after!r}")


def _frozen(effects: object) -> object:
    """Keep what a list was, since effects() may return the same one each time."""
    return effects.copy() if isinstance(effects, list | dict | set) else effects


def _deliver_once(
    handling: Handling[T],
    inbox: Inbox,
    message: ReceivedMessage,
    handler: Handler[T],
    deliveries: Deliveries,
) -> None:
    try:
        deliveries.append(_handle(handling, inbox, message, handler))
    except (NotInTransaction, ConfigurationError):
        raise  # these end a consumer, too
    except Exception as error:
        if not isinstance(error, CommitFailed):  # that was asked for
            logger.exception("message %s failed, delivery %d", message.id, len(deliveries) + 1)
        deliveries.append(Outcome.FAILED)
        deliveries.errors.append(error)


def _handle(
    handling: Handling[T], inbox: Inbox, message: ReceivedMessage, handler: Handler[T]
) -> Outcome:
    with process_span(
        message.topic,
        message.id,
        None if message.key is None else message.key.decode(errors="replace"),
        message.traceparent,
        message.tracestate,
        partition=message.partition,
        offset=message.offset,
        consumer=inbox.consumer,
        tombstone=message.payload is None,
    ) as span:
        outcome = handling.handle(handler, message)
        span.set_attribute("outbox.outcome", outcome.value)
    return outcome
