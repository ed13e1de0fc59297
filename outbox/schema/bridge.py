"""SQLAlchemy's connection, for code that was written for psycopg's and sqlite3's.

So the tables are recognised and checked by the same functions whoever connects: psycopg, psycopg2,
asyncpg, sqlite3, aiosqlite.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import text

from outbox.schema import postgresql

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    import psycopg
    from sqlalchemy import Connection, CursorResult, TextClause

    from outbox.schema.postgresql import Values


class Rows(list[tuple[Any, ...]]):
    """All rows of a result, as a cursor gives them.

    Read at once: an open cursor keeps SQLite from dropping the table.
    """

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the first row, None if there is none."""
        return self[0] if self else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows."""
        return self


class Bridge:
    """Has of a driver's connection what `outbox.schema` uses."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Values = None) -> Rows:
        """Run a statement with values, or several without."""
        if values is None:
            return [self._run(statement) for statement in self._statements(sql)][-1]
        if self._connection.dialect.name == "sqlite":
            return _rows(self._connection.exec_driver_sql(sql, tuple(cast("Any", values))))
        return _rows(self._connection.execute(*_named(sql, values)))

    def _statements(self, sql: str) -> list[str]:
        return [sql] if self._connection.dialect.name == "sqlite" else postgresql.statements(sql)

    def _run(self, statement: str) -> Rows:
        # Without parameters, or drivers take the % of our SQL for theirs.
        return _rows(
            self._connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        )

    @contextmanager
    def transaction(self, *, force_rollback: bool = False) -> Iterator[None]:
        """Run a block in a savepoint."""
        with self._connection.begin_nested() as savepoint:
            yield
            if force_rollback:
                savepoint.rollback()


def as_psycopg(connection: Connection) -> psycopg.Connection:
    """Return the connection for what takes psycopg's."""
    return cast("psycopg.Connection", Bridge(connection))


def as_sqlite3(connection: Connection) -> sqlite3.Connection:
    """Return the connection for what takes sqlite3's."""
    return cast("sqlite3.Connection", Bridge(connection))


def _rows(result: CursorResult[Any]) -> Rows:
    return Rows(tuple(row) for row in result) if result.returns_rows else Rows()


def _named(sql: str, values: Values) -> tuple[TextClause, dict[str, object]]:
    """Return the statement with SQLAlchemy's placeholders instead of psycopg's."""
    if isinstance(values, Mapping):
        given = dict(values)
    else:
        given = {f"value_{n}": value for n, value in enumerate(cast("Sequence[object]", values))}
    unnamed = iter(given)
    escaped = sql.replace(":", r"\:")
    return text(_PLACEHOLDER.sub(lambda found: _placeholder(found, unnamed), escaped)), given


_PLACEHOLDER = re.compile(r"%(?:%|s|\((\w+)\)s)")


def _placeholder(found: re.Match[str], unnamed: Iterator[str]) -> str:
    if found[0] == "%%":
        return "%"
    return ":" + (found[1] or next(unnamed))
