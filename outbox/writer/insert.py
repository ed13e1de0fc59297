"""The SQL a writer runs. It names only columns a writer may set, and uses no RETURNING.

Both keep a role sufficient that has INSERT on these columns and USAGE on the sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from outbox.names import Names
from outbox.transactions.opening import AsyncTransaction, Statement, Transaction
from outbox.transactions.sql_errors import Advice, raise_explained

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

#: One statement of `add_all` carries at most this much: it is held in memory several times over.
CHUNK_BYTES = 8 * 1024 * 1024

#: Held until the caller's transaction ends. The key alone is hashed, whatever the topic.
LOCK = Statement(
    postgresql="select pg_advisory_xact_lock(hashtextextended(k, 0)) "
    "from unnest(cast(cast(:keys as text) as text[])) as keys (k)",
    sqlite="",  # one writer at a time: nothing to lock
)


ADVICE = Advice(
    migrate="Run `outbox-relay migrate` on the database that this transaction belongs to, or tell "
    "the Outbox where its tables are: schema=, table_prefix=",
    grant="Grant what a writer needs: `outbox-relay migrate --writer-role ROLE`",
)


class Insert:
    """The statements for one log, each rendered once."""

    def __init__(self, names: Names) -> None:
        self._table = names["outbox_message"]
        self._one: dict[tuple[str, ...], Statement] = {}
        self._many: dict[tuple[str, ...], Statement] = {}

    def one(self, columns: tuple[str, ...]) -> Statement:
        """Return the INSERT of one row with these columns, as parameters of the same names."""
        # A race makes the same statement twice, which is harmless.
        found = self._one.get(columns)
        if found is None:
            found = self._one[columns] = _insert_one(self._table, columns)
        return found

    def many(self, columns: tuple[str, ...]) -> Statement:
        """Return the INSERT of many rows: on PostgreSQL one array a column (see `array`).

        On SQLite it is that of one row, to be executed for each.
        """
        found = self._many.get(columns)
        if found is None:
            found = self._many[columns] = _insert_many(self._table, columns)
        return found


def _insert_one(table: str, columns: tuple[str, ...]) -> Statement:
    head = f"insert into {table} ({', '.join(columns)}) values "
    typed = ", ".join(_cast(column, f":{column}") for column in columns)
    plain = ", ".join(f":{column}" for column in columns)
    return Statement(postgresql=f"{head}({typed})", sqlite=f"{head}({plain})")


def _insert_many(table: str, columns: tuple[str, ...]) -> Statement:
    listed = ", ".join(columns)
    # The arrays come as text: drivers agree on that alone, and one builds no list faster.
    arrays = ", ".join(f"cast(cast(:{name} as text) as {COLUMNS[name]}[])" for name in columns)
    return Statement(
        # With ordinality, so that seq follows the order of the list.
        postgresql=f"insert into {table} ({listed}) select {listed} from unnest({arrays}) "
        f"with ordinality as m ({listed}, n) order by n",
        sqlite=_insert_one(table, columns).sqlite,
    )


def _cast(column: str, value: str) -> str:
    kind = COLUMNS[column]
    return value if kind in ("text", "bytea") else f"cast({value} as {kind})"


def write_one(transaction: Transaction, insert: Insert, row: Row) -> None:
    """Insert one row; columns that are not in it get their defaults."""
    try:
        transaction.execute(insert.one(tuple(row)), row)
    except Exception as error:
        raise_explained(error, ADVICE)
        raise


def write_many(transaction: Transaction, insert: Insert, rows: Sequence[Row]) -> None:
    """Insert the rows in their order, on PostgreSQL in one round trip."""
    columns = _columns(rows)
    statement = insert.many(columns)
    try:
        for chunk in chunks(rows):
            if transaction.dialect == "postgresql":
                transaction.execute(statement, _arrays(chunk, columns))
            else:
                transaction.execute_many(statement, _filled(chunk, columns))
    except Exception as error:
        raise_explained(error, ADVICE)
        raise


async def write_many_async(
    transaction: AsyncTransaction, insert: Insert, rows: Sequence[Row]
) -> None:
    """Do the same for asyncio."""
    columns = _columns(rows)
    statement = insert.many(columns)
    try:
        for chunk in chunks(rows):
            if transaction.dialect == "postgresql":
                await transaction.execute(statement, _arrays(chunk, columns))
            else:
                await transaction.execute_many(statement, _filled(chunk, columns))
    except Exception as error:
        raise_explained(error, ADVICE)
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
    return {"keys": array(wanted)} if wanted and dialect == "postgresql" else None


def _columns(rows: Iterable[Row]) -> tuple[str, ...]:
    used: set[str] = {"topic"}.union(*rows)
    return tuple(column for column in COLUMNS if column in used)


def _arrays(rows: Sequence[Row], columns: Sequence[str]) -> Row:
    return {column: array([row.get(column) for row in rows]) for column in columns}


def _filled(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    return [{column: row.get(column) for column in columns} for row in rows]


def array(values: Iterable[object]) -> str:
    """Return PostgreSQL's text of a one-dimensional array of texts, or of bytes; None is NULL."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    text = str(value)
    if '"' in text or "\\" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def chunks(rows: Sequence[Row], limit: int = CHUNK_BYTES) -> Iterator[Sequence[Row]]:
    """Cut the rows into runs whose payloads have at most `limit` bytes together, or one row."""
    start = size = 0
    for index, row in enumerate(rows):
        payload = row.get("payload")
        length = len(payload) if isinstance(payload, bytes) else 0
        if size + length > limit and index > start:
            yield rows[start:index]
            start, size = index, 0
        size += length
    if rows:
        yield rows[start:]
