"""The caller's transaction, whatever object it came in, and SQL as a value.

`open_transaction` and `open_async_transaction` recognise what the caller passed without importing
its library, refuse what the database would commit on its own, and give back an object that runs
a `Statement`. Nothing here commits, rolls back or closes what belongs to the caller.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from outbox.errors import ConfigurationError, NotInTransaction
from outbox.transactions.autocommit import commits_on_its_own, sqlite_commits
from outbox.transactions.binds import bind_arguments_for
from outbox.transactions.psycopg import open_async_psycopg, open_psycopg
from outbox.transactions.refusals import refusal

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import Connection, TextClause
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

Dialect: TypeAlias = Literal["postgresql", "sqlite"]
Parameters: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL as a value, one text a dialect, with parameters as `:name`.

    Each driver's own notation is made once and cached by the text. So the text must be one of a
    few, without values in it; it must not hold `:word` inside a literal (`::type` is fine). Cast
    whatever is neither text nor bytea (`cast(:id as uuid)`) and pass it as text: then drivers that
    declare types (asyncpg) and drivers that don't agree.
    """

    postgresql: str
    sqlite: str


class Transaction(Protocol):
    """The caller's transaction as `open_transaction` gives it; not to be used beyond the call."""

    dialect: Dialect

    @property
    def database(self) -> object:
        """Return what tells this database from others within a process: an engine, or a tuple.

        None: where nothing but the caller's own statements should run.
        """

    def row(self, statement: Statement) -> tuple[Any, ...] | None:
        """Run a query without parameters, return its first row."""

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        """Run the statement, return its row count; the driver's errors pass through."""

    def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        """Run the statement once for each of `rows`, in order."""

    def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Run the statement, return all of its rows; the driver's errors pass through."""


class AsyncTransaction(Protocol):
    """The same for asyncio; made by `open_async_transaction`."""

    dialect: Dialect

    @property
    def database(self) -> object:
        """Return what tells this database from others within a process: an engine, or a tuple.

        None: where nothing but the caller's own statements should run.
        """

    async def row(self, statement: Statement) -> tuple[Any, ...] | None:
        """Run a query without parameters, return its first row."""

    async def execute(self, statement: Statement, parameters: Parameters) -> int:
        """Run the statement, return its row count; the driver's errors pass through."""

    async def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        """Run the statement once for each of `rows`, in order."""

    async def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Run the statement, return all of its rows; the driver's errors pass through."""


def open_transaction(
    transaction: object, *, verb: str = "add", bind_arguments: Mapping[str, object] | None = None
) -> Transaction:
    """Recognise the caller's transaction; a Session is flushed, so that its changes come first.

    `verb` is the name of the public method, for the message of the TypeError. Raises TypeError for
    any other object, NotInTransaction, and ConfigurationError (several databases, another dialect).
    """
    cls: type = transaction.__class__  # as in kind_of
    opener = _opener_of(cls)
    if opener is None:
        raise TypeError(refusal(transaction, verb, wanted="sync"))
    return opener(transaction, bind_arguments)


async def open_async_transaction(
    transaction: object,
    *,
    verb: str = "add_async",
    bind_arguments: Mapping[str, object] | None = None,
) -> AsyncTransaction:
    """Do what `open_transaction` does, for an AsyncSession or an asynchronous connection."""
    check_asynchronous(transaction, verb)
    opener = _ASYNC_OPENERS[kind_of(transaction)]
    opened: AsyncTransaction = await opener(transaction, bind_arguments)
    return opened


def check_asynchronous(transaction: object, verb: str = "add_async") -> None:
    """Raise the TypeError of `open_async_transaction` without waiting for anything."""
    if kind_of(transaction) not in _ASYNC_OPENERS:
        raise TypeError(refusal(transaction, verb, wanted="async"))


#: Where each class lives. A class whose module is not loaded cannot be what the caller passed.
_KINDS = (
    ("sqlalchemy.orm", "Session"),
    ("sqlalchemy.orm", "scoped_session"),
    ("sqlalchemy", "Connection"),
    ("sqlalchemy.ext.asyncio", "AsyncSession"),
    ("sqlalchemy.ext.asyncio", "async_scoped_session"),
    ("sqlalchemy.ext.asyncio", "AsyncConnection"),
    ("psycopg", "Connection"),
    ("psycopg", "AsyncConnection"),
    ("sqlite3", "Connection"),
    ("django.db.backends.base.base", "BaseDatabaseWrapper"),
    ("django.utils.connection", "ConnectionProxy"),
)


def kind_of(transaction: object) -> str:
    """Return which of the supported classes the object is of, as `module.Name`; or ""."""
    cls: type = transaction.__class__  # not type(): a proxy answers for what it stands for
    return _kind_of_class(cls)


@lru_cache
def _kind_of_class(cls: type) -> str:
    for module, name in _KINDS:
        base = getattr(sys.modules.get(module), name, None)
        if base is not None and issubclass(cls, base):
            return f"{module}.{name}"
    return ""


def _open_session(session: Session, bind_arguments: Mapping[str, object] | None) -> Transaction:
    if not session.autobegin and not session.in_transaction():
        raise NotInTransaction(
            "this Session was made with autobegin=False and has not begun; nothing was written. "
            "Call session.begin() first"
        )
    chosen = bind_arguments_for(session, bind_arguments)
    opened = _open_connection(session.connection(bind_arguments=chosen), None)
    # After the check: a flush in AUTOCOMMIT would commit the caller's rows. Inside a flush (an
    # after_flush listener, say) the rows are there already and another flush is an error.
    if not session._flushing:  # noqa: SLF001  there is no public way to ask
        session.flush()
    return opened


def _open_connection(connection: Connection, _: Mapping[str, object] | None) -> Transaction:
    # Executing would begin as well; begin before the check, since a "begin" listener may be what
    # sends BEGIN (the usual recipe for SQLite).
    begun = None if connection.in_transaction() else connection.begin()
    face = connection.connection
    if commits_on_its_own(face.dbapi_connection, face.driver_connection):
        if begun:
            begun.rollback()
        raise NotInTransaction(
            "the connection is in AUTOCOMMIT, where the row would be committed on its own; "
            "nothing was written. Use an engine, or execution_options(isolation_level=…), with a "
            "transactional isolation level such as READ COMMITTED"
        )
    return _SqlalchemyTransaction(connection)


def _open_sqlite(connection: sqlite3.Connection, _: Mapping[str, object] | None) -> Transaction:
    if sqlite_commits(connection):
        raise NotInTransaction(
            "the sqlite3 connection is in autocommit and no transaction is open, so the row "
            "would be committed on its own; nothing was written. "
            'Begin one: connection.execute("BEGIN")'
        )
    return _SqliteTransaction(connection)


def _open_django(connection: Any, binds: Mapping[str, object] | None) -> Transaction:
    from outbox.transactions.django import open_django

    return open_django(connection, binds)


_OPENERS: dict[str, Callable[[Any, Mapping[str, object] | None], Transaction]] = {
    "sqlalchemy.orm.Session": _open_session,
    "sqlalchemy.orm.scoped_session": lambda scoped, binds: _open_session(scoped(), binds),
    "sqlalchemy.Connection": _open_connection,
    "psycopg.Connection": open_psycopg,
    "sqlite3.Connection": _open_sqlite,
    "django.db.backends.base.base.BaseDatabaseWrapper": _open_django,
    "django.utils.connection.ConnectionProxy": _open_django,
}


@lru_cache
def _opener_of(
    cls: type,
) -> Callable[[Any, Mapping[str, object] | None], Transaction] | None:
    return _OPENERS.get(_kind_of_class(cls))


class _SqlalchemyTransaction:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = supported_dialect(connection.dialect.name)

    @property
    def database(self) -> object:
        return self._connection.engine

    def row(self, statement: Statement) -> tuple[Any, ...] | None:
        found = self._connection.execute(_text_clause(getattr(statement, self.dialect))).first()
        return None if found is None else tuple(found)

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        clause = _text_clause(getattr(statement, self.dialect))
        return self._connection.execute(clause, parameters).rowcount

    def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        self._connection.execute(_text_clause(getattr(statement, self.dialect)), rows)

    def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        clause = _text_clause(getattr(statement, self.dialect))
        return [tuple(row) for row in self._connection.execute(clause, parameters)]


class _SqliteTransaction:
    dialect: Dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def database(self) -> object:
        # A connection knows its file only by a query that takes longer than what this is for.
        return ("sqlite", id(self._connection))

    def row(self, statement: Statement) -> tuple[Any, ...] | None:
        cursor = self._connection.cursor()
        cursor.row_factory = None
        found: tuple[Any, ...] | None = cursor.execute(statement.sqlite).fetchone()
        cursor.close()
        return found

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        return self._connection.execute(statement.sqlite, parameters).rowcount

    def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        self._connection.executemany(statement.sqlite, rows)

    def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor()
        cursor.row_factory = None
        found: list[tuple[Any, ...]] = cursor.execute(statement.sqlite, parameters).fetchall()
        cursor.close()
        return found


async def _open_async_session(
    session: AsyncSession, bind_arguments: Mapping[str, object] | None
) -> AsyncTransaction:
    opened = await session.run_sync(_open_session, bind_arguments)
    return _SpawnedTransaction(session, opened)


async def _open_async_connection(
    connection: AsyncConnection, _: Mapping[str, object] | None
) -> AsyncTransaction:
    opened = await connection.run_sync(_open_connection, None)
    return _SpawnedTransaction(connection, opened)


_ASYNC_OPENERS: dict[str, Callable[[Any, Mapping[str, object] | None], Any]] = {
    "sqlalchemy.ext.asyncio.AsyncSession": _open_async_session,
    "sqlalchemy.ext.asyncio.async_scoped_session": (
        lambda scoped, binds: _open_async_session(scoped(), binds)
    ),
    "sqlalchemy.ext.asyncio.AsyncConnection": _open_async_connection,
    "psycopg.AsyncConnection": open_async_psycopg,
}


class _SpawnedTransaction:
    """SQLAlchemy's asyncio: the one synchronous implementation, run in a greenlet."""

    def __init__(self, spawner: AsyncSession | AsyncConnection, opened: Transaction) -> None:
        self._spawner = spawner
        self._opened = opened
        self.dialect = opened.dialect

    @property
    def database(self) -> object:
        return self._opened.database

    async def row(self, statement: Statement) -> tuple[Any, ...] | None:
        return await self._spawner.run_sync(lambda _: self._opened.row(statement))

    async def execute(self, statement: Statement, parameters: Parameters) -> int:
        return await self._spawner.run_sync(lambda _: self._opened.execute(statement, parameters))

    async def execute_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        await self._spawner.run_sync(lambda _: self._opened.execute_many(statement, rows))

    async def rows(self, statement: Statement, parameters: Parameters) -> list[tuple[Any, ...]]:
        return await self._spawner.run_sync(lambda _: self._opened.rows(statement, parameters))


def supported_dialect(dialect: str) -> Dialect:
    """Return it, or raise ConfigurationError for a database this version does not write to."""
    if dialect not in ("postgresql", "sqlite"):
        raise ConfigurationError(
            f"this version writes to PostgreSQL and SQLite, and this connection's dialect is "
            f"{dialect!r}; nothing was written"
        )
    return dialect  # type: ignore[return-value]  # narrowed by the line above


@lru_cache(maxsize=1024)
def _text_clause(sql: str) -> TextClause:
    from sqlalchemy import text

    return text(sql)
