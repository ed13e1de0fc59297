"""Django's connections as transactions: `django.db.connections[alias]`.

Everything goes through Django's own cursor, so that query logging, `execute_wrapper`s, the check
for broken transactions and the one against use within an event loop all stay in force.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from outbox.errors import NotInTransaction
from outbox.transactions.opening import (
    Dialect,
    Parameters,
    Statement,
    Transaction,
    supported_dialect,
)
from outbox.transactions.positional import positional_query


class _Cursor(Protocol):
    """What is used of Django's `CursorWrapper`."""

    rowcount: int

    def execute(self, sql: str, params: Sequence[object] | None = None) -> object: ...

    def executemany(self, sql: str, param_list: Sequence[Sequence[object]]) -> object: ...

    def fetchone(self) -> tuple[Any, ...] | None: ...

    def fetchall(self) -> list[tuple[Any, ...]]: ...


class DjangoConnection(Protocol):
    """What is used of Django's `BaseDatabaseWrapper`, so that Django need not be imported."""

    alias: str
    vendor: str
    in_atomic_block: bool

    def get_autocommit(self) -> bool: ...

    def cursor(self) -> AbstractContextManager[_Cursor]: ...


def open_django(connection: DjangoConnection, _: Mapping[str, object] | None) -> Transaction:
    """Return the transaction that is open on a Django connection, or raise NotInTransaction."""
    if in_testcase_only(connection):
        raise NotInTransaction(
            "only the transaction that TestCase wraps around the test is open: in production the "
            f"row would be committed on its own; nothing was written. {_fix(connection)}, in the "
            "code that is tested and not in the test"
        )
    # In this order: outside `atomic`, asking for autocommit connects, and within an event loop
    # raises SynchronousOnlyOperation.
    if not connection.in_atomic_block and connection.get_autocommit():
        raise NotInTransaction(
            f"no transaction is open on the database {connection.alias!r}, so the row would be "
            f"committed on its own; nothing was written. {_fix(connection)} around the change "
            "and the message"
        )
    return _DjangoTransaction(connection)


def in_testcase_only(connection: object) -> bool:
    """Say whether all open `atomic` blocks are those with which TestCase isolates tests."""
    blocks: list[Any] = getattr(connection, "atomic_blocks", [])
    return bool(blocks) and all(getattr(block, "_from_testcase", False) for block in blocks)


def _fix(connection: DjangoConnection) -> str:
    using = "" if connection.alias == "default" else f"using={connection.alias!r}"
    return f"Open one: `with transaction.atomic({using}):`"


class _DjangoTransaction:
    def __init__(self, connection: DjangoConnection) -> None:
        self._connection = connection
        self.dialect: Dialect = supported_dialect(connection.vendor)

    @property
    def database(self) -> object:
        # In tests what is asked now and then would be among the queries that are counted there.
        if hasattr(sys.modules.get("django.core.mail"), "outbox"):
            return None
        return ("django", self._connection.alias)

    def row(self, statement: Statement) -> tuple[Any, ...] | None:
        query, _ = self._query(statement)
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        query, values = self._query(statement)
        with self._connection.cursor() as cursor:
            cursor.execute(query, values(parameters))
            return cursor.rowcount

    def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        query, values = self._query(statement)
        with self._connection.cursor() as cursor:
            cursor.executemany(query, [values(row) for row in rows])

    def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        query, values = self._query(statement)
        with self._connection.cursor() as cursor:
            cursor.execute(query, values(parameters))
            return list(cursor.fetchall())

    def _query(self, statement: Statement) -> tuple[str, Callable[[Parameters], tuple[Any, ...]]]:
        return positional_query(cast("str", getattr(statement, self.dialect)))
