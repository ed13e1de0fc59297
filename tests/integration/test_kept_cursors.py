"""What `add` keeps of a psycopg connection between calls, and what that must not change."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.string import StrDumper

from outbox import Outbox, SchemaMissing
from outbox.inbox import Inbox, ReceivedMessage
from outbox.migrations import migrate
from outbox.transactions.cursors import IdleCursor
from tests.integration.writing import Database
from tests.waiting import wait_until

EVENTS = Outbox()


@pytest.fixture
def postgresql(postgresql_url: str) -> Database:
    """Give a PostgreSQL that has a log."""
    migrate(postgresql_url)
    return Database(postgresql_url)


def cursors_made(monkeypatch: pytest.MonkeyPatch, cls: type) -> list[None]:
    """Return a list that gets an entry with each new cursor."""
    made: list[None] = []
    init = cls.__init__  # type: ignore[misc]  # of one class, not of an instance

    def noting(*arguments: Any, **options: Any) -> None:
        made.append(None)
        init(*arguments, **options)

    monkeypatch.setattr(cls, "__init__", noting)
    return made


def test_all_messages_of_a_connection_share_a_cursor(
    postgresql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(postgresql.url) as connection:
        EVENTS.add(connection, "orders", 0)
        made = cursors_made(monkeypatch, psycopg.Cursor)
        for number in range(1, 10):
            EVENTS.add(connection, "orders", number)
        assert made == []
    assert len(postgresql.rows()) == 10


def test_all_messages_of_an_asynchronous_connection_share_a_cursor(
    postgresql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(postgresql.url) as connection:
            await EVENTS.add_async(connection, "orders", 0)
            made = cursors_made(monkeypatch, psycopg.AsyncCursor)
            for number in range(1, 10):
                await EVENTS.add_async(connection, "orders", number)
            assert made == []

    asyncio.run(write())
    assert len(postgresql.rows()) == 10


def test_a_connection_that_is_dropped_goes_at_once(postgresql: Database) -> None:
    """Not when the garbage collector comes by: until then its session would stay open."""
    connection = psycopg.connect(postgresql.url)
    EVENTS.add(connection, "orders", b"")
    known = weakref.ref(connection)
    connection.close()
    del connection
    assert known() is None


def test_an_asynchronous_connection_that_is_dropped_goes_at_once(postgresql: Database) -> None:
    async def write() -> weakref.ref[object]:
        connection = await psycopg.AsyncConnection.connect(postgresql.url)
        await EVENTS.add_async(connection, "orders", b"")
        known = weakref.ref(connection)
        await connection.close()
        return known

    assert asyncio.run(write())() is None


def test_a_large_payload_is_not_held_on_to(postgresql: Database) -> None:
    """Where nothing is prepared, a cursor has its last parameters."""
    payload = b"x" * 500_000
    before = sys.getrefcount(payload)
    with psycopg.connect(postgresql.url, prepare_threshold=None) as connection:
        EVENTS.add(connection, "orders", b"small")
        EVENTS.add(connection, "orders", payload)
        assert sys.getrefcount(payload) == before
    assert len(postgresql.rows()) == 2


def test_text_is_written_in_the_encoding_of_the_moment(postgresql: Database) -> None:
    with psycopg.connect(postgresql.url) as connection:
        for encoding, key in [("utf8", "é"), ("latin1", "ü"), ("win1251", "я"), ("utf8", "é")]:
            connection.execute(f"set client_encoding to {encoding}")  # type: ignore[arg-type]
            EVENTS.add(connection, "orders", b"", key="ascii")
            EVENTS.add(connection, "orders", b"", key=key)
    keys = [row["key"] for row in postgresql.rows()]
    assert keys == ["ascii", "é", "ascii", "ü", "ascii", "я", "ascii", "é"]


def test_text_is_written_in_the_encoding_that_another_thread_sets_before(
    postgresql: Database,
) -> None:
    with psycopg.connect(postgresql.url) as connection, psycopg.connect(postgresql.url) as other:
        EVENTS.add(connection, "orders", b"", key="ascii")
        other.execute("select pg_advisory_lock(1)")
        # Given a thread that changes the encoding, in a statement that takes a while
        change = "select pg_advisory_lock(1); set client_encoding to latin1"
        changing = threading.Thread(target=lambda: connection.execute(change))
        changing.start()
        wait_until(connection.lock.locked, what="the other thread to have the connection")
        # When a message is added meanwhile
        adding = threading.Thread(target=lambda: EVENTS.add(connection, "orders", b"", key="é"))
        adding.start()
        other.execute("select pg_advisory_unlock(1)")
        adding.join()
        changing.join()
    # Then what is stored is what was given, whichever came first
    assert [row["key"] for row in postgresql.rows()] == ["ascii", "é"]


def test_values_are_written_as_the_connection_says_by_now(postgresql: Database) -> None:
    class Loud(StrDumper):
        def dump(self, obj: str) -> bytes:
            return obj.upper().encode()

    with psycopg.connect(postgresql.url) as connection:
        EVENTS.add(connection, "t", b"", key="a")
        connection.adapters.register_dumper(str, Loud)
        EVENTS.add(connection, "t", b"", key="b")
        EVENTS.add(connection, "t", b"x" * 100_000, key="c")
        EVENTS.add(connection, "t", b"", key="d")
    assert [row["key"] for row in postgresql.rows()] == ["a", "B", "C", "D"]


def test_many_tasks_on_a_connection_leave_one_cursor(postgresql: Database) -> None:
    """Each would hold on to its parameters."""

    async def write() -> int:
        async with await psycopg.AsyncConnection.connect(postgresql.url) as connection:
            await asyncio.gather(
                *(EVENTS.add_async(connection, "orders", number) for number in range(50))
            )
            gc.collect()
            return sum(type(each) is psycopg.AsyncCursor for each in gc.get_objects())

    assert asyncio.run(write()) == 1


def test_what_a_call_returns_is_its_own_whoever_uses_the_connection_next(
    postgresql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inbox that took a new message for a known one would lose it."""
    inbox = Inbox("billing")
    with psycopg.connect(postgresql.url) as connection:
        known = ReceivedMessage(str(uuid4()), "orders", 0, 0)
        assert inbox.record(connection, known)
        put_back = IdleCursor.put_back

        def put_back_and_used(self: IdleCursor, cursor: object) -> None:
            monkeypatch.undo()
            put_back(self, cursor)
            assert not inbox.record(connection, known)

        monkeypatch.setattr(IdleCursor, "put_back", put_back_and_used)
        assert inbox.record(connection, ReceivedMessage(str(uuid4()), "orders", 0, 0))


def test_threads_may_share_a_connection(postgresql: Database) -> None:
    each, threads = 200, 4
    with psycopg.connect(postgresql.url) as connection:
        connection.execute("select")  # begin: several threads would do so at once
        start = threading.Barrier(threads)

        def write(thread: int) -> None:
            start.wait()
            for number in range(each):
                EVENTS.add(connection, "orders", f"{thread}-{number}".encode(), key=str(thread))

        writers = [threading.Thread(target=write, args=(n,)) for n in range(threads)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    written = [(row["key"], bytes(row["payload"])) for row in postgresql.rows()]
    for thread in range(threads):
        own = [payload for key, payload in written if key == str(thread)]
        assert own == [f"{thread}-{number}".encode() for number in range(each)]


def test_cursors_of_another_class_see_every_message(postgresql: Database) -> None:
    """As instrumentors do, which may come when messages have been written already."""
    seen: list[object] = []

    class Traced(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
            seen.append(query)
            return super().execute(query, *arguments, **options)

    with psycopg.connect(postgresql.url) as connection:
        EVENTS.add(connection, "orders", b"")
        connection.cursor_factory = Traced
        EVENTS.add(connection, "orders", b"")
        EVENTS.add(connection, "orders", b"")
        connection.cursor_factory = psycopg.Cursor
        EVENTS.add(connection, "orders", b"")
    assert len(seen) == 2
    assert len(postgresql.rows()) == 4


def test_a_refused_message_leaves_the_connection_as_good_as_new(postgresql: Database) -> None:
    with psycopg.connect(postgresql.url) as connection:
        EVENTS.add(connection, "orders", b"lost")
        connection.execute("alter table outbox_message rename to away")
        with pytest.raises(SchemaMissing):
            EVENTS.add(connection, "orders", b"refused")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            EVENTS.add(connection, "orders", b"too late")
        connection.rollback()
        EVENTS.add(connection, "orders", b"kept")
    assert [bytes(row["payload"]) for row in postgresql.rows()] == [b"kept"]
