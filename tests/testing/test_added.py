"""What was added is seen through whatever the test has, and what was rolled back is not."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, RawCursor
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from outbox import Outbox, OutboxError, SchemaMissing
from outbox.migrations import migrate
from outbox.names import Names
from outbox.testing import (
    AsyncOutboxLog,
    OutboxLog,
    added,
    added_async,
    assert_added,
    assert_added_async,
    refute_added,
    refute_added_async,
    savepoints,
)
from tests.integration.writing import Database

events = Outbox()

Begin = Callable[[Database], AbstractContextManager[Any]]


@contextmanager
def session(database: Database) -> Iterator[Session]:
    """A SQLAlchemy session."""
    with Session(database.engine()) as opened:
        yield opened


@contextmanager
def scoped(database: Database) -> Iterator[scoped_session[Session]]:
    """A SQLAlchemy session of the current thread."""
    made = scoped_session(sessionmaker(database.engine()))
    yield made
    made.remove()


@contextmanager
def connection(database: Database) -> Iterator[Any]:
    """A SQLAlchemy connection."""
    with database.engine().connect() as opened:
        yield opened


@contextmanager
def driver(database: Database) -> Iterator[Any]:
    """The driver's own connection, with rows of its own kind."""
    if database.is_postgresql:
        with psycopg.connect(database.url, row_factory=psycopg.rows.dict_row) as opened:
            yield opened
        return
    with closing(sqlite3.connect(database.path)) as file:
        file.row_factory = sqlite3.Row
        yield file


WAYS = [session, scoped, connection, driver]


@pytest.fixture(params=WAYS, ids=lambda begin: begin.__name__)
def transaction(request: pytest.FixtureRequest, database: Database) -> Iterator[Any]:
    """Give each way to have a transaction."""
    with request.param(database) as opened:
        yield opened


def test_what_is_not_committed_is_seen_whole(transaction: Any, database: Database) -> None:
    """With its columns in the words of the application."""
    # When a message is added, and nothing is committed
    written = events.add(
        transaction,
        "orders",
        {"order": 1},
        key=7,
        type="order.placed",
        headers={"tenant": "acme"},
        lane="bulk",
    )

    # Then it is there, as it was added
    (message,) = added(transaction)
    assert message == assert_added(transaction, "orders")
    assert message.topic == "orders"
    assert message.key == "7"
    assert message.payload == b'{"order":1}'
    assert message.data == {"order": 1}
    assert message.type == "order.placed"
    assert message.content_type == "application/json"
    assert message.headers == (("tenant", "acme"),)
    assert message.id == str(written.id)
    assert message.lane == "bulk"
    # And nobody else can see it
    refute_added(database.url)


def test_what_was_rolled_back_to_a_savepoint_is_not_seen(transaction: Any) -> None:
    """As it would not be sent."""
    # Given a message, and another one in a savepoint that is undone
    events.add(transaction, "orders", {"order": 1})
    with suppress(ZeroDivisionError), savepoints(transaction)():
        events.add(transaction, "orders", {"order": 2})
        raise ZeroDivisionError

    # Then only the first is there
    assert_added(transaction, "orders", count=1, payload={"order": 1})


def test_looking_opens_no_transaction(transaction: Any) -> None:
    """Else the test's own begin would be one too many."""
    # Given nothing was begun
    # When the test looks
    refute_added(transaction)
    OutboxLog(transaction).drain()

    # Then nothing was begun still
    if isinstance(transaction, psycopg.Connection):
        assert transaction.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    elif isinstance(transaction, sqlite3.Connection):
        assert not transaction.in_transaction
    else:
        with transaction.begin():  # which raises if something was begun
            events.add(transaction, "orders", {"order": 1})
            assert_added(transaction, "orders")


def test_a_log_begins_where_it_is_opened(transaction: Any) -> None:
    """So that messages of a fixture, or of other tests, do not count."""
    # Given messages that were there before
    events.add(transaction, "orders", {"order": 1})
    transaction.commit()
    events.add(transaction, "orders", {"order": 2})

    # When the test begins, and adds one
    log = OutboxLog(transaction)
    log.refute_added()
    events.add(transaction, "orders", {"order": 3})

    # Then only that one counts, also after a commit
    assert [message.data for message in log.added()] == [{"order": 3}]
    transaction.commit()
    assert log.assert_added("orders").data == {"order": 3}
    assert [message.data["order"] for message in added(transaction)] == [1, 2, 3]


def test_an_engine_and_a_url_show_what_is_committed(database: Database) -> None:
    """And nothing that may yet be rolled back."""
    engine = database.engine()
    logs = [OutboxLog(source) for source in (engine, database.url, make_url(database.url))]
    with Session(engine) as opened:
        events.add(opened, "orders", {"order": 1})
        for log in logs:
            log.refute_added()
        opened.commit()

    for log in logs:
        log.assert_added("orders", payload={"order": 1})


def test_a_session_bound_to_a_connection_is_read_through_it(postgresql: Database) -> None:
    """The usual recipe for tests that may commit: an outer transaction on the connection."""
    # Given a session whose commits end in savepoints of an outer transaction
    with postgresql.engine().connect() as outer, outer.begin() as whole:
        with Session(outer, join_transaction_mode="create_savepoint") as opened:
            log = OutboxLog(opened)
            # When the code under test commits
            events.add(opened, "orders", {"order": 1})
            opened.commit()
            # Then what it added is seen
            assert not opened.in_transaction()
            log.assert_added("orders")
        whole.rollback()

    # And gone with the test
    refute_added(postgresql.url)


def test_tables_elsewhere_are_read_there(database: Database) -> None:
    """With the arguments of the Outbox."""
    migrate(database.url, Names(prefix="shop_"))
    with Session(database.engine()) as opened:
        log = OutboxLog(opened, table_prefix="shop_")
        Outbox(table_prefix="shop_").add(opened, "orders", {"order": 1})

        log.assert_added("orders")
        assert [message.topic for message in log.drain()] == ["orders"]
        refute_added(opened)


def test_a_database_without_tables_says_what_to_do(tmp_path: Any) -> None:
    """In the words that `add` has for it."""
    engine = create_engine(f"sqlite:///{tmp_path}/empty.db")
    with Session(engine) as opened, pytest.raises(SchemaMissing, match="outbox-relay migrate"):
        OutboxLog(opened)
    engine.dispose()


def test_sqlite_tells_when_new_messages_cannot_be_told_from_old(sqlite: Database) -> None:
    """It uses the numbers of messages again that were rolled back: silence would be a lie."""
    # Given a log that begins behind a message that is not committed
    with Session(sqlite.engine()) as opened:
        events.add(opened, "orders", {"order": 1})
        log = OutboxLog(opened)
        # When that message is rolled back, and another one takes its number
        opened.rollback()
        events.add(opened, "orders", {"order": 2})

        # Then the log does not pretend that nothing was added
        with pytest.raises(OutboxError, match="rolled back since"):
            log.refute_added()


def test_a_log_on_postgresql_survives_that(postgresql: Database) -> None:
    """Its numbers are never used again."""
    with Session(postgresql.engine()) as opened:
        events.add(opened, "orders", {"order": 1})
        log = OutboxLog(opened)
        opened.rollback()
        events.add(opened, "orders", {"order": 2})

        assert log.assert_added("orders", count=1)[0].data == {"order": 2}


def test_a_connection_with_raw_cursors_is_read(postgresql: Database) -> None:
    """Whose parameters are $1 and not %s."""
    with psycopg.connect(postgresql.url, cursor_factory=RawCursor) as opened:
        events.add(opened, "orders", {"order": 1})
        assert_added(opened, "orders")


def test_an_autocommit_connection_is_read(postgresql: Database) -> None:
    """Looking commits nothing, so it is not refused."""
    with psycopg.connect(postgresql.url, autocommit=True) as opened:
        with opened.transaction():
            events.add(opened, "orders", {"order": 1})
        assert_added(opened, "orders")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (object(), "assert_added.. needs a SQLAlchemy Session .* an Engine or a URL will do"),
        (AsyncSession(), "is asynchronous: use `await assert_added_async"),
        (sessionmaker(), "call it and pass the session"),
    ],
)
def test_what_is_no_transaction_is_refused(wrong: object, sentence: str) -> None:
    """With what to pass instead."""
    with pytest.raises(TypeError, match=sentence):
        assert_added(wrong, "orders")


@asynccontextmanager
async def async_session(database: Database) -> AsyncIterator[Any]:
    """An AsyncSession."""
    async with AsyncSession(database.async_engine()) as opened:
        yield opened


@asynccontextmanager
async def async_connection(database: Database) -> AsyncIterator[Any]:
    """An AsyncConnection."""
    async with database.async_engine().connect() as opened:
        yield opened


@asynccontextmanager
async def async_driver(database: Database) -> AsyncIterator[Any]:
    """psycopg's own."""
    async with await AsyncConnection.connect(database.url) as opened:
        yield opened


@pytest.mark.asyncio
@pytest.mark.parametrize("begin", [async_session, async_connection, async_driver])
async def test_asynchronous_transactions_are_seen_too(begin: Any, postgresql: Database) -> None:
    """In the same words."""
    async with begin(postgresql) as opened:
        await events.add_async(opened, "orders", {"order": 1})
        log = await AsyncOutboxLog.open(opened)
        await log.refute_added()
        await events.add_async(opened, "orders", {"order": 2})

        message = await log.assert_added("orders", payload={"order": 2})
        assert [message] == await log.added("orders")
        assert len(await assert_added_async(opened, "orders", count=2)) == 2
        await refute_added_async(opened, "invoices")
        assert [m.payload for m in await log.drain()] == [b'{"order":2}']
        assert await log.drain() == []
        await refute_added_async(postgresql.async_engine())
        await opened.rollback()
        assert await added_async(opened) == []
        with pytest.raises(TypeError, match="is asynchronous"):
            added(opened)


@pytest.mark.asyncio
async def test_asyncio_and_sqlite(sqlite: Database) -> None:
    """The same through aiosqlite."""
    async with AsyncSession(sqlite.async_engine()) as opened:
        await events.add_async(opened, "orders", {"order": 1})
        await assert_added_async(opened, "orders", payload={"order": 1})
        await refute_added_async(sqlite.async_engine(), "orders")
        with pytest.raises(TypeError, match="is not asynchronous: use assert_added"):
            await assert_added_async(opened.sync_session, "orders")
