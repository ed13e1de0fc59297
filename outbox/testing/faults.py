"""Faults on demand: what goes wrong with brokers and databases, when a test wants it to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from outbox.errors import BrokerUnavailable, DatabaseUnavailable, MessageRefused
from outbox.inbox.handling import TransactionFactory
from outbox.publishers.base import Delivery, DeliveryFailed, TopicUnavailable
from outbox.publishers.faults import Fault, fault_of
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.publishers.mock_kafka import OUTAGE, error_name
from outbox.record import Record

T = TypeVar("T")

_RAISED: dict[Fault, type[BrokerUnavailable | MessageRefused]] = {
    Fault.TOPIC: TopicUnavailable,
    Fault.MESSAGE: MessageRefused,
}


class CommitFailed(DatabaseUnavailable):
    """A commit failed on demand."""


@dataclass(frozen=True, slots=True)
class _SendFault:
    """What happens to one send: an error of Kafka's, after the message arrived or before."""

    error: str
    arrives: bool = False


@dataclass(frozen=True, slots=True)
class _Refusal:
    topic: str
    key: str | None

    def concerns(self, record: Record) -> bool:
        """Return whether the broker would refuse this message."""
        return record.topic == self.topic and self.key in (None, record.key)


@dataclass(slots=True)
class _Pending:
    """What is still to go wrong. `commits`: of each whether the database keeps it."""

    sends: deque[_SendFault] = field(default_factory=deque)
    commits: deque[bool] = field(default_factory=deque)
    refusals: list[_Refusal] = field(default_factory=list)
    answering: threading.Event = field(default_factory=threading.Event)

    def clear(self) -> None:
        """Let nothing more go wrong."""
        self.sends.clear()
        self.commits.clear()
        self.refusals.clear()
        self.answering.set()


class Faults:
    """What is to go wrong, in the order in which it was asked for; at first nothing.

    Give it to `drain` and `deliver`, or take `publisher` and `transactions` for a Relay or an
    InboxConsumer of your own. `published` is all that arrived at its publishers.
    """

    def __init__(self) -> None:
        self.published: list[PublishedMessage] = []
        self._pending = _Pending()
        self.clear()

    def fail_sends(self, count: int = 1, *, error: str | int = OUTAGE) -> None:
        """Let the next `count` sends fail before the message arrives.

        `error` is one of KafkaError's, by name or code; it decides, as with Kafka, whether the
        relay tries again, waits for the topic or gives up on the message
        (`"MSG_SIZE_TOO_LARGE"`).
        """
        self._pending.sends.extend([_SendFault(error_name(error))] * _check_count(count))

    def duplicate(self, count: int = 1) -> None:
        """Let the next `count` messages arrive while their acknowledgement is lost.

        So the relay sends each of them again, with the same id and position.
        """
        self._pending.sends.extend([_SendFault(OUTAGE, arrives=True)] * _check_count(count))

    def refuse(self, topic: str, *, key: str | None = None) -> None:
        """Let the broker refuse messages of a topic, or of one key in it, until `clear`."""
        self._pending.refusals.append(_Refusal(topic, key))

    def hang(self) -> None:
        """Let nothing arrive and nothing be acknowledged, until `resume` or `clear`."""
        self._pending.answering.clear()

    def resume(self) -> None:
        """End what `hang` began."""
        self._pending.answering.set()

    def fail_commits(self, count: int = 1, *, answer_lost: bool = False) -> None:
        """Let the next `count` commits of handlers fail, and nothing of them be kept.

        With `answer_lost` the database commits, and the connection breaks before it can say so.
        """
        self._pending.commits.extend([answer_lost] * _check_count(count))

    def clear(self) -> None:
        """Let nothing more go wrong."""
        self._pending.clear()

    def publisher(self, published: list[PublishedMessage] | None = None) -> MemoryPublisher:
        """Return a publisher that keeps messages in memory and has these faults.

        `Relay(store, faults.publisher)` makes one for every term. `published` takes what arrives,
        besides the list of this name.
        """
        arrived = [self.published] if published is None else [self.published, published]
        return _FaultyPublisher(self._pending, arrived)

    def transactions(self, transaction_factory: TransactionFactory[T]) -> TransactionFactory[T]:
        """Return the transaction factory of a consumer whose commits have these faults."""
        return partial(_begin, self._pending, transaction_factory)


@contextmanager
def _begin(pending: _Pending, transaction_factory: TransactionFactory[T]) -> Iterator[T]:
    kept = None
    with transaction_factory() as transaction:
        yield transaction
        kept = pending.commits.popleft() if pending.commits else None
        if kept is False:
            raise CommitFailed("the connection broke before the commit, on demand")
    if kept:
        raise CommitFailed("the connection broke after the commit, on demand")


class _FaultyPublisher(MemoryPublisher):
    """One term's publisher. Its faults are those of all terms, and each happens once."""

    def __init__(self, pending: _Pending, arrived: list[list[PublishedMessage]]) -> None:
        # Without an id: a relay name that was drained in a test may go to a real cluster later.
        super().__init__(cluster_id="")
        self._pending = pending
        self._arrived = arrived
        self._broken: BrokerUnavailable | MessageRefused | None = None

    @property
    def trouble(self) -> str | None:
        """Return what keeps the broker from answering, or None."""
        return None if self._pending.answering.is_set() else "it hangs, on demand"

    def publish(
        self,
        records: list[Record],
        position_prefix: str,
        delivery: Delivery,
        check: Callable[[], None],
    ) -> None:
        """Keep the messages until the next poll, unless one would be refused."""
        for record in map(Record._make, records):
            if any(refusal.concerns(record) for refusal in self._pending.refusals):
                raise MessageRefused(
                    f"message {record.id} for topic {record.topic!r}, key {record.key!r}: "
                    "refused on demand"
                )
        super().publish(records, position_prefix, delivery, check)

    def poll(self, timeout_s: float) -> None:
        """Take and acknowledge the messages that wait, until a fault befalls one."""
        if not self._pending.answering.wait(timeout_s if self._waiting else 0):
            return
        while self._waiting and self._broken is None:
            message, delivery, index = self._waiting.popleft()
            fault = self._pending.sends.popleft() if self._pending.sends else None
            if fault is None or fault.arrives:
                for arrived in self._arrived:
                    arrived.append(message)
            if fault is None:
                delivery.acknowledged(index)
            else:
                self._broken = _error(fault, message)
        if self._broken is not None:
            raise self._broken


def _error(fault: _SendFault, message: PublishedMessage) -> BrokerUnavailable | MessageRefused:
    what = "its acknowledgement was lost" if fault.arrives else fault.error
    sentence = f"message {message.id} for topic {message.topic!r}: {what}, on demand"
    return _RAISED.get(fault_of(fault.error), DeliveryFailed)(sentence)


def _check_count(count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"how often it should happen must be a positive number, not {count!r}")
    return count
