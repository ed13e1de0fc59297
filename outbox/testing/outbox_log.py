"""The log as a test sees it: what was added, what must not have been, what would be sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, Unpack, overload

from outbox.names import Names
from outbox.publishers.memory import PublishedMessage
from outbox.testing.assertions import exactly, fitting, none_of_them, the_first
from outbox.testing.draining import log_id_of, log_id_query, relay_committed, relay_rows
from outbox.testing.faults import Faults
from outbox.testing.log import (
    BEGINNING,
    AddedMessage,
    Mark,
    Row,
    read_mark,
    read_mark_async,
    read_rows,
    read_rows_async,
    read_scheduled,
    read_scheduled_async,
)
from outbox.testing.matching import Expected, NamedTopic
from outbox.testing.reading import Source

#: A topic by its name, or as it was declared.
TopicName = str | NamedTopic


class Expectations(TypedDict, total=False):
    """What a test may say of a message; what it leaves out may be anything.

    Of each a value, a function that says whether it is right, or any object whose `__eq__` does;
    None stands for a message without. `payload` is compared with the decoded JSON, and may be
    anything that serializes to it, `containing({…})`, or bytes. Of `headers`, a mapping or pairs,
    those that are given must be there. `deliver_at` and `wait_for` are None of what is in the log.
    """

    key: object
    payload: object
    type: object
    headers: object
    deliver_at: object
    wait_for: object


class _Log:
    """What both logs share: where they are read, from where on, and what was drained."""

    def __init__(self, source: Source, mark: Mark) -> None:
        self._source = source
        self._mark = mark
        self._drained: set[tuple[int, str]] = set()
        self._drains = 0

    def _relay(
        self, rows: list[Row], log_id: str, relay: str, faults: Faults | None, timeout_s: float
    ) -> list[PublishedMessage]:
        fresh = [row for row in rows if row.place not in self._drained]
        self._drains += 1
        published = relay_rows(fresh, log_id, self._drains, relay, faults, timeout_s)
        self._drained.update(row.place for row in fresh)
        return published


class OutboxLog(_Log):
    """The log from where it stood when this was made.

    `transaction` is what `Outbox.add` takes: its uncommitted messages are seen, and what it rolled
    back (to a savepoint, too) is not. Or an Engine or a URL: then what is committed is seen. With
    `from_start=True` it sees all that the log holds. `schema`, `table_prefix` and `bind_arguments`
    are those of the Outbox. Nothing here writes or commits, but for `drain` of an Engine or a URL.
    """

    def __init__(
        self,
        transaction: object,
        *,
        from_start: bool = False,
        schema: str | None = None,
        table_prefix: str = "",
        bind_arguments: Mapping[str, object] | None = None,
    ) -> None:
        source = Source(transaction, Names(schema, table_prefix), bind_arguments)
        super().__init__(source, BEGINNING if from_start else read_mark(source, "OutboxLog"))

    def added(
        self, topic: TopicName | None = None, **expected: Unpack[Expectations]
    ) -> list[AddedMessage]:
        """Return the messages that are as described; by default all.

        In the order of the log, and after them those that are scheduled, in the order of writing.
        """
        return fitting(self._rows("added"), Expected.of(topic, **expected))

    @overload
    def assert_added(
        self, topic: TopicName, *, count: None = None, **expected: Unpack[Expectations]
    ) -> AddedMessage: ...

    @overload
    def assert_added(
        self, topic: TopicName, *, count: int, **expected: Unpack[Expectations]
    ) -> list[AddedMessage]: ...

    def assert_added(
        self, topic: TopicName, *, count: int | None = None, **expected: Unpack[Expectations]
    ) -> AddedMessage | list[AddedMessage]:
        """Assert that a message was added, and return it; the first where there are several.

        With `count`, that there are so many, and return them all. What is expected of it is said
        with `key`, `payload`, `type` and `headers`: see Expectations.
        """
        __tracebackhide__ = True
        wanted = Expected.of(topic, **expected)
        rows = self._rows("assert_added")
        return the_first(rows, wanted) if count is None else exactly(rows, wanted, count)

    def refute_added(
        self, topic: TopicName | None = None, **expected: Unpack[Expectations]
    ) -> None:
        """Assert that no message like this was added; by default, none at all."""
        __tracebackhide__ = True
        none_of_them(self._rows("refute_added"), Expected.of(topic, **expected))

    def drain(
        self, *, relay: str = "default", faults: Faults | None = None, timeout_s: float = 5.0
    ) -> list[PublishedMessage]:
        """Run the relay into memory and return what it put on the wire, in its order.

        Of a transaction: what it sees in the log since this was made, without what is scheduled,
        and without what an earlier call returned; the database is only read. Of an Engine or a
        URL: what is committed and this relay name has not delivered yet, wherever this log began;
        its cursor moves, as it does with `outbox-relay run`.

        `faults` happen on the way, and the relay goes on as a real one does, sending again what was
        not acknowledged. Raises MessageRefused for a message that it cannot send, and
        BrokerUnavailable when nothing got through for `timeout_s` seconds.
        """
        if self._source.is_committed_only:
            return relay_committed(self._source, relay, faults, timeout_s)
        rows = read_rows(self._source, self._mark, "drain")
        log_id = log_id_of(self._source.read(log_id_query(self._source.names), "drain"))
        return self._relay(rows, log_id, relay, faults, timeout_s)

    def _rows(self, verb: str) -> list[Row]:
        in_log = read_rows(self._source, self._mark, verb)
        return in_log + read_scheduled(self._source, self._mark, verb)


class AsyncOutboxLog(_Log):
    """The same for asyncio: make it with `await AsyncOutboxLog.open(session)`."""

    @classmethod
    async def open(
        cls,
        transaction: object,
        *,
        from_start: bool = False,
        schema: str | None = None,
        table_prefix: str = "",
        bind_arguments: Mapping[str, object] | None = None,
    ) -> AsyncOutboxLog:
        """Note where the log stands, as an OutboxLog does when it is made."""
        source = Source(transaction, Names(schema, table_prefix), bind_arguments)
        mark = BEGINNING if from_start else await read_mark_async(source, "OutboxLog_async")
        return cls(source, mark)

    async def added(
        self, topic: TopicName | None = None, **expected: Unpack[Expectations]
    ) -> list[AddedMessage]:
        """Do what `OutboxLog.added` does."""
        return fitting(await self._rows("added_async"), Expected.of(topic, **expected))

    @overload
    async def assert_added(
        self, topic: TopicName, *, count: None = None, **expected: Unpack[Expectations]
    ) -> AddedMessage: ...

    @overload
    async def assert_added(
        self, topic: TopicName, *, count: int, **expected: Unpack[Expectations]
    ) -> list[AddedMessage]: ...

    async def assert_added(
        self, topic: TopicName, *, count: int | None = None, **expected: Unpack[Expectations]
    ) -> AddedMessage | list[AddedMessage]:
        """Do what `OutboxLog.assert_added` does."""
        __tracebackhide__ = True
        wanted = Expected.of(topic, **expected)
        rows = await self._rows("assert_added_async")
        return the_first(rows, wanted) if count is None else exactly(rows, wanted, count)

    async def refute_added(
        self, topic: TopicName | None = None, **expected: Unpack[Expectations]
    ) -> None:
        """Do what `OutboxLog.refute_added` does."""
        __tracebackhide__ = True
        none_of_them(await self._rows("refute_added_async"), Expected.of(topic, **expected))

    async def drain(
        self, *, relay: str = "default", faults: Faults | None = None, timeout_s: float = 5.0
    ) -> list[PublishedMessage]:
        """Do what `OutboxLog.drain` does."""
        if self._source.is_committed_only:
            # SQLite's connection must be used in the thread that opens it: all of it goes there.
            from asyncio import to_thread

            return await to_thread(relay_committed, self._source, relay, faults, timeout_s)
        rows = await read_rows_async(self._source, self._mark, "drain_async")
        query = log_id_query(self._source.names)
        log_id = log_id_of(await self._source.read_async(query, "drain_async"))
        return self._relay(rows, log_id, relay, faults, timeout_s)

    async def _rows(self, verb: str) -> list[Row]:
        in_log = await read_rows_async(self._source, self._mark, verb)
        return in_log + await read_scheduled_async(self._source, self._mark, verb)
