"""psycopg 3's own connections as transactions, plain and asynchronous."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary, proxy

from outbox.errors import NotInTransaction
from outbox.transactions.autocommit import ACTIVE, psycopg_commits
from outbox.transactions.cursors import Cursors, IdleCursor
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
    if psycopg_commits(connection):
        if connection.pgconn.transaction_status == ACTIVE:
            with connection.pipeline():  # wait for the answers: only then the state is known
                pass
        if psycopg_commits(connection):
            raise NotInTransaction(_PSYCOPG_AUTOCOMMIT.format("with"))
    psycopg = sys.modules["psycopg"]
    # Only psycopg's own classes: others may want to see each cursor, as instrumentors do.
    if type(connection) is psycopg.Connection and connection.cursor_factory is psycopg.Cursor:
        kept: _PsycopgTransaction | None = _KEPT.get(connection)
        return kept or _keep(_PsycopgTransaction, psycopg.Cursor, connection)
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
        kept: _AsyncPsycopgTransaction | None = _KEPT.get(connection)
        return kept or _keep(_AsyncPsycopgTransaction, psycopg.AsyncCursor, connection)
    return _AsyncPsycopgTransaction(connection)


class _Opened(Generic[C]):
    dialect: Dialect = "postgresql"

    #: What psycopg calls the cursors of such a connection.
    _cursors_are: ClassVar[str]

    def __init__(self, connection: C, cursors: Cursors | None = None) -> None:
        self._connection = connection
        cursor = self._cursor_class = getattr(sys.modules["psycopg"], self._cursors_are)
        factory: type = connection.cursor_factory
        raw = self._raw = _is_raw(factory)
        # Without `self`: a cycle would keep the connection until the collector comes by.
        self._cursors = cursors or Cursors(lambda: cursor(connection) if raw else connection)
        pgconn = connection.pgconn
        self.database: object = ("psycopg", pgconn.host, pgconn.port, pgconn.db)

    def _cursor(self) -> Any:
        return self._cursor_class(self._connection) if self._raw else self._connection.cursor()


class _PsycopgTransaction(_Opened["psycopg.Connection[Any]"]):
    _cursors_are = "Cursor"

    def row(self, statement: Statement) -> tuple[Any, ...] | None:
        import psycopg
        from psycopg.rows import tuple_row

        query, _ = _psycopg_query(statement.postgresql)
        with psycopg.Cursor(self._connection, row_factory=tuple_row) as cursor:
            return cursor.execute(query).fetchone()

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        query, values_of = _psycopg_query(statement.postgresql)
        values = values_of(parameters)
        runner, may_stay = self._cursors.take(values)
        cursor = runner.execute(query, values)
        if cursor.rowcount < 0:  # in a pipeline the answer comes later, and with it any error
            with self._connection.pipeline():
                pass
        count: int = cursor.rowcount
        if may_stay:
            self._cursors.put_back(cursor)
        return count

    def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        query, values = _psycopg_query(statement.postgresql)
        with self._cursor() as cursor:
            cursor.executemany(query, map(values, rows))

    def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        from psycopg.rows import tuple_row

        query, values = _psycopg_query(statement.postgresql)
        with self._cursor() as cursor:
            cursor.row_factory = tuple_row
            found: list[tuple[Any, ...]] = cursor.execute(query, values(parameters)).fetchall()
            return found


class _AsyncPsycopgTransaction(_Opened["psycopg.AsyncConnection[Any]"]):
    _cursors_are = "AsyncCursor"

    async def row(self, statement: Statement) -> tuple[Any, ...] | None:
        import psycopg
        from psycopg.rows import tuple_row

        query, _ = _psycopg_query(statement.postgresql)
        async with psycopg.AsyncCursor(self._connection, row_factory=tuple_row) as cursor:
            return await (await cursor.execute(query)).fetchone()

    async def execute(self, statement: Statement, parameters: Parameters) -> int:
        query, values_of = _psycopg_query(statement.postgresql)
        values = values_of(parameters)
        runner, may_stay = self._cursors.take(values)
        cursor = await runner.execute(query, values)
        if cursor.rowcount < 0:
            async with self._connection.pipeline():
                pass
        count: int = cursor.rowcount
        if may_stay:
            self._cursors.put_back(cursor)
        return count

    async def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        query, values = _psycopg_query(statement.postgresql)
        async with self._cursor() as cursor:
            await cursor.executemany(query, map(values, rows))

    async def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        from psycopg.rows import tuple_row

        query, values = _psycopg_query(statement.postgresql)
        async with self._cursor() as cursor:
            cursor.row_factory = tuple_row
            done = await cursor.execute(query, values(parameters))
            found: list[tuple[Any, ...]] = await done.fetchall()
            return found


T = TypeVar("T", _PsycopgTransaction, _AsyncPsycopgTransaction)

#: The transactions of plain connections: each serves all calls on its connection.
_KEPT: WeakKeyDictionary[object, Any] = WeakKeyDictionary()


def _keep(kind: type[T], cursor: type, connection: Any) -> T:
    """Return a transaction that keeps its cursor. Both know their connection by a proxy: what is
    kept for it must not keep it alive."""
    from psycopg.rows import tuple_row

    known: Any = proxy(connection)
    idle = IdleCursor(known, lambda: cursor(known, row_factory=tuple_row))
    kept = _KEPT[connection] = kind(known, idle)
    return kept


@lru_cache
def _is_raw(cursor_factory: type) -> bool:
    # Raw cursors want $1 for %s. psycopg has had them since 3.2.
    return any(base.__name__ == "RawCursorMixin" for base in cursor_factory.__mro__)


@lru_cache(maxsize=1024)
def _psycopg_query(sql: str) -> tuple[bytes, Callable[[Parameters], tuple[object, ...]]]:
    query, values = positional_query(sql)
    return query.encode(), values
