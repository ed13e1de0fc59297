"""Rows of the log, read through whatever the test has in its hand.

Through the caller's own connection, so that what is not committed is seen, and what was rolled
back is not. Reading leaves no trace: where no transaction was open, none is open afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from outbox.database import DatabaseUrl, connect_postgresql, connect_sqlite
from outbox.names import Names
from outbox.transactions.autocommit import IDLE
from outbox.transactions.binds import bind_arguments_for
from outbox.transactions.opening import Dialect, kind_of
from outbox.transactions.refusals import refusal
from outbox.transactions.sql_errors import raise_explained
from outbox.writer.insert import ADVICE

if TYPE_CHECKING:
    import sqlite3

    import psycopg
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

Rows: TypeAlias = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Query:
    """A select, one text a dialect; `:after` in it is the number of the last row not wanted."""

    postgresql: str
    sqlite: str
    after: int = 0

    def text(self, dialect: Dialect) -> str:
        """Return the SQL for SQLAlchemy and sqlite3."""
        return self.postgresql if dialect == "postgresql" else self.sqlite

    def with_percent(self, dialect: Dialect) -> str:
        """Return the SQL for psycopg and Django."""
        return self.text(dialect).replace(":after", "%(after)s")

    @property
    def values(self) -> dict[str, object]:
        """Return the values of the parameters."""
        return {"after": self.after} if ":after" in self.sqlite else {}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the log is read: a transaction, a connection, an engine or a URL, and table names."""

    origin: object
    names: Names
    bind_arguments: Mapping[str, object] | None = None

    @property
    def is_committed_only(self) -> bool:
        """Return whether this stands for a database, and not for one transaction in it."""
        return source_kind(self.origin) in ("url", "Engine", "AsyncEngine")

    def read(self, query: Query, verb: str) -> Rows:
        """Return the rows; `verb` is the public function, for the words of a TypeError."""
        reader = _READERS.get(source_kind(self.origin))
        if reader is None:
            raise TypeError(_refusal(self.origin, verb, asynchronous=False))
        try:
            return reader(self.origin, query, self.bind_arguments)
        except Exception as error:
            raise_explained(error, ADVICE)
            raise

    async def read_async(self, query: Query, verb: str) -> Rows:
        """Do the same for asyncio."""
        reader = _ASYNC_READERS.get(source_kind(self.origin))
        if reader is None:
            raise TypeError(_refusal(self.origin, verb, asynchronous=True))
        try:
            return cast("Rows", await reader(self.origin, query, self.bind_arguments))
        except Exception as error:
            raise_explained(error, ADVICE)
            raise


def source_kind(origin: object) -> str:
    """Return what this is: a kind of `kind_of`, "url", "Engine", "AsyncEngine"; or ""."""
    if isinstance(origin, DatabaseUrl):
        return "url"
    if isinstance(origin, str):
        # A plain word is a topic whose transaction was forgotten.
        return "url" if "://" in origin or "=" in origin else ""
    names = {f"{base.__module__}.{base.__name__}" for base in origin.__class__.__mro__}
    for name in ("sqlalchemy.engine.base.Engine", "sqlalchemy.ext.asyncio.engine.AsyncEngine"):
        if name in names:
            return name.rpartition(".")[2]
    return "url" if "sqlalchemy.engine.url.URL" in names else kind_of(origin)


def _refusal(origin: object, verb: str, *, asynchronous: bool) -> str:
    sentence = refusal(origin, verb, wanted="async" if asynchronous else "sync")
    if "() needs " not in sentence:
        return sentence
    engine = "an AsyncEngine" if asynchronous else "an Engine"
    return f"{sentence}; for what is committed, {engine} or a URL will do"


def url_of(origin: Any) -> DatabaseUrl:
    """Return the URL of an engine, or of text."""
    if isinstance(origin, DatabaseUrl):
        return origin
    if isinstance(origin, str):
        return DatabaseUrl.parse(origin)
    url = getattr(origin, "url", origin)
    return DatabaseUrl.parse(url.render_as_string(hide_password=False))


def _read_url(origin: object, query: Query, _: Mapping[str, object] | None) -> Rows:
    url = url_of(origin)
    if url.dialect == "sqlite":
        with closing(connect_sqlite(url.path)) as file:
            return _read_sqlite(file, query, None)
    with closing(connect_postgresql(url, application_name="outbox.testing")) as connection:
        return _read_psycopg(connection, query, None)


def _read_engine(engine: Engine, query: Query, _: Mapping[str, object] | None) -> Rows:
    with engine.connect() as connection:
        return _read_connection(connection, query, None)


def _read_session(
    session: Session, query: Query, bind_arguments: Mapping[str, object] | None
) -> Rows:
    chosen = bind_arguments_for(session, bind_arguments)
    if session.in_transaction():
        if not session._flushing:  # noqa: SLF001  there is no public way to ask
            session.flush()  # a listener may add messages for what was not flushed yet
        return _read_connection(session.connection(bind_arguments=chosen), query, None)
    # Not through the session, which would begin: the test's own begin() would then be one too many.
    bind = session.get_bind(**(chosen or {}))
    kind = source_kind(bind)
    return _READERS[kind](bind, query, None)


def _read_connection(connection: Connection, query: Query, _: Mapping[str, object] | None) -> Rows:
    from sqlalchemy import text

    was_open = connection.in_transaction()
    clause = text(query.text("sqlite" if connection.dialect.name == "sqlite" else "postgresql"))
    try:
        return [tuple(row) for row in connection.execute(clause, query.values)]
    finally:
        if not was_open:
            connection.rollback()


def _read_psycopg(
    connection: psycopg.Connection[Any], query: Query, _: Mapping[str, object] | None
) -> Rows:
    import psycopg
    from psycopg.rows import tuple_row

    was_idle = connection.pgconn.transaction_status == IDLE
    try:
        # Not connection.cursor(): the application's may be one that wants $1 for parameters.
        with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
            return cursor.execute(
                query.with_percent("postgresql").encode(), query.values or None
            ).fetchall()
    finally:
        if was_idle and not connection.autocommit:
            connection.rollback()


def _read_sqlite(
    connection: sqlite3.Connection, query: Query, _: Mapping[str, object] | None
) -> Rows:
    with closing(connection.cursor()) as cursor:
        cursor.row_factory = None
        return cursor.execute(query.sqlite, query.values).fetchall()


def _read_django(connection: Any, query: Query, _: Mapping[str, object] | None) -> Rows:
    dialect: Dialect = "sqlite" if connection.vendor == "sqlite" else "postgresql"
    with connection.cursor() as cursor:
        cursor.execute(query.with_percent(dialect), query.values or None)
        return cast("Rows", cursor.fetchall())


Reader: TypeAlias = Callable[[Any, Query, Mapping[str, object] | None], Rows]

_READERS: dict[str, Reader] = {
    "url": _read_url,
    "Engine": _read_engine,
    "sqlalchemy.orm.Session": _read_session,
    "sqlalchemy.orm.scoped_session": lambda scoped, *more: _read_session(scoped(), *more),
    "sqlalchemy.Connection": _read_connection,
    "psycopg.Connection": _read_psycopg,
    "sqlite3.Connection": _read_sqlite,
    "django.db.backends.base.base.BaseDatabaseWrapper": _read_django,
    "django.utils.connection.ConnectionProxy": _read_django,
}


async def _read_url_async(origin: object, query: Query, _: Mapping[str, object] | None) -> Rows:
    return await asyncio.to_thread(_read_url, origin, query, None)


async def _read_async_engine(
    engine: AsyncEngine, query: Query, _: Mapping[str, object] | None
) -> Rows:
    async with engine.connect() as connection:
        return await connection.run_sync(_read_connection, query, None)


async def _read_async_session(
    session: AsyncSession, query: Query, bind_arguments: Mapping[str, object] | None
) -> Rows:
    return await session.run_sync(_read_session, query, bind_arguments)


async def _read_async_connection(
    connection: AsyncConnection, query: Query, _: Mapping[str, object] | None
) -> Rows:
    return await connection.run_sync(_read_connection, query, None)


async def _read_async_psycopg(
    connection: psycopg.AsyncConnection[Any], query: Query, _: Mapping[str, object] | None
) -> Rows:
    import psycopg
    from psycopg.rows import tuple_row

    was_idle = connection.pgconn.transaction_status == IDLE
    try:
        async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
            return await (
                await cursor.execute(
                    query.with_percent("postgresql").encode(), query.values or None
                )
            ).fetchall()
    finally:
        if was_idle and not connection.autocommit:
            await connection.rollback()


_ASYNC_READERS: dict[str, Callable[[Any, Query, Mapping[str, object] | None], Any]] = {
    "url": _read_url_async,
    "AsyncEngine": _read_async_engine,
    "sqlalchemy.ext.asyncio.AsyncSession": _read_async_session,
    "sqlalchemy.ext.asyncio.async_scoped_session": (
        lambda scoped, *more: _read_async_session(scoped(), *more)
    ),
    "sqlalchemy.ext.asyncio.AsyncConnection": _read_async_connection,
    "psycopg.AsyncConnection": _read_async_psycopg,
}
