"""The seam to brokers: what a relay needs of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, cast

from outbox.errors import BrokerUnavailable, MessageRefused
from outbox.record import Record


class DeliveryFailed(BrokerUnavailable):
    """The broker did not confirm a message, and nothing is known of those sent after it.

    The publisher must be closed and made anew; what was not confirmed is read and sent again.
    """


class TopicUnavailable(BrokerUnavailable):
    """A topic does not exist or may not be written to; it may yet.

    `topics`: why, for each topic that is known to be so.
    """

    def __init__(self, message: str, topics: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.topics = {} if topics is None else topics


class TopicLost(DeliveryFailed, TopicUnavailable):
    """A message was sent, and its topic did not take it."""


class PageRefused(MessageRefused):
    """Some messages of a page would be refused; nothing of the page was sent.

    `reasons`: why, by their indexes in the page.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(next(iter(reasons.values())))
        self.reasons = reasons


def unavailable_topics(error: Exception) -> Mapping[str, str]:
    """Return the topics that an error is about, and why; none for an error of another kind."""
    return cast("Mapping[str, str]", getattr(error, "topics", {}))


class Fenced(BrokerUnavailable):
    """Another process has begun to publish under this one's name; the broker takes no more of ours.

    It may also be that the broker gave up a transaction of ours that took too long.
    """


class Delivery(Protocol):
    """Who wants to know which of a page's messages have arrived."""

    @property
    def mark(self) -> str:
        """Return what to keep at the broker, in the transaction of the page's messages."""

    def acknowledged(self, index: int) -> None:
        """Note that the page's message number `index` is in the broker's log, durably."""


class Publisher(Protocol):
    """A connection to a broker for one term of a relay. One thread at a time.

    Messages of one topic and key arrive in the order of `publish`. A publisher that has raised
    anything is of no further use and must be closed.
    """

    @property
    def transactional(self) -> bool:
        """Return whether messages and their page's mark become true together, or not at all."""

    def connect(self, timeout_s: float) -> str:
        """Reach the broker and return its cluster's id. Raises BrokerUnavailable."""

    def claim(self, identity: str, timeout_s: float) -> list[str]:
        """Shut out every transactional publisher that has this identity; return the marks it kept.

        What it had begun is undone, and it can begin nothing any more. A transactional publisher
        must be given its identity before it publishes. Raises BrokerUnavailable.
        """

    def publish(
        self,
        records: list[Record],
        position_prefix: str,
        delivery: Delivery,
        check: Callable[[], None],
    ) -> None:
        """Hand a page's messages to the broker, in order, and do not wait for the last of them.

        They go without a position where `position_prefix` is empty.

        What became of messages is reported from within this, `poll` and `flush` only. `check` is
        called every few hundred messages and may raise, to stop in the middle. Raises
        PageRefused, or TopicUnavailable that names topics, for what the broker would refuse: then
        nothing of the page was sent, the publisher is still of use, and may be given the rest;
        BrokerUnavailable; and what `poll` raises.
        """

    def poll(self, timeout_s: float) -> None:
        """Report what became of messages, waiting up to `timeout_s` for the first report.

        Raises DeliveryFailed, or MessageRefused where the message itself is at fault.
        """

    def flush(self, timeout_s: float) -> None:
        """Wait until everything sent was reported, for `timeout_s` at most. Raises as poll does."""

    @property
    def trouble(self) -> str | None:
        """Return what keeps the broker from answering, or None."""

    def close(self) -> None:
        """Give up whatever was not sent, at once. Reports nothing further; never raises."""
