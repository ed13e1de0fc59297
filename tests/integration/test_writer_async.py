"""What `add_async` and `add_all_async` write, and what a forgotten await does."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from outbox import InvalidMessage, Message, NotInTransaction, Outbox, OutboxError, SchemaMissing
from outbox.migrations import migrate
from tests.integration.writing import Database

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = Outbox()

#: Gives the caller's transaction object; commits unless the block raises.
Begin = Callable[[Database], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    """SQLAlchemy's AsyncSession."""
    async with AsyncSession(database.async_engine()) as opened, opened.begin():
        yield opened


@asynccontextmanager
async def scoped(database: Database) -> AsyncIterator[Any]:
    """SQLAlchemy's async_scoped_session."""
    registry = async_scoped_session(
        async_sessionmaker(database.async_engine()), scopefunc=asyncio.current_task
    )
    async with registry.begin():
        yield registry
    await registry.remove()


@asynccontextmanager
async def connection(database: Database) -> AsyncIterator[Any]:
    """SQLAlchemy's AsyncConnection."""
    async with database.async_engine().begin() as opened:
        yield opened


@asynccontextmanager
async def driver(database: Database) -> AsyncIterator[Any]:
    """The driver's own connection: psycopg's."""
    async with await psycopg.AsyncConnection.connect(database.url) as opened:
        yield opened


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Give a database of each kind that has a log."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/log.db"
    else:
        url = request.getfixturevalue("postgresql_url")
    migrate(url)
    return Database(url)


@pytest.fixture
def postgresql(postgresql_url: str) -> Database:
    """Give a PostgreSQL that has a log."""
    migrate(postgresql_url)
    return Database(postgresql_url)


#: sqlite3 has no connection for asyncio.
everywhere = pytest.mark.parametrize(
    ("database", "begin"),
    [
        pytest.param(kind, begin, id=f"{kind}-{begin.__name__}")
        for kind in ("postgresql", "sqlite")
        for begin in (session, scoped, connection, driver)
        if (kind, begin) != ("sqlite", driver)
    ],
    indirect=["database"],
)


@everywhere
def test_messages_are_written_in_order(database: Database, begin: Begin) -> None:
    """One by one and many at once; the await gives the Message."""

    async def write() -> Message:
        async with begin(database) as transaction:
            message = await EVENTS.add_async(
                transaction,
                "first",
                {"a": 1},
                key=1,
                type="t",
                headers={"h": "v"},
                lane="bulk",
                ordering="strict",
            )
            more = [Message("second", n, key=n, ordering="strict") for n in range(50)]
            assert await EVENTS.add_all_async(transaction, more) is None
            await EVENTS.add_async(transaction, "third", b"")
            return message

    message = asyncio.run(write())

    rows = database.rows()
    assert [row["topic"] for row in rows] == ["first"] + ["second"] * 50 + ["third"]
    assert [row["key"] for row in rows[1:51]] == [str(n) for n in range(50)]
    assert str(rows[0]["id"]) == str(message.id)
    assert (rows[0]["type"], rows[0]["lane"], rows[0]["key"]) == ("t", "bulk", "1")


@everywhere
def test_a_rollback_drops_the_message(database: Database, begin: Begin) -> None:
    """Both happen or neither."""

    async def write() -> None:
        async with begin(database) as transaction:
            await EVENTS.add_async(transaction, "orders", b"")
            await EVENTS.add_all_async(transaction, [Message("orders", b"")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(write())
    assert database.rows() == []


@everywhere
def test_everything_is_checked_and_serialized_at_the_call(database: Database, begin: Begin) -> None:
    """Before the await, so that a payload that changes later does not matter."""

    async def write() -> None:
        async with begin(database) as transaction:
            payload = {"a": 1}
            pending = EVENTS.add_async(transaction, "orders", payload)
            pending_all = EVENTS.add_all_async(transaction, [Message("orders", payload)])
            payload["a"] = 2
            await pending
            await pending_all
            with pytest.raises(InvalidMessage, match="topic is empty"):
                EVENTS.add_async(transaction, "", b"")
            with pytest.raises(InvalidMessage, match=r"payload\.a: type set"):
                EVENTS.add_all_async(transaction, [Message("orders", {"a": {1}})])

    asyncio.run(write())

    assert [bytes(row["payload"]) for row in database.rows()] == [b'{"a":1}'] * 2


def test_an_autocommit_connection_is_refused(database: Database) -> None:
    """The driver's state decides, here too."""

    async def write() -> None:
        engine = database.async_engine(isolation_level="AUTOCOMMIT")
        async with AsyncSession(engine) as opened:
            await _refused(opened)
        async with engine.connect() as opened_connection:
            await _refused(opened_connection)
        async with engine.begin() as opened_connection:
            await _refused(opened_connection)

    asyncio.run(write())
    assert database.rows() == []


def test_an_autocommit_connection_of_psycopg_is_refused(postgresql: Database) -> None:
    """Unless a transaction was opened on it, in a pipeline or not."""

    async def write() -> None:
        connect = psycopg.AsyncConnection.connect
        async with await connect(postgresql.url, autocommit=True) as opened:
            await _refused(opened)
            async with opened.pipeline():
                await opened.execute("select 1")
                await _refused(opened)
            async with opened.transaction():
                await EVENTS.add_async(opened, "block", b"")
            async with opened.pipeline(), opened.transaction():
                await EVENTS.add_async(opened, "pipeline", b"")
                await EVENTS.add_async(opened, "pipeline", b"")

    asyncio.run(write())
    assert postgresql.topics() == ["block", "pipeline", "pipeline"]


@pytest.mark.parametrize("factory", ["AsyncClientCursor", "AsyncRawCursor"])
def test_any_cursor_factory_of_psycopg_will_do(postgresql: Database, factory: str) -> None:
    """The connection may have been made for something special."""

    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(
            postgresql.url, cursor_factory=getattr(psycopg, factory)
        ) as opened:
            await EVENTS.add_async(opened, "orders", b"")
            await EVENTS.add_all_async(opened, [Message("orders", b"")])

    asyncio.run(write())
    assert postgresql.topics() == ["orders", "orders"]


async def _refused(transaction: Any) -> None:
    with pytest.raises(NotInTransaction, match="nothing was written"):
        await EVENTS.add_async(transaction, "orders", b"")
    with pytest.raises(NotInTransaction, match="nothing was written"):
        await EVENTS.add_all_async(transaction, [Message("orders", b"")])


def test_synchronous_objects_are_told_the_other_method() -> None:
    """At the call already."""
    with closing(sqlite3.connect(":memory:")) as opened:
        with pytest.raises(TypeError, match=r"Connection is not asynchronous: use add\(…\)"):
            EVENTS.add_async(opened, "orders", b"")
        with pytest.raises(TypeError, match=r"Connection is not asynchronous: use add_all\(…\)"):
            EVENTS.add_all_async(opened, [])
    with (
        Session(create_engine("sqlite://")) as opened_session,
        pytest.raises(TypeError, match=r"Session is not asynchronous: use add\(…\)"),
    ):
        EVENTS.add_async(opened_session, "orders", b"")


def test_asynchronous_objects_are_told_the_other_method() -> None:
    """At the call already."""
    opened = AsyncSession(create_async_engine("sqlite+aiosqlite://"))

    with pytest.raises(TypeError, match=r"AsyncSession is asynchronous: use `await add_async\("):
        EVENTS.add(opened, "orders", b"")
    with pytest.raises(TypeError, match=r"is asynchronous: use `await add_all_async\(…\)`"):
        EVENTS.add_all(opened, [])
    with pytest.raises(TypeError, match=r"add_async\(\) needs a SQLAlchemy AsyncSession or"):
        EVENTS.add_async(None, "orders", b"")


def _forget(transaction: Any, *topics: str) -> None:
    if topics:
        EVENTS.add_all_async(transaction, [Message(topic, b"") for topic in topics])
    else:
        EVENTS.add_async(transaction, "orders", b"")
    gc.collect()  # where objects are not dropped at once


def test_a_forgotten_await_fails_the_commit(database: Database) -> None:
    """The caller believes that the message is in the transaction."""

    async def write() -> None:
        async with AsyncSession(database.async_engine()) as opened:
            await EVENTS.add_async(opened, "first", b"")
            with pytest.warns(RuntimeWarning, match="add_async to topic 'orders' was never awaite"):
                _forget(opened)

            with pytest.raises(OutboxError) as caught:
                await opened.commit()

            assert "not committed, since add_async to topic 'orders' was never awaited" in str(
                caught.value
            )
            # Then the session can be used again, and the next commit is not blamed
            await opened.rollback()
            await EVENTS.add_async(opened, "second", b"")
            await opened.commit()

    asyncio.run(write())
    assert database.topics() == ["second"]


def test_a_forgotten_await_fails_the_block_that_commits(database: Database) -> None:
    """As in `async with session.begin()`, where nobody calls commit()."""

    async def write() -> None:
        async with AsyncSession(database.async_engine()) as opened, opened.begin():
            await EVENTS.add_async(opened, "first", b"")
            with pytest.warns(RuntimeWarning, match="add_all_async to topic 'a' and 'b' was never"):
                _forget(opened, "a", "b")

    with pytest.raises(OutboxError, match="add_all_async to topic 'a' and 'b' was never awaited"):
        asyncio.run(write())
    assert database.rows() == []


def test_a_late_await_is_in_time(database: Database) -> None:
    """Before the commit is what counts."""

    async def write() -> None:
        async with session(database) as opened:
            pending = [EVENTS.add_async(opened, "orders", n) for n in range(3)]
            for each in pending:
                await each

    asyncio.run(write())
    assert len(database.rows()) == 3


def test_a_second_await_is_refused(database: Database) -> None:
    """One call, one message."""

    async def write() -> None:
        async with session(database) as opened:
            pending = EVENTS.add_async(opened, "orders", b"")
            await pending
            with pytest.raises(RuntimeError, match="was awaited already; each call writes once"):
                await pending

    asyncio.run(write())
    assert len(database.rows()) == 1


def test_an_await_that_fails_is_no_forgotten_one(database: Database) -> None:
    """Its error was raised; the caller may go on without the message."""

    async def write() -> None:
        async with session(database) as opened:
            await EVENTS.add_async(opened, "orders", b"")
            with pytest.raises(SchemaMissing):
                async with opened.begin_nested():
                    await Outbox(table_prefix="no_").add_async(opened, "orders", b"")

    asyncio.run(write())
    assert len(database.rows()) == 1


def test_a_forgotten_await_on_a_connection_warns(postgresql: Database) -> None:
    """It cannot stop the commit, but it is not silent."""

    async def write() -> None:
        async with driver(postgresql) as opened:
            with pytest.warns(
                RuntimeWarning, match="add_async to topic 'orders' was never awaited"
            ):
                _forget(opened)

    asyncio.run(write())


def test_a_session_is_not_kept_alive(database: Database) -> None:
    """What watches its commit goes with it."""

    async def write() -> weakref.ref[Session]:
        async with session(database) as opened:
            await EVENTS.add_async(opened, "orders", b"")
            return weakref.ref(opened.sync_session)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gone = asyncio.run(write())
        gc.collect()
    assert gone() is None


def test_within_run_sync_the_synchronous_method_serves(database: Database) -> None:
    """There the caller has the Session itself."""

    async def write() -> None:
        async with session(database) as opened:
            await opened.run_sync(lambda inner: EVENTS.add(inner, "orders", b""))

    asyncio.run(write())
    assert database.topics() == ["orders"]


def test_concurrent_tasks_share_one_outbox(database: Database) -> None:
    """Each with its own session."""

    async def write(n: int) -> None:
        async with session(database) as opened:
            await EVENTS.add_async(opened, "orders", n, key=n)

    async def write_all() -> None:
        # SQLite has one writer at a time, and asks the others to wait.
        gate = asyncio.Semaphore(10 if database.is_postgresql else 1)

        async def one(n: int) -> None:
            async with gate:
                await write(n)

        await asyncio.gather(*map(one, range(20)))

    asyncio.run(write_all())
    assert sorted(int(row["key"]) for row in database.rows()) == list(range(20))
