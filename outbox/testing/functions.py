"""The same without an object: each call looks at all that the log holds."""

from __future__ import annotations

from typing import Unpack, overload

from outbox.publishers.memory import PublishedMessage
from outbox.testing.faults import Faults
from outbox.testing.log import AddedMessage
from outbox.testing.outbox_log import AsyncOutboxLog, Expectations, OutboxLog, Topic


def added(
    transaction: object, topic: Topic | None = None, **expected: Unpack[Expectations]
) -> list[AddedMessage]:
    """Return the messages in the log that are as described, in its order; by default all.

    `transaction`: see OutboxLog, which also takes the schema and the prefix of the tables.
    """
    return OutboxLog(transaction, from_start=True).added(topic, **expected)


@overload
def assert_added(
    transaction: object, topic: Topic, *, count: None = None, **expected: Unpack[Expectations]
) -> AddedMessage: ...


@overload
def assert_added(
    transaction: object, topic: Topic, *, count: int, **expected: Unpack[Expectations]
) -> list[AddedMessage]: ...


def assert_added(
    transaction: object,
    topic: Topic,
    *,
    count: int | None = None,
    **expected: Unpack[Expectations],
) -> AddedMessage | list[AddedMessage]:
    """Assert that the log holds such a message, and return the first; with `count`, so many."""
    __tracebackhide__ = True
    log = OutboxLog(transaction, from_start=True)
    if count is None:
        return log.assert_added(topic, **expected)
    return log.assert_added(topic, count=count, **expected)


def refute_added(
    transaction: object, topic: Topic | None = None, **expected: Unpack[Expectations]
) -> None:
    """Assert that the log holds no such message; by default, none at all."""
    __tracebackhide__ = True
    OutboxLog(transaction, from_start=True).refute_added(topic, **expected)


def drain(
    transaction: object,
    *,
    relay: str = "default",
    faults: Faults | None = None,
    timeout_s: float = 5.0,
) -> list[PublishedMessage]:
    """Run the relay into memory and return what it put on the wire, in its order.

    Of a transaction that is everything in the log that it sees, with every call: nothing is
    written. Of an Engine or a URL it is what is committed and not delivered yet: the cursor moves,
    and the next call returns only what is new. See OutboxLog.drain.
    """
    log = OutboxLog(transaction, from_start=True)
    return log.drain(relay=relay, faults=faults, timeout_s=timeout_s)


async def added_async(
    transaction: object, topic: Topic | None = None, **expected: Unpack[Expectations]
) -> list[AddedMessage]:
    """Do what `added` does, with an asynchronous session, connection or engine."""
    log = await AsyncOutboxLog.open(transaction, from_start=True)
    return await log.added(topic, **expected)


@overload
async def assert_added_async(
    transaction: object, topic: Topic, *, count: None = None, **expected: Unpack[Expectations]
) -> AddedMessage: ...


@overload
async def assert_added_async(
    transaction: object, topic: Topic, *, count: int, **expected: Unpack[Expectations]
) -> list[AddedMessage]: ...


async def assert_added_async(
    transaction: object,
    topic: Topic,
    *,
    count: int | None = None,
    **expected: Unpack[Expectations],
) -> AddedMessage | list[AddedMessage]:
    """Do what `assert_added` does, with an asynchronous session, connection or engine."""
    __tracebackhide__ = True
    log = await AsyncOutboxLog.open(transaction, from_start=True)
    if count is None:
        return await log.assert_added(topic, **expected)
    return await log.assert_added(topic, count=count, **expected)


async def refute_added_async(
    transaction: object, topic: Topic | None = None, **expected: Unpack[Expectations]
) -> None:
    """Do what `refute_added` does, with an asynchronous session, connection or engine."""
    __tracebackhide__ = True
    log = await AsyncOutboxLog.open(transaction, from_start=True)
    await log.refute_added(topic, **expected)


async def drain_async(
    transaction: object,
    *,
    relay: str = "default",
    faults: Faults | None = None,
    timeout_s: float = 5.0,
) -> list[PublishedMessage]:
    """Do what `drain` does, with an asynchronous session, connection or engine."""
    log = await AsyncOutboxLog.open(transaction, from_start=True)
    return await log.drain(relay=relay, faults=faults, timeout_s=timeout_s)
