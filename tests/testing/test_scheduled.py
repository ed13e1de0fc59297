"""What was added and waits for its time is shown like all other messages."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from outbox import Outbox
from outbox.testing import (
    OutboxLog,
    added,
    added_async,
    assert_added,
    drain,
    refute_added,
)
from tests.integration.writing import Database

events = Outbox()
WHEN = datetime(2040, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)


def test_scheduled_messages_are_added_ones_with_their_time(database: Database) -> None:
    with Session(database.engine()) as session, session.begin():
        # Given messages for later, for now, and for a condition
        events.add(session, "orders", {"n": 1}, key="ada", deliver_at=WHEN, type="reminder")
        events.add(session, "orders", {"n": 2}, key="ada")
        events.add(session, "orders", {"n": 3}, key="ben", wait_for="paid.7")
        # Then all are seen, those of the log first
        assert [message.data["n"] for message in added(session)] == [2, 1, 3]
        later = assert_added(session, "orders", key="ada", deliver_at=WHEN, type="reminder")
        assert (later.data, later.deliver_at, later.wait_for) == ({"n": 1}, WHEN, None)
        assert assert_added(session, "orders", wait_for="paid.7").deliver_at is None
        assert assert_added(session, "orders", deliver_at=None, wait_for=None).data == {"n": 2}
        # And what is not due is not sent
        assert [message.data for message in drain(session)] == [{"n": 2}]
        # And what is taken back was not added
        assert events.cancel(session, later.id)
        refute_added(session, "orders", deliver_at=WHEN)


def test_only_what_was_scheduled_since_counts(database: Database) -> None:
    with Session(database.engine()) as session, session.begin():
        events.add(session, "orders", {"n": 1}, delay=timedelta(hours=1))
        log = OutboxLog(session)
        events.add(session, "orders", {"n": 2}, delay=timedelta(hours=1))
        assert [message.data["n"] for message in log.added()] == [2]
        with session.begin_nested() as savepoint:
            events.add(session, "orders", {"n": 3}, delay=timedelta(hours=1))
            savepoint.rollback()
        log.assert_added("orders", count=1)


def test_a_failure_says_when_it_would_have_been_sent(database: Database) -> None:
    with Session(database.engine()) as session, session.begin():
        events.add(session, "orders", {"n": 1}, key="ada", deliver_at=WHEN)
        with pytest.raises(AssertionError) as raised:
            assert_added(session, "orders", key="ada", deliver_at=WHEN + timedelta(days=1))
    assert "deliver_at=datetime.datetime(2040, 5, 7" in str(raised.value)
    assert "deliver_at=2040-05-06T07:08:09.123000+00:00" in str(raised.value)


@pytest.mark.postgresql
def test_asyncio_shows_the_same(postgresql: Database) -> None:
    async def story() -> None:
        url = postgresql.url.replace("postgresql://", "postgresql+psycopg://")
        engine = create_async_engine(url)
        async with AsyncSession(engine) as session, session.begin():
            await events.add_async(session, "orders", {"n": 1}, key="ada", deliver_at=WHEN)
            (message,) = await added_async(session, "orders", deliver_at=WHEN)
            assert message.deliver_at == WHEN
        await engine.dispose()

    asyncio.run(story())
