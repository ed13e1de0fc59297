"""What is in the log: the messages that were added, and a mark where a test began."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

from outbox.errors import OutboxError
from outbox.names import Names
from outbox.publishers.memory import decoded
from outbox.record import Record
from outbox.testing.reading import Query, Rows, Source

#: What a payload is once it is decoded.
Data: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class AddedMessage:
    """A message that was added. `headers` are the application's own, in the order they were stored.

    `deliver_at`, `wait_for`: of one that is scheduled, and so not in the log yet.
    """

    topic: str
    key: str | None
    payload: bytes | None
    type: str | None
    content_type: str | None
    headers: tuple[tuple[str, str | None], ...]
    id: str
    lane: str | None
    traceparent: str | None = field(default=None, repr=False)
    tracestate: str | None = field(default=None, repr=False)
    seq: int = field(default=0, repr=False)
    deliver_at: datetime | None = None
    wait_for: str | None = None

    @property
    def data(self) -> Data:
        """The payload decoded from JSON; what is no JSON as bytes, a tombstone as None."""
        return decoded(self.payload)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the log stood: what came later has a higher `seq`. `id`: of the last message.

    `scheduled`: the highest number of what was scheduled.
    """

    seq: int
    id: str | None
    scheduled: int = 0


BEGINNING = Mark(0, None)


def mark_query(names: Names) -> Query:
    """Ask for the highest number in the log, and the id of the message that has it.

    PostgreSQL's sequence knows of numbers that transactions have drawn and not committed yet; what
    they added is not of this test.
    """
    log, sequence = names["outbox_message"], names["outbox_message_seq"]
    return Query(
        f"select coalesce(pg_sequence_last_value(cast('{sequence}' as regclass)), 0), null",
        f"select seq, id from {log} order by seq desc limit 1",
    )


def mark_of(rows: Rows) -> Mark:
    """Return the mark that a `mark_query` answered with."""
    return Mark(*rows[0]) if rows else BEGINNING


def scheduled_mark_query(names: Names) -> Query:
    """Ask for the highest number of what is scheduled."""
    highest = f"select coalesce(max(no), 0) from {names['outbox_scheduled']}"
    return Query(highest, highest)


def scheduled_query(names: Names, mark: Mark) -> Query:
    """Ask for the scheduled messages after the mark, with seconds since 1970."""
    columns = "topic, key, payload, type, content_type, {headers}, traceparent, tracestate, lane"
    select = f"""select no, {{id}}, {columns}, {{due_at}}, wait_for
                   from {names["outbox_scheduled"]} where no > :after order by no"""
    return Query(
        select.format(
            id="cast(id as text)",
            headers="cast(headers as text)",
            due_at="cast(extract(epoch from due_at) as float8)",
        ),
        # What SQLite makes of a text is exact to a fraction of a millisecond.
        select.format(id="id", headers="headers", due_at="round(due_at, 3)"),
        mark.scheduled,
    )


def messages_query(names: Names, mark: Mark) -> Query:
    """Ask for the messages after the mark, and for the one at it."""
    columns = "topic, key, payload, type, content_type, {headers}, traceparent, tracestate, lane"
    select = f"select seq, {{id}}, {columns} from {names['outbox_message']} where seq "
    return Query(
        (select + "> :after order by seq").format(
            id="cast(id as text)", headers="cast(headers as text)"
        ),
        (select + ">= :after order by seq").format(id="id", headers="headers"),
        mark.seq,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the log: what the relay takes of it, and its lane."""

    record: Record
    lane: str | None
    deliver_at: datetime | None = None
    wait_for: str | None = None

    @property
    def place(self) -> tuple[int, str]:
        """What tells it from all others, also where a number was used again after a rollback."""
        return self.record.seq, self.record.id

    @property
    def message(self) -> AddedMessage:
        """The row as a message."""
        record = self.record
        return AddedMessage(
            topic=record.topic,
            key=record.key,
            payload=record.payload,
            type=record.type,
            content_type=record.content_type,
            headers=_headers(record.headers),
            id=record.id,
            lane=self.lane,
            traceparent=record.traceparent,
            tracestate=record.tracestate,
            seq=record.seq,
            deliver_at=self.deliver_at,
            wait_for=self.wait_for,
        )


def rows_after(mark: Mark, rows: Rows) -> list[Row]:
    """Return the rows that came after the mark.

    Raises OutboxError when the message at the mark is gone: SQLite then uses its number again, so
    nobody can tell what is new.
    """
    found = [_row(row) for row in rows]
    if mark.id is not None and not (found and found[0].place == (mark.seq, mark.id)):
        raise OutboxError(
            "messages that stood in the log when this test began have been rolled back since, and "
            "SQLite uses their numbers again: which messages are new cannot be told. Note where "
            "the log stands before anything is added that the test rolls back"
        )
    return [row for row in found if row.record.seq > mark.seq]


def read_mark(source: Source, verb: str) -> Mark:
    """Return where the log stands now."""
    mark = mark_of(source.read(mark_query(source.names), verb))
    ((scheduled,),) = source.read(scheduled_mark_query(source.names), verb)
    return replace(mark, scheduled=scheduled)


def read_rows(source: Source, mark: Mark, verb: str) -> list[Row]:
    """Return the rows that came after the mark, in the order of the log."""
    return rows_after(mark, source.read(messages_query(source.names, mark), verb))


def read_scheduled(source: Source, mark: Mark, verb: str) -> list[Row]:
    """Return what was scheduled after the mark, in the order in which it was written."""
    return [_scheduled(row) for row in source.read(scheduled_query(source.names, mark), verb)]


async def read_scheduled_async(source: Source, mark: Mark, verb: str) -> list[Row]:
    """Do what `read_scheduled` does, for asyncio."""
    rows = await source.read_async(scheduled_query(source.names, mark), verb)
    return [_scheduled(row) for row in rows]


async def read_mark_async(source: Source, verb: str) -> Mark:
    """Do what `read_mark` does, for asyncio."""
    mark = mark_of(await source.read_async(mark_query(source.names), verb))
    ((scheduled,),) = await source.read_async(scheduled_mark_query(source.names), verb)
    return replace(mark, scheduled=scheduled)


async def read_rows_async(source: Source, mark: Mark, verb: str) -> list[Row]:
    """Do what `read_rows` does, for asyncio."""
    return rows_after(mark, await source.read_async(messages_query(source.names, mark), verb))


def _scheduled(row: tuple[Any, ...]) -> Row:
    *columns, due_at, wait_for = row
    deliver_at = None if due_at is None else datetime.fromtimestamp(due_at, UTC)
    found = _row(tuple(columns))
    # Its number is none of the log's.
    record = found.record._replace(seq=0)
    return replace(found, record=record, deliver_at=deliver_at, wait_for=wait_for)


def _row(row: tuple[Any, ...]) -> Row:
    *columns, lane = row
    record = Record._make((*columns, None, 0))
    payload = None if record.payload is None else bytes(record.payload)  # or a memoryview
    weight = len(payload or b"") + len(record.headers or "")
    return Row(record._replace(payload=payload, total=weight), lane)


def _headers(stored: str | None) -> tuple[tuple[str, str | None], ...]:
    if stored is None:
        return ()
    headers = json.loads(stored)
    pairs = headers.items() if isinstance(headers, dict) else headers
    return tuple((name, cast("str | None", value)) for name, value in pairs)
