"""Many messages recorded with one statement, in every kind of transaction."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from outbox.errors import (
    ConfigurationError,
    InvalidMessage,
    NotInTransaction,
    OutboxError,
    SchemaMissing,
)
from outbox.inbox import Inbox
from outbox.migrations import migrate
from tests.integration.recording import KINDS, Kind, Named
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.postgresql import PostgreSQLServer

INBOX = Inbox("billing")
_NUMBERS = itertools.count()

#: Text that a literal, a parameter's mark, JSON or a driver could take for something else.
AWKWARD = (
    *("'", '"', "\\", "\n\t\x01", "%s %(id)s %", ":ids ::text", "$1", "{}", '{"a": [1]}', "null"),
    *("1", " 1 ", "true", "\\u0041", "ü", "😀", "e\u0301", "\u00e9", "A", "a", "\x7f\u2028\ufeff"),
    "".join(chr(0x4E00 + (i * i * 7919) % 20000) for i in range(341)),
)


@pytest.fixture(
    params=[
        pytest.param(
            kind,
            id=f"{kind.database}-{kind.name}",
            marks=[pytest.mark.postgresql] if kind.database == "postgresql" else [],
        )
        for kind in KINDS
    ]
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Give each kind of transaction."""
    return request.param  # type: ignore[no-any-return]  # of the list above


@pytest.fixture
def url(kind: Kind, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database of that kind, with the inbox's tables."""
    if kind.database == "postgresql":
        made: str = request.getfixturevalue("shared_postgresql")
    else:
        made = f"sqlite:///{tmp_path}/inbox.db"
        migrate(made, only="inbox")
    return made


@pytest.fixture(scope="module")
def shared_postgresql(postgresql_server: PostgreSQLServer) -> Iterator[str]:
    """Give a database that all kinds share: to make one for each takes longer than the test."""
    url = postgresql_server.create_database()
    migrate(url, only="inbox")
    yield url
    postgresql_server.drop_database(urlsplit(url).path[1:])


@pytest.fixture
def inbox() -> Inbox:
    """Give the inbox of a consumer of its own."""
    return Inbox(f"consumer-{next(_NUMBERS)}")


@pytest.fixture
def postgresql(postgresql_url: str) -> str:
    """Give the URL of a PostgreSQL database that has the inbox's tables."""
    migrate(postgresql_url, only="inbox")
    return postgresql_url


@pytest.fixture
def connection(postgresql: str) -> Iterator[psycopg.Connection]:
    """Give a connection to it."""
    with closing(psycopg.connect(postgresql)) as opened:
        yield opened


def named(ids: Iterable[str]) -> list[Named]:
    return [Named(name, place) for place, name in enumerate(ids)]


def test_those_that_are_new_come_back_in_the_order_given(
    kind: Kind, url: str, inbox: Inbox
) -> None:
    # Given two messages that took effect, one of them in a batch
    with kind.begin(url) as opened:
        assert opened.record(inbox, Named("c"))
        assert opened.record_all(inbox, [Named("x")]) == [Named("x")]

    # When a batch has them, an id twice, and others in no order
    batch = named(["z", "c", "a", "z", "x", "b", "a"])
    with kind.begin(url) as opened:
        new = opened.record_all(inbox, batch)

        # Then the new ones are given back as they were given, of the same id the first
        assert new == [batch[0], batch[2], batch[5]]
        assert all(any(one is given for given in batch) for one in new)

        # And from then on they are known, to both ways
        assert opened.record_all(inbox, batch) == []
        assert not opened.record(inbox, Named("b"))

    # And so they are after the commit, to this consumer
    with kind.begin(url) as opened:
        assert opened.record_all(inbox, batch) == []
        assert opened.record_all(Inbox(inbox.consumer + "-2"), batch[:2]) == batch[:2]


def test_a_rollback_forgets_all_of_them(kind: Kind, url: str, inbox: Inbox) -> None:
    def fail() -> None:
        with kind.begin(url) as opened:
            assert len(opened.record_all(inbox, named("abc"))) == 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    with kind.begin(url) as opened:
        assert len(opened.record_all(inbox, named("abc"))) == 3


def test_every_text_is_the_id_that_it_is(kind: Kind, url: str, inbox: Inbox) -> None:
    with kind.begin(url) as opened:
        # Given some that were recorded one by one
        for name in AWKWARD[::2]:
            assert opened.record(inbox, Named(name))

        # Then a batch finds these and no others, though some look nearly alike
        assert opened.record_all(inbox, named(AWKWARD)) == named(AWKWARD)[1::2]

        # And they were written as they are
        assert not any(opened.record(inbox, Named(name)) for name in AWKWARD)


def test_a_large_batch_is_one_statement(postgresql: str) -> None:
    # Given an engine whose statements are counted, and a batch that is known by half
    engine = create_engine(_for_sqlalchemy(postgresql), poolclass=NullPool)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    batch = named(f"message-{n:05}" for n in range(5_000))
    with engine.begin() as transaction:
        assert INBOX.record_all(transaction, reversed(batch[::2])) == batch[::2][::-1]
        statements.clear()

        # Then the other half comes back, by one statement
        assert INBOX.record_all(transaction, batch) == batch[1::2]
        assert len(statements) == 1


def test_an_empty_batch_is_no_statement_and_wants_a_transaction(postgresql: str) -> None:
    engine = create_engine(_for_sqlalchemy(postgresql), poolclass=NullPool)
    event.listen(engine, "before_cursor_execute", lambda *_: pytest.fail("a statement"))
    with engine.begin() as transaction:
        assert INBOX.record_all(transaction, []) == []
        assert INBOX.record_all(transaction, iter(())) == []
    with (
        psycopg.connect(postgresql, autocommit=True) as connection,
        pytest.raises(NotInTransaction),
    ):
        INBOX.record_all(connection, [])


def test_a_batch_outside_a_transaction_is_refused(connection: psycopg.Connection) -> None:
    connection.autocommit = True
    with pytest.raises(NotInTransaction, match="nothing was written"):
        INBOX.record_all(connection, named("abc"))
    with connection.transaction():
        assert len(INBOX.record_all(connection, named("abc"))) == 3


def test_what_is_no_transaction_is_a_type_error_that_says_what_to_do(postgresql: str) -> None:
    engine = create_engine(_for_sqlalchemy(postgresql))
    with pytest.raises(TypeError, match=r"record_all\(\) needs .*engine\.begin\(\)"):
        INBOX.record_all(engine, named("a"))


def test_one_message_in_place_of_several_is_a_type_error_that_names_the_other_verb(
    connection: psycopg.Connection,
) -> None:
    with pytest.raises(TypeError, match=r"several messages, not Named; .* there is record\(\)"):
        INBOX.record_all(connection, Named("a"))  # type: ignore[arg-type]  # the mistake


def test_each_verb_sends_the_others_transactions_to_the_other(
    connection: psycopg.Connection,
) -> None:
    with pytest.raises(TypeError, match=r"not asynchronous: use record_all\(…\)"):
        asyncio.run(INBOX.record_all_async(connection, named("a")))
    session = AsyncSession(create_async_engine("postgresql+psycopg://"))
    with pytest.raises(TypeError, match=r"use `await record_all_async\(…\)`"):
        INBOX.record_all(session, named("a"))


@pytest.mark.parametrize("bad", ["", "a\0b", "x" * 1025, "\ud800", None, 7])
def test_an_id_that_cannot_be_stored_is_named_by_its_place_and_nothing_is_recorded(
    connection: psycopg.Connection, bad: str
) -> None:
    with pytest.raises(InvalidMessage, match=r"^messages\[2\]'s id .*record_all\(\) takes"):
        INBOX.record_all(connection, [Named("a"), Named("b"), Named(bad)])
    assert len(INBOX.record_all(connection, named("ab"))) == 2


def test_missing_tables_are_told_apart_from_a_missing_right(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url) as connection, pytest.raises(SchemaMissing):
        INBOX.record_all(connection, named("a"))


def test_the_rights_that_the_error_names_are_the_ones_it_takes(
    connection: psycopg.Connection,
) -> None:
    # Given a role that may only insert, which is enough for one at a time
    connection.execute("drop role if exists inbox_batch_writer")
    connection.execute("create role inbox_batch_writer")
    connection.execute("grant insert on inbox_message to inbox_batch_writer")
    connection.execute("savepoint made")
    connection.execute("set local role inbox_batch_writer")
    assert INBOX.record(connection, Named("a"))

    # When it records a batch, then the error names a grant
    with pytest.raises(ConfigurationError, match="record_all") as refused:
        INBOX.record_all(connection, named("ab"))
    connection.execute("rollback to made")
    grant = str(refused.value).partition(": grant ")[2].replace("…", "inbox_batch_writer")
    connection.execute(f"grant {grant}")

    # And with that it works
    connection.execute("set local role inbox_batch_writer")
    assert len(INBOX.record_all(connection, named("ab"))) == 2
    connection.rollback()  # takes the role back too


def test_ids_that_a_driver_changed_are_an_error_and_no_repeats(
    connection: psycopg.Connection,
) -> None:
    # Given a connection that loads text in a way of its own
    class Loud(psycopg.adapt.Loader):
        def load(self, data: psycopg.abc.Buffer) -> str:
            return bytes(data).decode().upper()

    connection.adapters.register_loader("text", Loud)

    # Then nobody is told that new messages were known
    with pytest.raises(OutboxError, match="loader"):
        INBOX.record_all(connection, named("ab"))


@pytest.mark.parametrize(("end", "new"), [("commit", ["c", "a"]), ("rollback", ["c", "b", "a"])])
def test_a_batch_waits_for_how_a_transaction_with_one_of_them_ends(
    postgresql: str, end: str, new: list[str]
) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(postgresql) as first,
        psycopg.connect(postgresql) as second,
    ):
        # Given a transaction that has recorded one of the messages and is open
        assert INBOX.record(first, Named("b"))

        # When a second one records all
        waiting: Future[list[Named]] = pool.submit(INBOX.record_all, second, named("cba"))
        wait_until(lambda: _waits(postgresql, second), what="the second to wait for a lock")
        assert not waiting.done()

        # Then its answer depends on how the first one ends
        getattr(first, end)()
        assert [message.id for message in waiting.result(timeout=30)] == new


def test_batches_in_opposite_order_wait_for_each_other_and_never_in_a_circle(
    postgresql: str,
) -> None:
    # Given two transactions in opposite order: each row takes its time, so that they must meet
    slow = """
        create function slow() returns trigger language plpgsql as
        $$ begin perform pg_sleep(0.02); return new; end $$;
        create trigger slow before insert on inbox_message for each row execute function slow()
    """
    with psycopg.connect(postgresql) as connection:
        connection.execute(slow)
    batch = named(f"m-{n}" for n in range(12))
    start = threading.Barrier(2)

    def record(messages: list[Named]) -> list[Named]:
        with psycopg.connect(postgresql) as connection:
            connection.execute("set deadlock_timeout = '10ms'")
            start.wait(timeout=30)
            return INBOX.record_all(connection, messages)

    # When they record the same messages at the same time
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(record, messages) for messages in (batch, batch[::-1])]
        found = [each.result(timeout=60) for each in both]

    # Then none fell victim to a deadlock, and one of them has all
    assert sorted(map(len, found)) == [0, 12]


def test_of_many_threads_with_overlapping_batches_each_message_is_new_to_one(
    postgresql: str,
) -> None:
    # Given threads whose batches overlap, each in an order of its own
    start = threading.Barrier(4)

    def record(thread: int) -> list[str]:
        new: list[str] = []
        with psycopg.connect(postgresql) as connection:
            start.wait(timeout=30)
            for first in range(0, 200, 10):
                ids = [f"m-{(first + (n + thread) * 7) % 200}" for n in range(40)]
                new += [message.id for message in INBOX.record_all(connection, named(ids))]
                connection.commit()
        return new

    # When they record them at the same time
    with ThreadPoolExecutor(4) as pool:
        taken = [name for new in pool.map(record, range(4)) for name in new]

    # Then each was new to exactly one
    assert sorted(taken) == sorted(f"m-{n}" for n in range(200))


def _waits(url: str, connection: psycopg.Connection) -> bool:
    query = "select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
    with psycopg.connect(url) as observer:
        return observer.execute(query, [connection.info.backend_pid]).fetchone() is not None


def _for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")
