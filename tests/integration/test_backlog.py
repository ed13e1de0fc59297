"""What `add` does when more messages wait than should, and what it costs otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from outbox.cli.operating import new_action
from outbox.database import DatabaseUrl, connect_sqlite
from outbox.errors import BacklogFull, ConfigurationError
from outbox.message import Message
from outbox.migrations import NO_LIMIT, BacklogLimit, migrate
from outbox.names import Names
from outbox.publishers.memory import MemoryPublisher
from outbox.relay.relay import Relay
from outbox.store.base import RelayStatus, backlog_of
from outbox.store.pauses import Target
from outbox.writer.backlog import LOOK_FOR_LIMIT_S, LOOK_S, MEMORY
from outbox.writer.outbox import Outbox
from tests.conformance.conftest import sqlite_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import StoreKit


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def kit(request: pytest.FixtureRequest) -> Iterator[StoreKit]:
    """Give a log on each database; nothing is known of it from tests before."""
    MEMORY.forget()
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_kit")
        return
    kit = StoreKit(DatabaseUrl.parse(request.getfixturevalue("postgresql_url")))
    yield kit
    kit.close()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def an_outbox(clock: Clock | None = None) -> Outbox:
    events = Outbox()
    if clock is not None:
        events._backlog._clock = clock
    return events


def add(kit: StoreKit, events: Outbox, count: int = 1) -> None:
    if kit.url.dialect == "sqlite":
        with closing(connect_sqlite(kit.url.path)) as connection:
            connection.execute("begin")
            for _ in range(count):
                events.add(connection, "orders", {}, key="k")
            connection.execute("commit")
        return
    with psycopg.connect(kit.url.conninfo) as connection:
        for _ in range(count):
            events.add(connection, "orders", {}, key="k")


def limit(kit: StoreKit, messages: int, action: Any = "raise") -> None:
    """Set the limit as the command does, which counts as well."""
    migrate(kit.url, backlog=BacklogLimit(messages, action))
    kit.store().count_backlog()
    MEMORY.forget()


def drain(kit: StoreKit) -> None:
    with Relay(kit.store(), MemoryPublisher) as relay:
        relay.run_once()


def test_without_a_limit_everything_is_written(kit: StoreKit) -> None:
    add(kit, an_outbox(), 20)

    assert kit.store().backlog().limit is None
    assert len(kit.keys_in_log()) == 20


def test_at_the_limit_add_raises_and_writes_nothing(kit: StoreKit) -> None:
    add(kit, an_outbox(), 5)
    limit(kit, 5)

    with pytest.raises(BacklogFull, match="5 messages wait for the relay, and the limit is 5"):
        add(kit, an_outbox())

    assert len(kit.keys_in_log()) == 5


def test_the_transaction_of_who_was_refused_can_go_on(kit: StoreKit) -> None:
    add(kit, an_outbox(), 5)
    limit(kit, 5)
    writer = kit.writer()
    if kit.url.dialect == "postgresql":
        writer = psycopg.connect(kit.url.conninfo)
    with closing(writer):
        writer.execute("begin")
        writer.execute("create table business (x int)")
        with pytest.raises(BacklogFull):
            an_outbox().add_all(writer, [Message("orders", {}, key="k")])
        writer.execute("insert into business values (1)")
        writer.execute("commit")

    assert kit.writer().execute("select x from business").fetchall() == [(1,)]


def test_with_the_other_action_add_writes_and_warns_once_in_a_while(
    kit: StoreKit, caplog: pytest.LogCaptureFixture
) -> None:
    add(kit, an_outbox(), 5)
    limit(kit, 5, "warn")
    clock = Clock()

    with caplog.at_level(logging.WARNING, "outbox.writer"):
        events = an_outbox(clock)
        add(kit, events, 3)
        if kit.url.dialect == "postgresql":  # SQLite's state goes by the connection
            add(kit, events, 3)
        assert [record.getMessage() for record in caplog.records] == [
            "about 5 messages wait for the relay, and the limit is 5"
        ]

    assert len(kit.keys_in_log()) == (11 if kit.url.dialect == "postgresql" else 8)


def test_what_is_delivered_makes_room(kit: StoreKit) -> None:
    add(kit, an_outbox(), 5)
    limit(kit, 5)
    clock = Clock()
    events = an_outbox(clock)
    with pytest.raises(BacklogFull):
        add(kit, events)

    drain(kit)
    kit.store().count_backlog()

    clock.now += LOOK_S
    add(kit, events)
    assert len(kit.keys_in_log()) == 6


def test_the_relay_that_is_furthest_behind_counts(kit: StoreKit) -> None:
    add(kit, an_outbox(), 5)
    kit.store().create_relay("audit", "earliest")
    drain(kit)
    limit(kit, 5)

    with pytest.raises(BacklogFull):
        add(kit, an_outbox())


def test_where_no_relay_counts_what_was_written_since_is_added(kit: StoreKit) -> None:
    # Given a count that is fresh, which is trusted, and then one that nobody has renewed
    limit(kit, 5)
    add(kit, an_outbox(), 7)
    MEMORY.forget()
    add(kit, an_outbox())
    ago = "backlog_at - 61" if kit.url.dialect == "sqlite" else "backlog_at - interval '61 seconds'"
    kit.writer().execute(f"update outbox_meta set backlog_at = {ago}")
    MEMORY.forget()

    with pytest.raises(BacklogFull, match="about 8 messages"):
        add(kit, an_outbox())


def test_a_limit_that_nobody_has_counted_for_begins_with_what_is_written(kit: StoreKit) -> None:
    migrate(kit.url, backlog=BacklogLimit(3, "raise"))
    add(kit, an_outbox(), 3)
    MEMORY.forget()

    with pytest.raises(BacklogFull):
        add(kit, an_outbox())


def test_a_limit_is_taken_away(kit: StoreKit) -> None:
    add(kit, an_outbox(), 5)
    limit(kit, 5)
    migrate(kit.url, backlog=NO_LIMIT)
    MEMORY.forget()

    add(kit, an_outbox())
    assert kit.store().backlog().limit is None


def test_what_was_migrated_again_keeps_its_limit(kit: StoreKit) -> None:
    limit(kit, 5)
    migrate(kit.url)

    assert kit.store().backlog().limit == 5


@pytest.mark.parametrize("messages", [0, -1, 2**53])
def test_limits_that_mean_nothing_are_refused(messages: int) -> None:
    with pytest.raises(ConfigurationError, match="use at least 1"):
        BacklogLimit(messages, "raise")


def status(relay: str, lane: str, messages: int, *, exact: bool) -> RelayStatus:
    return RelayStatus(relay, lane, 0, messages, exact, None, None, None, None, ())


def test_bounds_of_several_lanes_are_not_added_up() -> None:
    """Above 10,000 a lane's lag is the distance in the log, which counts all lanes."""
    lanes = [
        status("a", "default", 50_000, exact=False),
        status("a", "bulk", 40_000, exact=False),
        status("a", "urgent", 7, exact=True),
        status("b", "default", 9_000, exact=True),
    ]
    assert backlog_of(lanes) == 50_007


@pytest.mark.postgresql
class TestPostgreSQL:
    @pytest.fixture
    def url(self, postgresql_url: str) -> DatabaseUrl:
        MEMORY.forget()
        url = DatabaseUrl.parse(postgresql_url)
        migrate(url)
        return url

    @pytest.fixture
    def address(self, url: DatabaseUrl, postgresql_url: str) -> str:
        """Give it as SQLAlchemy takes it; the tables are there."""
        assert url.dialect == "postgresql"
        return postgresql_url.replace("postgresql://", "postgresql+psycopg://")

    def test_a_process_looks_once_in_some_seconds(self, address: str) -> None:
        engine = create_engine(address, poolclass=NullPool)
        clock, seen = Clock(), []
        event.listen(
            engine, "before_cursor_execute", lambda *given: seen.append("backlog" in given[2])
        )
        events = an_outbox(clock)

        def looks(count: int) -> int:
            seen.clear()
            with Session(engine) as session, session.begin():
                for _ in range(count):
                    events.add(session, "orders", {}, key="k")
            assert len(seen) - sum(seen) == count
            return sum(seen)

        # Two queries: whether the role may look, and the look. No more without a limit.
        assert looks(20) == 2
        clock.now += LOOK_FOR_LIMIT_S - 0.1
        assert looks(20) == 0
        clock.now += 0.1
        assert looks(20) == 2
        # Every Outbox of the process goes by what one of them has seen
        events = an_outbox(clock)
        assert looks(20) == 0

    def test_it_works_with_asyncio_too(self, url: DatabaseUrl, address: str) -> None:
        kit = StoreKit(url)
        limit(kit, 1)
        kit.commit("a", "b")
        kit.store().count_backlog()

        async def write() -> None:
            engine = create_async_engine(address, poolclass=NullPool)
            async with AsyncSession(engine) as session, session.begin():
                with pytest.raises(BacklogFull):
                    await Outbox().add_async(session, "orders", {}, key="k")
            await engine.dispose()
            async with await psycopg.AsyncConnection.connect(url.conninfo) as connection:
                with pytest.raises(BacklogFull):
                    await Outbox().add_async(connection, "orders", {}, key="k")

        asyncio.run(write())
        assert kit.keys_in_log() == ["a", "b"]
        kit.close()

    def test_a_role_that_may_not_look_writes_as_ever(self, url: DatabaseUrl) -> None:
        # Given a limit that is reached, and a role with the documented minimum alone
        kit = StoreKit(url)
        kit.commit("a", "b")
        limit(kit, 1)
        admin = kit.writer()
        admin.execute("drop role if exists backlog_writer")
        admin.execute("create role backlog_writer")
        try:
            admin.execute(
                "grant insert (topic, key, payload, id) on outbox_message to backlog_writer"
            )
            admin.execute("grant insert (content_type) on outbox_message to backlog_writer")
            admin.execute("grant usage on sequence outbox_message_seq to backlog_writer")
            with psycopg.connect(url.conninfo) as connection:
                connection.execute("set role backlog_writer")
                Outbox().add(connection, "orders", {}, key="c")
            # When it is granted what a writer gets, it sees the limit
            migrate(url, writer_role="backlog_writer")
            MEMORY.forget()
            with psycopg.connect(url.conninfo) as connection:
                connection.execute("set role backlog_writer")
                with pytest.raises(BacklogFull):
                    Outbox().add(connection, "orders", {}, key="d")
        finally:
            admin.execute("drop owned by backlog_writer; drop role backlog_writer")
            kit.close()

    def test_the_relay_role_may_count_pause_and_resume(self, url: DatabaseUrl) -> None:
        kit = StoreKit(url)
        admin = kit.writer()
        admin.execute("drop role if exists backlog_relay")
        admin.execute("create role backlog_relay")
        try:
            migrate(url, relay_role="backlog_relay", backlog=BacklogLimit(1, "raise"))
            store, target = kit.store(), Target(lane="default")
            store.session.connection.execute("set role backlog_relay")
            kit.commit("a")

            store.count_backlog()
            assert store.backlog().messages == 1
            assert store.pauses().pause(target, None, new_action("pause", {}))
            assert store.paused("default").stop("default")
            assert store.pauses().resume([target], new_action("resume", {}))

            with pytest.raises(ConfigurationError, match="permission denied"):
                store._one("update outbox_meta set backlog_limit = 2 returning 1")
        finally:
            store.close()
            admin.execute("drop owned by backlog_relay; drop role backlog_relay")
            kit.close()

    def test_tables_elsewhere_have_a_limit_of_their_own(self, url: DatabaseUrl) -> None:
        kit = StoreKit(url)
        kit.commit("a")
        elsewhere = Names("events", "shop_")
        migrate(url, elsewhere)
        limit(kit, 1)

        with psycopg.connect(url.conninfo) as connection:
            Outbox(schema="events", table_prefix="shop_").add(connection, "orders", {}, key="k")
            with pytest.raises(BacklogFull):
                Outbox().add(connection, "orders", {}, key="k")
        kit.close()
