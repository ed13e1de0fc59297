"""The SQL a writer runs. It names only columns a writer may set, and uses no RETURNING.

Both keep a role sufficient that has INSERT on these columns and USAGE on the sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from outbox.names import Names
from outbox.sql_errors import raise_explained
from outbox.transactions import AsyncTransaction, Statement, Transaction

Row = dict[str, object]

#: What a writer may set, in the order of the statements, with PostgreSQL's types.
COLUMNS = {
    "topic": "text",
    "id": "uuid",
    "key": "text",
    "payload": "bytea",
    "type": "text",
    "content_type": "text",
    "headers": "jsonb",
    "traceparent": "text",
    "tracestate": "text",
    "lane": "text",
}

#: One statement of `add_all` carries at most this much: PostgreSQL takes no value above 1 GB.
CHUNK_BYTES = 32 * 1024 * 1024

#: Held until the caller's transaction ends. The key alone is hashed, whatever the topic.
LOCK = Statement(
    postgresql="select pg_advisory_xact_lock(hashtextextended(k, 0)) "
    "from unnest(cast(:keys as text[])) as keys (k)",
    sqlite="",  # one writer at a time: nothing to lock
)


@lru_cache(maxsize=4096)
def insert_one(names: Names, columns: tuple[str, ...]) -> Statement:
    """Return the INSERT of one row with these columns, as parameters of the same names."""
    head = f"insert into {names['outbox_message']} ({', '.join(columns)}) values "
    typed = ", ".join(_cast(column, f":{column}") for column in columns)
    plain = ", ".join(f":{column}" for column in columns)
    return Statement(postgresql=f"{head}({typed})", sqlite=f"{head}({plain})")


@lru_cache(maxsize=4096)
def insert_many(names: Names, columns: tuple[str, ...]) -> Statement:
    """Return the INSERT of many rows: on PostgreSQL one array a column, and seq in their order.

    Arrays of text except for the payload, cast by element: drivers agree on little else.
    """
    arrays = ", ".join(
        f"cast(:{column} as {'bytea' if column == 'payload' else 'text'}[])" for column in columns
    )
    values = ", ".join(_cast(column, f"m.{column}") for column in columns)
    return Statement(
        postgresql=f"insert into {names['outbox_message']} ({', '.join(columns)}) "
        f"select {values} from unnest({arrays}) "
        f"with ordinality as m ({', '.join(columns)}, n) order by m.n",
        sqlite=insert_one(names, columns).sqlite,
    )


def _cast(column: str, value: str) -> str:
    kind = COLUMNS[column]
    return value if kind in ("text", "bytea") else f"cast({value} as {kind})"


def write_one(transaction: Transaction, names: Names, row: Row) -> None:
    """Insert one row; columns that are not in it get their defaults."""
    try:
        transaction.execute(insert_one(names, tuple(row)), row)
    except Exception as error:
        raise_explained(error)
        raise


def lock_keys(transaction: Transaction, keys: Iterable[str]) -> None:
    """Wait until no other transaction holds these keys, and hold them.

    In sorted order, so that two transactions with the same keys do not wait for each other.
    """
    parameters = _lock_parameters(transaction.dialect, keys)
    if parameters:
        transaction.execute(LOCK, parameters)


async def lock_keys_async(transaction: AsyncTransaction, keys: Iterable[str]) -> None:
    """Do the same for asyncio."""
    parameters = _lock_parameters(transaction.dialect, keys)
    if parameters:
        await transaction.execute(LOCK, parameters)


def _lock_parameters(dialect: str, keys: Iterable[str]) -> Row | None:
    wanted = sorted(set(keys))
    return {"keys": wanted} if wanted and dialect == "postgresql" else None


def write_many(transaction: Transaction, names: Names, rows: Sequence[Row]) -> None:
    """Insert the rows in their order, on PostgreSQL in one round trip."""
    statement, columns = _many(names, rows)
    try:
        for chunk in chunks(rows):
            if transaction.dialect == "postgresql":
                transaction.execute(statement, _arrays(chunk, columns))
            else:
                transaction.execute_many(statement, _filled(chunk, columns))
    except Exception as error:
        raise_explained(error)
        raise


async def write_many_async(
    transaction: AsyncTransaction, names: Names, rows: Sequence[Row]
) -> None:
    """Do the same for asyncio."""
    statement, columns = _many(names, rows)
    try:
        for chunk in chunks(rows):
            if transaction.dialect == "postgresql":
                await transaction.execute(statement, _arrays(chunk, columns))
            else:
                await transaction.execute_many(statement, _filled(chunk, columns))
    except Exception as error:
        raise_explained(error)
        raise


def _many(names: Names, rows: Iterable[Row]) -> tuple[Statement, tuple[str, ...]]:
    used = set().union(*rows) or {"topic"}
    columns = tuple(column for column in COLUMNS if column in used)
    return insert_many(names, columns), columns


def _arrays(rows: Sequence[Row], columns: Sequence[str]) -> Row:
    return {column: [row.get(column) for row in rows] for column in columns}


def _filled(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    return [{column: row.get(column) for column in columns} for row in rows]


def chunks(rows: Sequence[Row], limit: int = CHUNK_BYTES) -> Iterator[Sequence[Row]]:
    """Cut the rows into runs whose payloads are about `limit` bytes together."""
    start = size = 0
    for index, row in enumerate(rows):
        payload = row.get("payload")
        size += len(payload) if isinstance(payload, bytes) else 0
        if size > limit and index > start:
            yield rows[start:index]
            start, size = index, len(payload) if isinstance(payload, bytes) else 0
    if rows:
        yield rows[start:]
