"""Messages that wait: what is written, taken back and released, in whatever transaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from outbox import InvalidMessage, Message, NotInTransaction, Outbox, OutboxError
from outbox.migrations import migrate
from tests.integration.test_writer import begin, database, driver, session  # noqa: F401 - fixtures
from tests.integration.test_writer_async import driver as async_driver
from tests.integration.test_writer_async import session as async_session
from tests.integration.writing import Database
from tests.waiting import wait_until

EVENTS = Outbox()

AT = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
HOUR = timedelta(hours=1)

Begin = Callable[[Database], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Waiting:
    """A row that is committed; `due`: seconds since 1970."""

    id: UUID
    topic: str
    due: float | None
    wait_for: str | None


def waiting(database: Database) -> list[Waiting]:  # noqa: F811 - not the fixture
    """Return what waits, in the order of writing."""
    due = "extract(epoch from due_at)::float8" if database.is_postgresql else "due_at"
    with database._connection() as connection:
        rows = connection.execute(
            f"select id, topic, {due} as due, wait_for from outbox_scheduled order by no"
        ).fetchall()
    return [
        Waiting(UUID(str(row["id"])), row["topic"], row["due"], row["wait_for"]) for row in rows
    ]


def clock(database: Database) -> float:  # noqa: F811 - as above
    """Return the database's time."""
    now = (
        "extract(epoch from clock_timestamp())::float8"
        if database.is_postgresql
        else "(julianday('now') - 2440587.5) * 86400.0"
    )
    with database._connection() as connection:
        return float(connection.execute(f"select {now} as now").fetchone()["now"])


def test_what_waits_is_beside_the_log(database: Database, begin: Begin) -> None:  # noqa: F811
    before = clock(database)
    with begin(database) as transaction:
        at = EVENTS.add(transaction, "at", {}, key="k", deliver_at=AT)
        EVENTS.add(transaction, "delay", {}, key="k", delay=HOUR)
        EVENTS.add(transaction, "condition", {}, key="k", wait_for="payment-42")
        EVENTS.add(transaction, "both", {}, key="k", wait_for="payment-42", deliver_at=AT)
    after = clock(database)

    rows = waiting(database)
    assert rows[0] == Waiting(at.id, "at", pytest.approx(AT.timestamp(), abs=1e-6), None)
    assert rows[1].topic == "delay"
    assert before - 0.002 <= (rows[1].due or 0) - 3600 <= after + 0.002
    assert rows[2:] == [
        Waiting(rows[2].id, "condition", None, "payment-42"),
        Waiting(rows[3].id, "both", pytest.approx(AT.timestamp(), abs=1e-6), "payment-42"),
    ]
    assert database.rows() == []


def test_everything_else_of_a_message_is_kept(database: Database, begin: Begin) -> None:  # noqa: F811
    more = {"type": "y", "headers": {"h": "ü"}, "lane": "bulk", "content_type": "c"}
    with begin(database) as transaction:
        EVENTS.add(transaction, "orders", b"\\x00\x00", key="ü", delay=HOUR, **more)  # type: ignore[arg-type]  # of several types
    database.execute(
        "insert into outbox_message (topic, payload, key, type, headers, lane, content_type)"
        " select topic, payload, key, type, headers, lane, content_type from outbox_scheduled"
    )
    (row,) = database.rows()
    assert (bytes(row["payload"]), row["key"], row["type"]) == (b"\\x00\x00", "ü", "y")
    assert (row["lane"], row["content_type"]) == ("bulk", "c")


def test_several_at_once_go_where_they_belong(database: Database, begin: Begin) -> None:  # noqa: F811
    messages = [
        Message("now-1", {}),
        Message("later", {}, deliver_at=AT),
        Message("now-2", {}),
        Message("released", {}, wait_for="a", key="k"),
        Message("delayed", {}, delay=HOUR),
    ]
    with begin(database) as transaction:
        EVENTS.add_all(transaction, messages)

    assert database.topics() == ["now-1", "now-2"]
    assert [row.topic for row in waiting(database)] == ["later", "released", "delayed"]
    assert [row.id for row in waiting(database)] == [messages[i].id for i in (1, 3, 4)]


def test_a_time_in_the_past_is_due_at_once(database: Database) -> None:  # noqa: F811
    with session(database) as transaction:
        EVENTS.add(transaction, "t", {}, deliver_at=datetime(1, 1, 1, tzinfo=UTC))
        EVENTS.add(transaction, "t", {}, delay=timedelta(0))

    assert all((row.due or 0) <= clock(database) + 0.002 for row in waiting(database))


def test_cancelling_says_whether_it_was_still_there(database: Database, begin: Begin) -> None:  # noqa: F811
    with begin(database) as transaction:
        kept = EVENTS.add(transaction, "kept", {}, delay=HOUR)
        message = EVENTS.add(transaction, "t", {}, wait_for="a")
    with begin(database) as transaction:
        assert EVENTS.cancel(transaction, message.id) is True
        assert EVENTS.cancel(transaction, str(message.id)) is False
        assert EVENTS.cancel(transaction, uuid4()) is False

    assert [row.id for row in waiting(database)] == [kept.id]


def test_releasing_says_how_many_that_were(database: Database, begin: Begin) -> None:  # noqa: F811
    with begin(database) as transaction:
        for condition in ("a", "a", "b", "c"):
            EVENTS.add(transaction, condition, {}, wait_for=condition)
        EVENTS.add(transaction, "not-before", {}, wait_for="a", deliver_at=AT)
    before = clock(database)
    with begin(database) as transaction:
        assert EVENTS.release(transaction, "a", "b", "a") == 4
        assert EVENTS.release(transaction, "a") == 0
        assert EVENTS.release(transaction, "unknown") == 0

    rows = {row.topic: row for row in waiting(database)}
    assert {topic: row.wait_for for topic, row in rows.items()} == {
        **dict.fromkeys(("a", "b", "not-before")),
        "c": "c",
    }
    # It is due as of its release, and what has a later time keeps it
    assert before - 0.002 <= (rows["a"].due or 0) <= clock(database) + 0.002
    assert rows["not-before"].due == pytest.approx(AT.timestamp(), abs=1e-6)
    # Released together, they keep the order of writing
    assert len({row.due for topic, row in rows.items() if topic in "ab"}) == 1


def test_a_rollback_takes_everything_back(database: Database, begin: Begin) -> None:  # noqa: F811
    with begin(database) as transaction:
        message = EVENTS.add(transaction, "t", {}, delay=HOUR)
        EVENTS.add(transaction, "t", {}, wait_for="a")
    before = waiting(database)

    with suppress(ZeroDivisionError), begin(database) as transaction:
        EVENTS.add(transaction, "t", {}, delay=HOUR)
        assert EVENTS.cancel(transaction, message.id) is True
        assert EVENTS.release(transaction, "a") == 1
        raise ZeroDivisionError

    assert waiting(database) == before


def test_outside_of_a_transaction_nothing_happens(postgresql_url: str) -> None:
    migrate(postgresql_url)
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        for act in (
            lambda: EVENTS.add(connection, "t", {}, delay=HOUR),
            lambda: EVENTS.cancel(connection, uuid4()),
            lambda: EVENTS.release(connection, "a"),
        ):
            with pytest.raises(NotInTransaction):
                act()


def test_bad_names_and_ids_are_refused(database: Database) -> None:  # noqa: F811
    with session(database) as transaction:
        with pytest.raises(InvalidMessage, match="id must be a UUID, not str 'x'"):
            EVENTS.cancel(transaction, "x")
        with pytest.raises(InvalidMessage, match="needs the name of a condition"):
            EVENTS.release(transaction)
        with pytest.raises(InvalidMessage, match="condition 'a b' is not a valid name"):
            EVENTS.release(transaction, "a", "a b")
        with pytest.raises(InvalidMessage, match="condition \\['a'\\] is not a valid name"):
            EVENTS.release(transaction, ["a"])  # type: ignore[arg-type]  # the point


def test_the_wrong_object_is_named(database: Database) -> None:  # noqa: F811
    with pytest.raises(TypeError, match=r"release\(\) needs a SQLAlchemy Session"):
        EVENTS.release("a", "b")
    with (
        session(database) as transaction,
        pytest.raises(TypeError, match=r"use cancel\(…\)"),
    ):
        EVENTS.cancel_async(transaction, uuid4())


@pytest.mark.parametrize("begin_async", [async_session, async_driver])
def test_asyncio_does_the_same(postgresql_url: str, begin_async: Any) -> None:
    migrate(postgresql_url)
    database = Database(postgresql_url)  # noqa: F811 - not the fixture

    async def work() -> None:
        async with begin_async(database) as transaction:
            one = await EVENTS.add_async(transaction, "one", {}, delay=HOUR)
            two = [Message("now", {}), Message("two", {}, wait_for="a")]
            await EVENTS.add_all_async(transaction, two)
            assert await EVENTS.cancel_async(transaction, one.id) is True
            assert await EVENTS.release_async(transaction, "a", "b") == 1

    asyncio.run(work())

    (row,) = waiting(database)
    assert (row.topic, row.wait_for) == ("two", None)
    assert database.topics() == ["now"]


@pytest.mark.filterwarnings("ignore:release_async of a was never awaited:RuntimeWarning")
def test_a_release_that_was_never_awaited_keeps_the_session_from_committing(
    postgresql_url: str,
) -> None:
    migrate(postgresql_url)

    async def forget() -> None:
        async with async_session(Database(postgresql_url)) as transaction:
            EVENTS.release_async(transaction, "a")

    with pytest.raises(OutboxError, match="release_async of a was never awaited"):
        asyncio.run(forget())


def test_a_release_waits_for_who_is_writing_what_it_releases(postgresql_url: str) -> None:
    migrate(postgresql_url)
    # Given a transaction that has written a message that waits, and has not ended
    with closing(psycopg.connect(postgresql_url)) as writing:
        EVENTS.add(writing, "t", {}, wait_for="a")
        released: list[int] = []

        def release() -> None:
            with psycopg.connect(postgresql_url) as releasing:
                released.append(EVENTS.release(releasing, "a"))

        # When another releases the condition
        thread = threading.Thread(target=release)
        thread.start()
        with closing(psycopg.connect(postgresql_url, autocommit=True)) as looking:
            wait_until(
                lambda: looking.execute(
                    "select true from pg_locks where locktype = 'advisory' and not granted"
                ).fetchone(),
                what="a release that waits",
            )
        # Then it waits, and finds the message
        writing.commit()
        thread.join()
    assert released == [1]


def test_who_writes_what_waits_for_the_same_does_not_wait_for_another(postgresql_url: str) -> None:
    migrate(postgresql_url)
    with psycopg.connect(postgresql_url) as one, psycopg.connect(postgresql_url) as other:
        EVENTS.add(one, "t", {}, wait_for="a")
        other.execute("set lock_timeout = '1s'")
        EVENTS.add(other, "t", {}, wait_for="a")


def test_plain_sql_is_enough(database: Database) -> None:  # noqa: F811
    at = "now() + interval '1 hour'" if database.is_postgresql else "strftime('%s', 'now') + 3600"
    database.execute(
        f"insert into outbox_scheduled (topic, key, payload, due_at) values ('t', 'k', 'x', {at})"
    )
    assert (waiting(database)[0].due or 0) == pytest.approx(clock(database) + 3600, abs=5)


@pytest.mark.parametrize(
    "values",
    [
        "(topic, key) values ('t', 'k')",
        "(topic, key, wait_for) values ('t', 'k', 'a b')",
        "(topic, key, wait_for) values ('t', 'k', '')",
        "(topic, key, due_at) values ('t', 'k', 'infinity')",
        "(topic, key, due_at) values ('t', 'k', '-infinity')",
        "(topic, due_at) values ('t', '2030-01-01')",
        "(topic, key, due_at) values ('a b', 'k', '2030-01-01')",
    ],
)
def test_a_row_that_could_never_be_sent_is_refused(database: Database, values: str) -> None:  # noqa: F811
    with pytest.raises(Exception, match="constraint"):
        database.execute(f"insert into outbox_scheduled {values}")
    assert waiting(database) == []


def test_the_checks_are_those_of_the_log(postgresql_url: str) -> None:
    migrate(postgresql_url)
    checks = """
        select replace(conname, %(table)s || '_', ''), pg_get_constraintdef(oid)
          from pg_constraint where conrelid = (%(table)s)::regclass and contype = 'c'"""
    with psycopg.connect(postgresql_url) as connection:
        log = dict(connection.execute(checks, {"table": "outbox_message"}).fetchall())
        scheduled = dict(connection.execute(checks, {"table": "outbox_scheduled"}).fetchall())
    assert log.items() <= scheduled.items()
    assert scheduled.keys() - log.keys() == {"due_at_check", "wait_for_check", "reason_check"}


def test_a_driver_is_all_that_is_needed(postgresql_url: str) -> None:
    migrate(postgresql_url)
    with driver(Database(postgresql_url)) as connection, connection.pipeline():
        message = EVENTS.add(connection, "t", {}, delay=HOUR)
        assert EVENTS.cancel(connection, message.id) is True
