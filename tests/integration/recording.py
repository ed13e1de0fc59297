"""Every kind of transaction that an Inbox takes, behind one face for the tests."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from outbox.inbox import Inbox


@dataclass
class Named:
    """Anything that has an id; `place` tells two with the same id from each other."""

    id: str
    place: int = 0


@dataclass
class Recording:
    """`record` and `record_all` in a transaction that is open."""

    record: Callable[[Inbox, Named], bool]
    record_all: Callable[[Inbox, Sequence[Named]], list[Named]]


#: From the database's URL to an open transaction; commits unless the block raises.
Begin = Callable[[str], AbstractContextManager[Recording]]


@dataclass(frozen=True)
class Kind:
    """A kind of transaction on a kind of database."""

    name: str
    database: str
    begin: Begin


def _plain(open_one: Callable[[str], AbstractContextManager[Any]]) -> Begin:
    @contextmanager
    def begin(url: str) -> Iterator[Recording]:
        with open_one(url) as transaction:
            yield Recording(
                lambda inbox, message: inbox.record(transaction, message),
                lambda inbox, messages: inbox.record_all(transaction, messages),
            )

    return begin


def _asynchronous(open_one: Callable[[str], AbstractAsyncContextManager[Any]]) -> Begin:
    @contextmanager
    def begin(url: str) -> Iterator[Recording]:
        with asyncio.Runner() as runner:
            opened = open_one(url)
            transaction = runner.run(_enter(opened))
            try:
                yield Recording(
                    lambda inbox, message: runner.run(inbox.record_async(transaction, message)),
                    lambda inbox, messages: runner.run(
                        inbox.record_all_async(transaction, messages)
                    ),
                )
            except BaseException as error:
                if not runner.run(_leave(opened, error)):
                    raise
            else:
                runner.run(_leave(opened, None))

    return begin


async def _enter(opened: AbstractAsyncContextManager[Any]) -> Any:
    return await opened.__aenter__()


async def _leave(opened: AbstractAsyncContextManager[Any], error: BaseException | None) -> object:
    if error is None:
        return await opened.__aexit__(None, None, None)
    return await opened.__aexit__(type(error), error, error.__traceback__)


def _driven(url: str, driver: str) -> str:
    scheme, rest = url.split("://", 1)
    return f"{scheme}+{driver}://{rest}"


def _session(driver: str) -> Begin:
    @contextmanager
    def open_one(url: str) -> Iterator[Any]:
        engine = create_engine(_driven(url, driver), poolclass=NullPool)
        with Session(engine) as opened, opened.begin():
            yield opened

    return _plain(open_one)


def _scoped(driver: str) -> Begin:
    @contextmanager
    def open_one(url: str) -> Iterator[Any]:
        engine = create_engine(_driven(url, driver), poolclass=NullPool)
        registry = scoped_session(sessionmaker(engine))
        with registry.begin():
            yield registry
        registry.remove()

    return _plain(open_one)


def _connection(driver: str) -> Begin:
    return _plain(lambda url: create_engine(_driven(url, driver), poolclass=NullPool).begin())


def _async_session(driver: str) -> Begin:
    @asynccontextmanager
    async def open_one(url: str) -> AsyncIterator[Any]:
        engine = create_async_engine(_driven(url, driver), poolclass=NullPool)
        async with AsyncSession(engine) as opened, opened.begin():
            yield opened

    return _asynchronous(open_one)


def _async_connection(driver: str) -> Begin:
    return _asynchronous(
        lambda url: create_async_engine(_driven(url, driver), poolclass=NullPool).begin()
    )


def _psycopg(**options: Any) -> Begin:
    return _plain(lambda url: psycopg.connect(url, **options))


@_plain
@contextmanager
def _psycopg_pipeline(url: str) -> Iterator[Any]:
    with psycopg.connect(url, autocommit=True) as opened, opened.pipeline(), opened.transaction():
        yield opened


@_plain
@contextmanager
def _psycopg_sql_ascii(url: str) -> Iterator[Any]:
    # There psycopg returns text as bytes.
    with psycopg.connect(url, client_encoding="SQL_ASCII") as opened:
        yield opened


def _async_psycopg(*, pipeline: bool = False, **options: Any) -> Begin:
    @asynccontextmanager
    async def open_one(url: str) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            opened = await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(url, autocommit=pipeline, **options)
            )
            if pipeline:
                await stack.enter_async_context(opened.pipeline())
                await stack.enter_async_context(opened.transaction())
            yield opened

    return _asynchronous(open_one)


def _sqlite(**attributes: Any) -> Begin:
    @contextmanager
    def open_one(url: str) -> Iterator[Any]:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as opened, opened:
            for name, value in attributes.items():
                setattr(opened, name, value)
            yield opened

    return _plain(open_one)


_ON_POSTGRESQL: dict[str, Begin] = {
    "session": _session("psycopg"),
    "scoped-session": _scoped("psycopg"),
    "connection": _connection("psycopg"),
    "connection-psycopg2": _connection("psycopg2"),
    "psycopg": _psycopg(),
    "psycopg-client-cursor": _psycopg(cursor_factory=psycopg.ClientCursor),
    "psycopg-raw-cursor": _psycopg(cursor_factory=psycopg.RawCursor),
    "psycopg-dict-rows": _psycopg(row_factory=dict_row),
    "psycopg-prepared-at-once": _psycopg(prepare_threshold=0),
    "psycopg-pipeline": _psycopg_pipeline,
    "psycopg-sql-ascii": _psycopg_sql_ascii,
    "async-session": _async_session("psycopg"),
    "async-session-asyncpg": _async_session("asyncpg"),
    "async-connection": _async_connection("psycopg"),
    "async-connection-asyncpg": _async_connection("asyncpg"),
    "async-psycopg": _async_psycopg(),
    "async-psycopg-raw-cursor": _async_psycopg(cursor_factory=psycopg.AsyncRawCursor),
    "async-psycopg-dict-rows": _async_psycopg(row_factory=dict_row),
    "async-psycopg-pipeline": _async_psycopg(pipeline=True),
}

_ON_SQLITE: dict[str, Begin] = {
    "session": _session("pysqlite"),
    "scoped-session": _scoped("pysqlite"),
    "connection": _connection("pysqlite"),
    "sqlite3": _sqlite(),
    "sqlite3-row": _sqlite(row_factory=sqlite3.Row),
    "sqlite3-bytes": _sqlite(text_factory=bytes),
    "async-session": _async_session("aiosqlite"),
    "async-connection": _async_connection("aiosqlite"),
}

KINDS = [
    Kind(name, database, begin)
    for database, kinds in (("postgresql", _ON_POSTGRESQL), ("sqlite", _ON_SQLITE))
    for name, begin in kinds.items()
]
