"""What `Outbox.add` costs over a bare INSERT of the same row in the same open transaction.

Blocks of both take turns within one transaction, which is rolled back: no commit is measured, only
what the call itself takes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from outbox.bench.draining import KEYS, PAYLOAD_BYTES
from outbox.bench.place import Place
from outbox.bench.process import is_pooled
from outbox.bench.result import Goal, Repetition, Row
from outbox.message import Message
from outbox.writer.outbox import Outbox

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Table
    from sqlalchemy.orm import Session

#: Messages in one call of `add_all`.
BATCH = 100

_UNIT = "µs/message"
_PAYLOAD = b"x" * PAYLOAD_BYTES

#: Writes this many messages.
Write = Callable[[int], None]


def adding_rows(place: Place, messages: int, repetitions: int) -> list[Row]:
    """Measure `add` and `add_all`; `messages` are written in each block."""
    place.renew()
    outbox = Outbox(schema=place.schema)
    with place.servers.connect() as connection:
        columns = _columns(place, outbox, connection)
    return [
        *_with_psycopg(place, outbox, columns, messages, repetitions),
        _with_session(place, outbox, columns, messages, repetitions),
    ]


def _columns(place: Place, outbox: Outbox, connection: psycopg.Connection) -> list[str]:
    """Return the columns that `add` sets, as seen in a row of its own."""
    from psycopg.rows import dict_row

    with connection.transaction(force_rollback=True):
        outbox.add(connection, place.topic, _PAYLOAD, key="key-0")
        log = place.names["outbox_message"]
        row = connection.cursor(row_factory=dict_row).execute(f"select * from {log}").fetchone()
    candidates = ("topic", "id", "key", "payload", "type", "content_type", "headers")
    traces = ("traceparent", "tracestate", "lane")
    return [name for name in (*candidates, *traces) if row is not None and row[name] is not None]


def _with_psycopg(
    place: Place, outbox: Outbox, columns: Sequence[str], messages: int, repetitions: int
) -> list[Row]:
    with place.servers.connect() as connection:
        connection.prepare_threshold = _prepare_threshold(connection)
        cursor = connection.cursor()
        values = ", ".join(f"%({name})s" for name in columns)
        query = (
            f"insert into {place.names['outbox_message']} ({', '.join(columns)}) values ({values})"
        )

        rows = _rows(place.topic, columns, messages)

        def bare(count: int) -> None:
            for row in rows[:count]:
                connection.execute(query, row)

        def kept(count: int) -> None:
            for row in rows[:count]:
                cursor.execute(query, row)

        def add(count: int) -> None:
            for number in range(count):
                outbox.add(connection, place.topic, _PAYLOAD, key=f"key-{number % KEYS}")

        def add_all(count: int) -> None:
            for first in range(0, count, BATCH):
                outbox.add_all(connection, _messages(place.topic, first, min(BATCH, count - first)))

        with connection.transaction(force_rollback=True):
            one = _alternate(add, bare, messages, repetitions)
            against_kept = _alternate(add, kept, messages, repetitions)
            many = _alternate(add_all, bare, messages, repetitions)
    than = "psycopg's connection.execute of the INSERT of the same row, in the same transaction"
    than_kept = "the same with one cursor for all"
    return [
        Row("B5", "add, psycopg", _UNIT, than, one, Goal(1.10, "at most")),
        Row("B5", "add, psycopg, one cursor", _UNIT, than_kept, against_kept, None),
        Row("B5", f"add_all of {BATCH}, psycopg", _UNIT, than, many, Goal(0.25, "at most")),
    ]


def _with_session(
    place: Place, outbox: Outbox, columns: Sequence[str], messages: int, repetitions: int
) -> Row:
    from sqlalchemy import create_engine, insert
    from sqlalchemy.orm import Session

    table = _table(place, columns)
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: _manual(place.servers.connect())
    )
    rows = _rows(place.topic, columns, messages)
    with Session(engine) as session:

        def bare(count: int) -> None:
            for row in rows[:count]:
                session.execute(insert(table), row)

        def add(count: int) -> None:
            _add_to(session, outbox, place.topic, count)

        session.connection()  # begins the transaction
        found = _alternate(add, bare, messages, repetitions)
        session.rollback()
    engine.dispose()
    than = "SQLAlchemy's own insert of the same row, in the same transaction"
    return Row("B5", "add, Session", _UNIT, than, found, Goal(1.25, "at most"))


def _add_to(session: Session, outbox: Outbox, topic: str, count: int) -> None:
    for number in range(count):
        outbox.add(session, topic, _PAYLOAD, key=f"key-{number % KEYS}")


def _manual(connection: psycopg.Connection) -> psycopg.Connection:
    """Return a connection as SQLAlchemy makes one: it begins a transaction by itself."""
    connection.prepare_threshold = _prepare_threshold(connection)
    connection.autocommit = False
    return connection


def _prepare_threshold(connection: psycopg.Connection) -> int | None:
    """Return psycopg's default, for ours and for the bare INSERT; or none behind a pooler."""
    return None if is_pooled(connection) else 5


def _table(place: Place, columns: Iterable[str]) -> Table:
    from sqlalchemy import Column, LargeBinary, MetaData, Table, Text, Uuid

    types: dict[str, Any] = {"id": Uuid, "payload": LargeBinary}
    listed: list[Any] = [Column(name, types.get(name, Text)) for name in columns]
    return Table("outbox_message", MetaData(schema=place.schema), *listed)


def _rows(topic: str, columns: Sequence[str], count: int) -> list[dict[str, object]]:
    """Return rows as `add` would write them. They are made before the clock starts."""
    drawn: dict[str, Callable[[int], object]] = {
        "topic": lambda _: topic,
        "id": lambda _: uuid.uuid4(),
        "key": lambda number: f"key-{number % KEYS}",
        "payload": lambda _: _PAYLOAD,
        "content_type": lambda _: "application/octet-stream",
    }
    return [{name: drawn[name](number) for name in columns} for number in range(count)]


def _messages(topic: str, first: int, count: int) -> list[Message]:
    return [
        Message(topic, _PAYLOAD, key=f"key-{number % KEYS}")
        for number in range(first, first + count)
    ]


def _alternate(ours: Write, bare: Write, messages: int, repetitions: int) -> list[Repetition]:
    """Measure both in turn, in microseconds a message, and now one first, now the other."""
    for write in (ours, bare):
        write(min(messages, 200))  # statements get prepared, caches filled
    found = []
    for number in range(repetitions):
        both = [ours, bare] if number % 2 else [bare, ours]
        took = {write: _timed(write, messages) for write in both}
        found.append(Repetition(took[ours], took[bare]))
    return found


def _timed(write: Write, messages: int) -> float:
    began = time.perf_counter()
    write(messages)
    return (time.perf_counter() - began) / messages * 1e6
