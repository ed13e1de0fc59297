"""A message takes effect once: the inbox on real databases."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from outbox.errors import InvalidMessage, NotInTransaction
from outbox.inbox import Inbox, ReceivedMessage
from outbox.migrations import migrate
from outbox.names import Names
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

MESSAGE = ReceivedMessage("m-1", "orders", 0, 0)
INBOX = Inbox("billing")


@dataclass
class Named:
    """Anything that has an id."""

    id: str


@pytest.fixture(params=[pytest.param("postgresql", marks=pytest.mark.postgresql), "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Give an engine on a database that has the inbox's tables and no others."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/inbox.db"
    else:
        url = request.getfixturevalue("postgresql_url")
    migrate(url, only="inbox")
    made = create_engine(_for_sqlalchemy(url), poolclass=NullPool)
    yield made
    made.dispose()


@pytest.fixture
def postgresql(postgresql_url: str) -> str:
    """Give the URL of a PostgreSQL database that has the inbox's tables."""
    migrate(postgresql_url, only="inbox")
    return postgresql_url


def _for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def remembered(engine: Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(text("select consumer, message_id from inbox_message"))
        return sorted((row.consumer, row.message_id) for row in rows)


def test_the_first_time_is_true_and_every_other_time_false(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        assert INBOX.record(session, MESSAGE) is True
        assert INBOX.record(session, MESSAGE) is False
    with engine.begin() as connection:
        assert INBOX.record(connection, MESSAGE) is False
    assert remembered(engine) == [("billing", "m-1")]


def test_consumers_of_one_table_do_not_disturb_each_other(engine: Engine) -> None:
    with engine.begin() as connection:
        assert Inbox("billing").record(connection, MESSAGE)
        assert Inbox("shipping").record(connection, MESSAGE)
    assert remembered(engine) == [("billing", "m-1"), ("shipping", "m-1")]


def test_a_rollback_forgets(engine: Engine) -> None:
    with Session(engine) as session:
        assert INBOX.record(session, MESSAGE)
        session.rollback()
    with Session(engine) as session, session.begin():
        assert INBOX.record(session, MESSAGE)


def test_a_rollback_to_a_savepoint_forgets(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        savepoint = session.begin_nested()
        assert INBOX.record(session, MESSAGE)
        savepoint.rollback()
        assert INBOX.record(session, MESSAGE)


def test_whatever_has_an_id_can_be_recorded(engine: Engine) -> None:
    with engine.begin() as connection:
        assert INBOX.record(connection, Named("ü" * 512))
        assert not INBOX.record(connection, Named("ü" * 512))


@pytest.mark.parametrize("bad", ["", "a\0b", "x" * 1025, "\ud800", None, 7])
def test_an_id_that_cannot_be_stored_is_refused_and_spoils_nothing(
    engine: Engine, bad: str
) -> None:
    with engine.begin() as connection:
        with pytest.raises(InvalidMessage, match="the message's id"):
            INBOX.record(connection, Named(bad))
        assert INBOX.record(connection, MESSAGE)
    assert remembered(engine) == [("billing", "m-1")]


def test_the_longest_id_fits_the_index_however_random_it_is(engine: Engine) -> None:
    longest = "".join(chr(0x4E00 + (i * i * 7919) % 20000) for i in range(341))
    with engine.begin() as connection:
        assert INBOX.record(connection, Named(longest))


@pytest.mark.postgresql
def test_another_schema_and_prefix_are_found(postgresql_url: str) -> None:
    names = Names(schema="messaging", prefix="app_")
    migrate(postgresql_url, names, only="inbox")
    inbox = Inbox("billing", schema="messaging", table_prefix="app_")
    with psycopg.connect(postgresql_url) as connection:
        assert inbox.record(connection, MESSAGE)
        count = connection.execute("select count(*) from messaging.app_inbox_message").fetchone()
    assert count == (1,)


@pytest.mark.postgresql
def test_a_role_that_may_only_insert_can_record(postgresql: str) -> None:
    with psycopg.connect(postgresql) as connection:
        connection.execute("drop role if exists inbox_writer_only")
        connection.execute("create role inbox_writer_only")
        connection.execute("grant insert on inbox_message to inbox_writer_only")
        connection.execute("set role inbox_writer_only")
        assert INBOX.record(connection, MESSAGE)
        assert not INBOX.record(connection, MESSAGE)
        connection.rollback()  # takes the role back too


def test_a_connection_that_commits_on_its_own_is_refused(engine: Engine) -> None:
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(NotInTransaction),
    ):
        INBOX.record(connection, MESSAGE)
    assert remembered(engine) == []


@pytest.mark.postgresql
def test_drivers_connections_are_refused_and_taken_by_their_state(
    postgresql: str, tmp_path: Path
) -> None:
    with psycopg.connect(postgresql, autocommit=True) as connection:
        with pytest.raises(NotInTransaction):
            INBOX.record(connection, MESSAGE)
        with connection.transaction():
            assert INBOX.record(connection, MESSAGE)
    migrate(f"sqlite:///{tmp_path}/inbox.db", only="inbox")
    with closing(sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)) as lite:
        with pytest.raises(NotInTransaction):
            INBOX.record(lite, MESSAGE)
        lite.execute("begin")
        assert INBOX.record(lite, MESSAGE)
        lite.execute("commit")


def test_an_object_that_is_no_transaction_is_a_type_error_that_says_what_to_pass(
    engine: Engine,
) -> None:
    with pytest.raises(TypeError, match=r"record\(\).*engine\.begin\(\)"):
        INBOX.record(engine, MESSAGE)


@pytest.mark.postgresql
def test_record_sends_asynchronous_callers_to_record_async(postgresql: str) -> None:
    async def scenario() -> None:
        engine = create_async_engine(_for_sqlalchemy(postgresql), poolclass=NullPool)
        async with AsyncSession(engine) as session, session.begin():
            with pytest.raises(TypeError, match="await record_async"):
                INBOX.record(session, MESSAGE)
        await engine.dispose()

    asyncio.run(scenario())


@pytest.mark.postgresql
def test_record_async_remembers_in_the_callers_transaction(postgresql: str) -> None:
    async def record(session: AsyncSession) -> bool:
        return await INBOX.record_async(session, MESSAGE)

    async def scenario() -> list[bool]:
        engine = create_async_engine(_for_sqlalchemy(postgresql), poolclass=NullPool)
        async with AsyncSession(engine) as session:
            rolled_back = await record(session)
            await session.rollback()
            first = await record(session)
            await session.commit()
            second = await record(session)
        async with await psycopg.AsyncConnection.connect(postgresql) as connection:
            third = await INBOX.record_async(connection, MESSAGE)
        await engine.dispose()
        return [rolled_back, first, second, third]

    assert asyncio.run(scenario()) == [True, True, False, False]


@pytest.mark.postgresql
@pytest.mark.parametrize(("end", "answer"), [("commit", False), ("rollback", True)])
def test_a_second_transaction_waits_for_how_the_first_one_ends(
    postgresql: str, end: str, answer: bool
) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(postgresql) as first,
        psycopg.connect(postgresql) as second,
    ):
        # Given a transaction that has recorded the message and is open
        assert INBOX.record(first, MESSAGE)

        # When a second one records it
        waiting: Future[bool] = pool.submit(INBOX.record, second, MESSAGE)
        wait_until(lambda: _waits(postgresql, second), what="the second to wait for a lock")
        assert not waiting.done()

        # Then its answer depends on how the first one ends
        getattr(first, end)()
        assert waiting.result(timeout=30) is answer


def _waits(url: str, connection: psycopg.Connection) -> bool:
    query = "select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
    with psycopg.connect(url) as observer:
        return observer.execute(query, [connection.info.backend_pid]).fetchone() is not None


def test_of_many_threads_with_one_message_one_is_the_first(engine: Engine) -> None:
    # Given many threads that have the same twenty messages
    barrier = threading.Barrier(6)
    messages = [Named(f"m-{n}") for n in range(20)]

    def record_all() -> list[str]:
        barrier.wait(timeout=30)
        return [message.id for message in messages if _record_alone(engine, message)]

    # When they record them at the same time
    with ThreadPoolExecutor(6) as pool:
        firsts = [pool.submit(record_all) for _ in range(6)]

    # Then each message was new to exactly one of them
    taken = [name for first in firsts for name in first.result()]
    assert sorted(taken) == sorted(message.id for message in messages)


def _record_alone(engine: Engine, message: Named) -> bool:
    with engine.begin() as connection:
        return INBOX.record(connection, message)
