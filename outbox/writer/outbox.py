"""The Outbox: writes messages in the caller's transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from outbox.errors import (
    ConfigurationError,
    PayloadNotSerializable,
    UnknownLane,
)
from outbox.headers import HeadersInput
from outbox.message import Message, Ordering, check_id, fill
from outbox.names import Names, check_name
from outbox.serialization.serializer import JsonSerializer, Serializer
from outbox.topic.topic import Topic, TopicSerializer
from outbox.tracing import (
    TraceContext,
    create_span,
    create_spans,
    current_context,
    current_headers,
    tracing_is_on,
)
from outbox.transactions.opening import (
    AsyncTransaction,
    check_asynchronous,
    kind_of,
    open_async_transaction,
    open_transaction,
)
from outbox.writer.backlog import Backlog
from outbox.writer.insert import (
    Insert,
    Row,
    lock_keys,
    lock_keys_async,
    write_many,
    write_many_async,
    write_one,
)
from outbox.writer.pending import PendingWrite, guard_commit
from outbox.writer.schedule import (
    ScheduleStatements,
    add_timing,
    cancel,
    cancel_async,
    check_conditions,
    conditions_of,
    lock_awaited,
    lock_awaited_async,
    release,
    release_async,
)
from outbox.writer.sizes import check_limit, check_size

T = TypeVar("T")
P = TypeVar("P")

#: librdkafka's default `message.max.bytes`; a broker's own default is a little higher.
MAX_MESSAGE_BYTES = 1_000_000

#: Every log has this lane, declared or not.
DEFAULT_LANE = "default"


class Outbox:
    """Writes messages in the caller's transaction, and never commits.

    Cheap, thread-safe, holds no connection and reads no environment: make one where you need it or
    share one. `schema` and `table_prefix` say where the tables are, `lanes` which lanes a message
    may name (default: any), `bind_arguments` which database of a Session that has several.
    `max_message_bytes` bounds key, payload, type, content type and headers together.
    """

    def __init__(
        self,
        *,
        schema: str | None = None,
        table_prefix: str = "",
        serializer: Serializer | TopicSerializer | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        lanes: Collection[str] | None = None,
        bind_arguments: Mapping[str, object] | None = None,
    ) -> None:
        names = Names(schema, table_prefix)
        self._insert = Insert(names)
        self._backlog = Backlog(names)
        self._schedule = ScheduleStatements(names)
        self._serializer_for = _serializers(serializer)
        self._max_message_bytes = check_limit(max_message_bytes)
        self._lanes = None if lanes is None else _check_lanes(lanes)
        self._bind_arguments = bind_arguments

    def add(
        self,
        transaction: object,
        /,
        topic: str | Topic[P],
        payload: P | None,
        *,
        key: str | int | UUID | None = None,
        type: str | None = None,
        headers: HeadersInput | None = None,
        id: UUID | str | None = None,
        lane: str | None = None,
        content_type: str | None = None,
        deliver_at: datetime | None = None,
        delay: timedelta | None = None,
        wait_for: str | None = None,
        expires_at: datetime | None = None,
        ordering: Ordering | None = None,
    ) -> Message:
        """Write a message that is sent if, and only if, this transaction commits.

        `transaction` is a SQLAlchemy Session (flushed first) or Connection, a psycopg Connection or
        a sqlite3.Connection. `topic` is a name, or a Topic, whose payload has a type. With
        `deliver_at`, `delay` or `wait_for` it is sent later: see Message. Raises InvalidMessage,
        NotInTransaction, BacklogFull or TypeError, and then has written nothing.
        """
        timing = (deliver_at, delay, wait_for, expires_at)
        made = Message.__new__(Message)
        message = fill(
            made, topic, payload, key, type, headers, id, lane, content_type, timing, ordering
        )
        self._write(transaction, message, self._row(message))
        return message

    def add_all(self, transaction: object, /, messages: Iterable[Message]) -> None:
        """Write several messages in their order; on PostgreSQL in one round trip.

        All of them are checked before the first is written.
        """
        listed = _check_messages(messages, "add_all")
        rows = [self._row(message) for message in listed]
        opened = open_transaction(transaction, verb="add_all", bind_arguments=self._bind_arguments)
        self._backlog.check(opened)
        lock_keys(opened, _strict_keys(listed))
        lock_awaited(opened, conditions_of(listed))
        with create_spans(listed, current_context()) as creations:
            _carry(rows, creations.headers)
            write_many(opened, self._insert, rows)

    def add_async(
        self,
        transaction: object,
        /,
        topic: str | Topic[P],
        payload: P | None,
        *,
        key: str | int | UUID | None = None,
        type: str | None = None,
        headers: HeadersInput | None = None,
        id: UUID | str | None = None,
        lane: str | None = None,
        content_type: str | None = None,
        deliver_at: datetime | None = None,
        delay: timedelta | None = None,
        wait_for: str | None = None,
        expires_at: datetime | None = None,
        ordering: Ordering | None = None,
    ) -> Awaitable[Message]:
        """Do what `add` does, for an AsyncSession, AsyncConnection or psycopg.AsyncConnection.

        Everything is checked and serialized at the call, the await writes. An AsyncSession refuses
        to commit while a call was not awaited.
        """
        timing = (deliver_at, delay, wait_for, expires_at)
        made = Message.__new__(Message)
        message = fill(
            made, topic, payload, key, type, headers, id, lane, content_type, timing, ordering
        )
        rows = [self._row(message)]
        return self._write_later("add_async", transaction, [message], rows, message)

    def add_all_async(self, transaction: object, /, messages: Iterable[Message]) -> Awaitable[None]:
        """Do what `add_all` does, in the way of `add_async`."""
        listed = _check_messages(messages, "add_all_async")
        rows = [self._row(message) for message in listed]
        return self._write_later("add_all_async", transaction, listed, rows, None)

    def cancel(self, transaction: object, /, id: UUID | str) -> bool:
        """Take back a message that waits for its time or a condition, if this transaction commits.

        Returns whether it was still there: a relay may have moved it into the log already.
        """
        _, id_text = check_id(id)
        opened = open_transaction(transaction, verb="cancel", bind_arguments=self._bind_arguments)
        return cancel(opened, self._schedule, id_text)

    def release(self, transaction: object, /, *conditions: str) -> int:
        """Let the messages that wait for these conditions go, if this transaction commits.

        Returns how many that were. It waits for transactions that are writing such messages. A
        condition is not remembered: who writes a message later waits for the next release.
        """
        checked = check_conditions(conditions)
        opened = open_transaction(transaction, verb="release", bind_arguments=self._bind_arguments)
        return release(opened, self._schedule, checked)

    def cancel_async(self, transaction: object, /, id: UUID | str) -> Awaitable[bool]:
        """Do what `cancel` does, in the way of `add_async`."""
        _, id_text = check_id(id)

        async def write() -> bool:
            opened = await self._open_async("cancel_async", transaction)
            return await cancel_async(opened, self._schedule, id_text)

        return self._later("cancel_async", transaction, f"cancel_async of {id_text}", write)

    def release_async(self, transaction: object, /, *conditions: str) -> Awaitable[int]:
        """Do what `release` does, in the way of `add_async`."""
        checked = check_conditions(conditions)

        async def write() -> int:
            opened = await self._open_async("release_async", transaction)
            return await release_async(opened, self._schedule, checked)

        what = f"release_async of {', '.join(checked)}"
        return self._later("release_async", transaction, what, write)

    def _write(self, transaction: object, message: Message, row: Row) -> None:
        opened = open_transaction(transaction, bind_arguments=self._bind_arguments)
        self._backlog.check(opened)
        if message.ordering:
            lock_keys(opened, _strict_keys([message]))
        if message.wait_for is not None:
            lock_awaited(opened, [message.wait_for])
        if not tracing_is_on():  # the common case first, and cheap
            traceparent, tracestate = current_headers()
            if traceparent is not None:
                _carry_one(row, traceparent, tracestate)
            write_one(opened, self._insert, row)
            return
        with create_span(message) as creation:
            _carry_one(row, creation.traceparent, creation.tracestate)
            write_one(opened, self._insert, row)

    def _write_later(
        self, verb: str, transaction: object, messages: list[Message], rows: list[Row], result: T
    ) -> Awaitable[T]:
        topics = " and ".join(sorted({repr(message.topic) for message in messages}))
        what = f"{verb} to topic {topics or '(no messages)'}"
        context = current_context()

        async def write() -> T:
            await self._write_async(verb, transaction, messages, rows, context)
            return result

        return self._later(verb, transaction, what, write)

    def _later(
        self, verb: str, transaction: object, what: str, write: Callable[[], Coroutine[Any, Any, T]]
    ) -> Awaitable[T]:
        """Return what writes when it is awaited, and keeps the session from committing before."""
        check_asynchronous(transaction, verb)
        awaited = _guard(transaction, what)

        async def guarded() -> T:
            try:
                return await write()
            finally:
                awaited()

        return PendingWrite(what, guarded)

    async def _write_async(
        self,
        verb: str,
        transaction: object,
        messages: list[Message],
        rows: list[Row],
        context: TraceContext,
    ) -> None:
        opened = await self._open_async(verb, transaction)
        await self._backlog.check_async(opened)
        await lock_keys_async(opened, _strict_keys(messages))
        await lock_awaited_async(opened, conditions_of(messages))
        with create_spans(messages, context) as creations:
            _carry(rows, creations.headers)
            await write_many_async(opened, self._insert, rows)

    async def _open_async(self, verb: str, transaction: object) -> AsyncTransaction:
        return await open_async_transaction(
            transaction, verb=verb, bind_arguments=self._bind_arguments
        )

    def _row(self, message: Message) -> Row:
        """Return the columns that are not null; raise for what only this Outbox can know."""
        row: Row = {"topic": message.topic, "id": message.id_text}
        if message.key is not None:
            row["key"] = message.key
        if message.payload is not None:
            row["payload"] = self._serialized(message.payload, row)
        if message.type is not None:
            row["type"] = message.type
        if message.content_type is not None:
            row["content_type"] = message.content_type
        if message.headers_json is not None:
            row["headers"] = message.headers_json
        if message.lane is not None:
            row["lane"] = self._known_lane(message.lane)
        if message.has_timing:
            add_timing(row, message)
        # A quick look first: no text has more than four bytes a character.
        if 4 * sum(map(len, row.values())) > self._max_message_bytes:  # type: ignore[arg-type]  # text and bytes
            check_size(row, message, self._max_message_bytes)
        return row

    def _serialized(self, payload: object, row: Row) -> bytes:
        if isinstance(payload, (bytes, bytearray, memoryview)):
            return bytes(payload)
        serializer = self._serializer_for(row["topic"])
        data = serializer.serialize(payload)
        if not isinstance(data, bytes):
            raise PayloadNotSerializable(
                f"{type(serializer).__name__}.serialize() returned "
                f"{type(data).__name__}; it must return bytes"
            )
        if serializer.content_type is not None:
            row["content_type"] = serializer.content_type
        return data

    def _known_lane(self, lane: str) -> str:
        if self._lanes is not None and lane not in self._lanes:
            raise UnknownLane(
                f"lane {lane!r} is not one of the lanes of this Outbox: "
                f"{', '.join(sorted(self._lanes))}"
            )
        return lane


def _serializers(
    serializer: Serializer | TopicSerializer | None,
) -> Callable[[object], Serializer]:
    """Return what gives the serializer of a topic."""
    if isinstance(serializer, TopicSerializer):
        return lambda topic: serializer.for_topic(str(topic))
    chosen = JsonSerializer() if serializer is None else serializer
    return lambda _: chosen


def _carry(rows: list[Row], contexts: list[tuple[str | None, str | None]]) -> None:
    for row, (traceparent, tracestate) in zip(rows, contexts, strict=True):
        _carry_one(row, traceparent, tracestate)


def _carry_one(row: Row, traceparent: str | None, tracestate: str | None) -> None:
    if traceparent is not None:
        row["traceparent"] = traceparent
    if tracestate is not None:
        row["tracestate"] = tracestate


def _strict_keys(messages: Iterable[Message]) -> list[str]:
    return [message.key for message in messages if message.ordering and message.key is not None]


def _guard(transaction: object, what: str) -> Callable[[], object]:
    kind = kind_of(transaction)
    if kind.endswith("async_scoped_session"):
        return guard_commit(transaction(), what)  # type: ignore[operator]  # kind_of says so
    if kind.endswith("AsyncSession"):
        return guard_commit(transaction, what)  # type: ignore[arg-type]  # as above
    return lambda: None


def _check_messages(messages: Iterable[Message], verb: str) -> list[Message]:
    listed = list(messages)
    for index, message in enumerate(listed):
        if not isinstance(message, Message):
            raise TypeError(
                f"{verb}() takes Message objects, and messages[{index}] is a "
                f"{type(message).__name__}: write Message(topic, payload, key=…)"
            )
    return listed


def _check_lanes(lanes: Collection[str]) -> frozenset[str]:
    if isinstance(lanes, str):
        raise ConfigurationError(f"lanes must be several names, not the text {lanes!r}")
    return frozenset(check_name("lane", lane) for lane in lanes) | {DEFAULT_LANE}
