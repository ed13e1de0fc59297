"""The SQL a writer runs. It names only columns a writer may set, and uses no RETURNING.

Both keep a role sufficient that has INSERT on these columns and USAGE on the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

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
    "expires_at": "timestamptz",
}

#: What makes a row one of `outbox_scheduled`, with PostgreSQL's types. Like `expires_at`,
#: `deliver_at` is a text of 32 characters, in UTC and with microseconds; `delay` is in seconds.
TIMING = {"deliver_at": "timestamptz", "delay": "float8", "wait_for": "text"}

_TYPES = COLUMNS | TIMING

#: Of SQLite: seconds since 1970.
_NOW = "(julianday('now') - 2440587.5) * 86400.0"

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
    """The statements for one log, each rendered once.

    Columns of TIMING make the row one of `outbox_scheduled`.
    """

    def __init__(self, names: Names) -> None:
        self._log = names["outbox_message"]
        self._scheduled = names["outbox_scheduled"]
        self._one: dict[tuple[str, ...], Statement] = {}
        self._many: dict[tuple[str, ...], Statement] = {}

    def one(self, columns: tuple[str, ...]) -> Statement:
        """Return the INSERT of one row with these columns, as parameters of the same names."""
        # A race makes the same statement twice, which is harmless.
        found = self._one.get(columns)
        if found is None:
            found = self._one[columns] = _insert_one(self._table(columns), columns)
        return found

    def many(self, columns: tuple[str, ...]) -> Statement:
        """Return the INSERT of many rows: on PostgreSQL one array a column (see `array`).

        On SQLite it is that of one row, to be executed for each.
        """
        found = self._many.get(columns)
        if found is None:
            found = self._many[columns] = _insert_many(self._table(columns), columns)
        return found

    def _table(self, columns: tuple[str, ...]) -> str:
        return self._log if TIMING.keys().isdisjoint(columns) else self._scheduled


def _insert_one(table: str, columns: tuple[str, ...]) -> Statement:
    typed = _targets(columns, lambda column: _cast(column, f":{column}"), _due_postgresql)
    plain = _targets(columns, _plain, _due_sqlite)
    head = f"insert into {table} ({', '.join(typed)}) values "
    return Statement(
        postgresql=f"{head}({', '.join(typed.values())})",
        sqlite=f"{head}({', '.join(plain.values())})",
    )


def _insert_many(table: str, columns: tuple[str, ...]) -> Statement:
    listed = ", ".join(columns)
    # The arrays come as text: drivers agree on that alone, and one builds no list faster.
    arrays = ", ".join(f"cast(cast(:{name} as text) as {_TYPES[name]}[])" for name in columns)
    targets = _targets(columns, str, _due_postgresql)
    return Statement(
        # With ordinality, so that seq follows the order of the list.
        postgresql=f"insert into {table} ({', '.join(targets)}) "
        f"select {', '.join(targets.values())} from unnest({arrays}) "
        f"with ordinality as m ({listed}, n) order by n",
        sqlite=_insert_one(table, columns).sqlite,
    )


def _targets(
    columns: tuple[str, ...], value: Callable[[str], str], due: Callable[[str, str], str]
) -> dict[str, str]:
    """Return each column of the table with the SQL of its value."""
    targets = {column: value(column) for column in columns if column not in ("deliver_at", "delay")}
    times = [due(column, value(column)) for column in ("deliver_at", "delay") if column in columns]
    if times:
        targets["due_at"] = times[0] if len(times) == 1 else f"coalesce({', '.join(times)})"
    return targets


def _due_postgresql(column: str, value: str) -> str:
    return (
        value if column == "deliver_at" else f"clock_timestamp() + make_interval(secs => {value})"
    )


def _plain(column: str) -> str:
    return _moment_sqlite(":expires_at") if column == "expires_at" else f":{column}"


def _due_sqlite(column: str, value: str) -> str:
    if column == "delay":
        return f"{_NOW} + cast({value} as real)"
    return _moment_sqlite(value)


def _moment_sqlite(value: str) -> str:
    # SQLite's own reading of a time ends with milliseconds, and rounds.
    seconds = f"cast(strftime('%s', substr({value}, 1, 19)) as real)"
    return f"{seconds} + cast('0' || substr({value}, 20, 7) as real)"


def _cast(column: str, value: str) -> str:
    kind = _TYPES[column]
    return value if kind in ("text", "bytea") else f"cast({value} as {kind})"


def write_one(transaction: Transaction, insert: Insert, row: Row) -> None:
    """Insert one row; columns that are not in it get their defaults."""
    try:
        transaction.execute(insert.one(tuple(row)), row)
    except Exception as error:
        raise_explained(error, ADVICE)
        raise


def write_many(transaction: Transaction, insert: Insert, rows: Sequence[Row]) -> None:
    """Insert the rows in their order, on PostgreSQL in one round trip a table."""
    try:
        for part in _by_table(rows):
            columns = _columns(part)
            statement = insert.many(columns)
            for chunk in chunks(part):
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
    try:
        for part in _by_table(rows):
            columns = _columns(part)
            statement = insert.many(columns)
            for chunk in chunks(part):
                if transaction.dialect == "postgresql":
                    await transaction.execute(statement, _arrays(chunk, columns))
                else:
                    await transaction.execute_many(statement, _filled(chunk, columns))
    except Exception as error:
        raise_explained(error, ADVICE)
        raise


def _by_table(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Return the rows of the log, and those that wait for a time or a condition."""
    waiting = [row for row in rows if not TIMING.keys().isdisjoint(row)]
    if not waiting:
        return [rows]
    return [[row for row in rows if TIMING.keys().isdisjoint(row)], waiting]


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
    return tuple(column for column in _TYPES if column in used)


def _arrays(rows: Sequence[Row], columns: Sequence[str]) -> Row:
    return {column: array([row.get(column) for row in rows]) for column in columns}


def _filled(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    return [{column: row.get(column) for column in columns} for row in rows]


def array(values: Iterable[object]) -> str:
    """Return PostgreSQL's text of a one-dimensional array of texts, or of bytes; None is NULL."""
    listed = list(values)
    simple = _array_of_simple(listed)
    return "{" + ",".join(map(_element, listed)) + "}" if simple is None else simple


def _array_of_simple(values: list[Any]) -> str | None:
    """Return the array of texts without quotes and backslashes, or of bytes; None for any other.

    Most columns are one of these, and this takes a fourth of the time.
    """
    kinds = set(map(type, values))
    if kinds == {bytes}:
        return '{"\\\\x' + '","\\\\x'.join(map(bytes.hex, values)) + '"}'
    if kinds != {str}:
        return None
    joined = '","'.join(values)
    quotes = 2 * (len(values) - 1)
    return None if "\\" in joined or joined.count('"') != quotes else f'{{"{joined}"}}'


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
