"""psycopg 3's own connections as transactions, plain and asynchronous."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary, proxy

from outbox.errors import NotInTransaction
from outbox.transactions.autocommit import ACTIVE, psycopg_commits
from outbox.transactions.cursors import IdleCursor
from outbox.transactions.positional import positional_query

if TYPE_CHECKING:
    import psycopg

    from outbox.transactions.opening import (
        AsyncTransaction,
        Dialect,
        Parameters,
        Statement,
        Transaction,
    )

C = TypeVar("C", bound="psycopg.Connection[Any] | psycopg.AsyncConnection[Any]")


def open_psycopg(
    connection: psycopg.Connection[Any], _: Mapping[str, object] | None
) -> Transaction:
    """Return the transaction that is open on a connection, or raise NotInTransaction."""
    # Within a transaction, as nearly always, its state is all there is to ask.
    if connection.pgconn.transaction_status <= ACTIVE and psycopg_commits(connection):
        if connection.pgconn.transaction_status == ACTIVE:
            with connection.pipeline():  # wait for the answers: only then the state is known
                pass
        if psycopg_commits(connection):
            raise NotInTransaction(_PSYCOPG_AUTOCOMMIT.format("with"))
    psycopg = sys.modules["psycopg"]
    # Only psycopg's own classes: others may want to see each cursor, as instrumentors do.
    if type(connection) is psycopg.Connection and connection.cursor_factory is psycopg.Cursor:
        return _KEPT.get(connection) or _keep(connection)
    return _PsycopgTransaction(connection)


_PSYCOPG_AUTOCOMMIT = (
    "the connection is in autocommit and no transaction is open, so the row would be committed "
    "on its own; nothing was written. Open one: `{} connection.transaction():`"
)


async def open_async_psycopg(
    connection: psycopg.AsyncConnection[Any], _: Mapping[str, object] | None
) -> AsyncTransaction:
    """Do what `open_psycopg` does, for an AsyncConnection."""
    if psycopg_commits(connection):
        if connection.pgconn.transaction_status == ACTIVE:
            async with connection.pipeline():  # as above
                pass
        if psycopg_commits(connection):
            raise NotInTransaction(_PSYCOPG_AUTOCOMMIT.format("async with"))
    psycopg = sys.modules["psycopg"]
    plain = type(connection) is psycopg.AsyncConnection
    if plain and connection.cursor_factory is psycopg.AsyncCursor:  # as above
        return _KEPT_ASYNC.get(connection) or _keep_async(connection)
    return _AsyncPsycopgTransaction(connection)


class _Opened(Generic[C]):
    dialect: Dialect = "postgresql"

    def __init__(self, connection: C) -> None:
        self._connection = connection
        factory: type = connection.cursor_factory
        self._raw = _is_raw(factory)

    @property
    def database(self) -> object:
        pgconn = self._connection.pgconn
        return ("psycopg", pgconn.host, pgconn.port, pgconn.db)


class _PsycopgTransaction(_Opened["psycopg.Connection[Any]"]):
    def row(self, statement: Statement) -> tuple[Any, ...] | None:
        import psycopg
        from psycopg.rows import tuple_row

        query, _ = _psycopg_query(statement.postgresql)
        with psycopg.Cursor(self._connection, row_factory=tuple_row) as cursor:
            return cursor.execute(query).fetchone()

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        query, values = _psycopg_query(statement.postgresql)
        runner = self._cursor() if self._raw else self._connection
        cursor = runner.execute(query, values(parameters))
        if cursor.rowcount < 0:  # in a pipeline the answer comes later, and with it any error
            with self._connection.pipeline():
                pass
        return cursor.rowcount

    def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        query, values = _psycopg_query(statement.postgresql)
        with self._cursor() as cursor:
            cursor.executemany(query, map(values, rows))

    def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        from psycopg.rows import tuple_row

        query, values = _psycopg_query(statement.postgresql)
        with self._cursor() as cursor:
            cursor.row_factory = tuple_row
            return cursor.execute(query, values(parameters)).fetchall()

    def _cursor(self) -> psycopg.Cursor[Any]:
        import psycopg

        return psycopg.Cursor(self._connection) if self._raw else self._connection.cursor()


class _PlainTransaction(_PsycopgTransaction):
    """Serves all calls on a connection of psycopg's own class, which it knows by a proxy."""

    database: object = None

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        import psycopg
        from psycopg.rows import tuple_row

        super().__init__(connection)
        self.database = super().database
        # connection.cursor() would know the connection itself, and so keep it alive.
        self._idle = IdleCursor(
            connection, lambda: psycopg.Cursor(connection, row_factory=tuple_row)
        )

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        query, values_of = _psycopg_query(statement.postgresql)
        values = values_of(parameters)
        cursor, may_stay = self._idle.take(values)
        cursor.execute(query, values)
        if cursor.rowcount < 0:
            with self._connection.pipeline():
                pass
        count = cursor.rowcount
        if may_stay:
            self._idle.put_back(cursor)
        return count


class _AsyncPsycopgTransaction(_Opened["psycopg.AsyncConnection[Any]"]):
    async def row(self, statement: Statement) -> tuple[Any, ...] | None:
        import psycopg
        from psycopg.rows import tuple_row

        query, _ = _psycopg_query(statement.postgresql)
        async with psycopg.AsyncCursor(self._connection, row_factory=tuple_row) as cursor:
            return await (await cursor.execute(query)).fetchone()

    async def execute(self, statement: Statement, parameters: Parameters) -> int:
        query, values = _psycopg_query(statement.postgresql)
        runner = self._cursor() if self._raw else self._connection
        cursor = await runner.execute(query, values(parameters))
        if cursor.rowcount < 0:
            async with self._connection.pipeline():
                pass
        return cursor.rowcount

    async def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        query, values = _psycopg_query(statement.postgresql)
        async with self._cursor() as cursor:
            await cursor.executemany(query, map(values, rows))

    async def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        from psycopg.rows import tuple_row

        query, values = _psycopg_query(statement.postgresql)
        async with self._cursor() as cursor:
            cursor.row_factory = tuple_row
            return await (await cursor.execute(query, values(parameters))).fetchall()

    def _cursor(self) -> psycopg.AsyncCursor[Any]:
        import psycopg

        return psycopg.AsyncCursor(self._connection) if self._raw else self._connection.cursor()


class _PlainAsyncTransaction(_AsyncPsycopgTransaction):
    """The same for asyncio."""

    database: object = None

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        import psycopg
        from psycopg.rows import tuple_row

        super().__init__(connection)
        self.database = super().database
        self._idle = IdleCursor(
            connection, lambda: psycopg.AsyncCursor(connection, row_factory=tuple_row)
        )

    async def execute(self, statement: Statement, parameters: Parameters) -> int:
        query, values_of = _psycopg_query(statement.postgresql)
        values = values_of(parameters)
        cursor, may_stay = self._idle.take(values)
        await cursor.execute(query, values)
        if cursor.rowcount < 0:
            async with self._connection.pipeline():
                pass
        count = cursor.rowcount
        if may_stay:
            self._idle.put_back(cursor)
        return count


#: The transactions of plain connections.
_KEPT: WeakKeyDictionary[object, _PlainTransaction] = WeakKeyDictionary()
_KEPT_ASYNC: WeakKeyDictionary[object, _PlainAsyncTransaction] = WeakKeyDictionary()


def _keep(connection: psycopg.Connection[Any]) -> _PlainTransaction:
    kept = _KEPT[connection] = _PlainTransaction(proxy(connection))
    return kept


def _keep_async(connection: psycopg.AsyncConnection[Any]) -> _PlainAsyncTransaction:
    kept = _KEPT_ASYNC[connection] = _PlainAsyncTransaction(proxy(connection))
    return kept


@lru_cache
def _is_raw(cursor_factory: type) -> bool:
    # Raw cursors want $1 for %s. psycopg has had them since 3.2.
    return any(base.__name__ == "RawCursorMixin" for base in cursor_factory.__mro__)


@lru_cache(maxsize=1024)
def _psycopg_query(sql: str) -> tuple[bytes, Callable[[Parameters], tuple[object, ...]]]:
    query, values = positional_query(sql)
    return query.encode(), values
