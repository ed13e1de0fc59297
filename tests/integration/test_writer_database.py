"""What the writer asks of the database, and what it says when the database refuses."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.orm import Session

from outbox import (
    ConfigurationError,
    DatabaseUnavailable,
    Message,
    Outbox,
    OutboxError,
    SchemaMissing,
    SchemaTooOld,
)
from outbox.migrations import migrate
from outbox.writer.insert import COLUMNS, array, chunks
from tests.integration.writing import Database
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS = Outbox()

EVERYTHING: dict[str, Any] = {
    "key": "k",
    "type": "t",
    "headers": {"a": "b"},
    "lane": "bulk",
    "content_type": "c",
}


@pytest.fixture
def postgresql(postgresql_url: str) -> Database:
    """Give a PostgreSQL that has a log."""
    migrate(postgresql_url)
    return Database(postgresql_url)


@pytest.fixture
def writer_role(postgresql: Database) -> Iterator[str]:
    """Give a role that has INSERT on a writer's columns and USAGE on the sequence; no more."""
    database = postgresql.url.rpartition("/")[2].partition("?")[0]
    role = f"writer_of_{database}"
    columns = ", ".join(COLUMNS)
    postgresql.execute(f'create role "{role}"')
    postgresql.execute("revoke all on schema public from public")
    postgresql.execute(f'grant usage on schema public to "{role}"')
    postgresql.execute(f'grant insert ({columns}) on outbox_message to "{role}"')
    postgresql.execute(f'grant usage on sequence outbox_message_seq to "{role}"')
    yield role
    postgresql.execute(f'drop owned by "{role}"')
    postgresql.execute(f'drop role "{role}"')


def test_the_least_role_can_write_everything_a_writer_may(
    postgresql: Database, writer_role: str
) -> None:
    """One by one, many at once, in strict order, through the driver and through SQLAlchemy."""
    messages = [Message("orders", n, **EVERYTHING, ordering="strict") for n in range(3)]

    with psycopg.connect(postgresql.url) as connection:
        connection.execute(f'set role "{writer_role}"')
        EVENTS.add(connection, "orders", b"", **EVERYTHING, ordering="strict")
        EVENTS.add_all(connection, messages)
    with Session(postgresql.engine()) as session, session.begin():
        session.connection().exec_driver_sql(f'set role "{writer_role}"')
        EVENTS.add(session, "orders", b"", **EVERYTHING)
        EVENTS.add_all(session, messages)

    assert len(postgresql.rows()) == 8


def test_the_least_role_can_neither_read_nor_forge(postgresql: Database, writer_role: str) -> None:
    """Which is why the INSERT returns nothing."""
    for statement in (
        "select * from outbox_message",
        "insert into outbox_message (topic, key, seq) values ('t', 'k', 1)",
        "insert into outbox_message (topic, key, xid) values ('t', 'k', '7')",
        "insert into outbox_message (topic, key, slot) values ('t', 'k', 1)",
        "insert into outbox_message (topic, key) values ('t', 'k') returning seq",
        "update outbox_message set topic = 't'",
        "delete from outbox_message",
    ):
        with psycopg.connect(postgresql.url) as connection:
            connection.execute(f'set role "{writer_role}"')
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement)


def test_plain_sql_is_enough(postgresql: Database) -> None:
    """From any language: topic, key and payload; the database fills the rest."""
    with psycopg.connect(postgresql.url) as connection:
        connection.execute(
            "insert into outbox_message (topic, key, payload) "
            "values (%s, %s, convert_to(%s, 'UTF8'))",
            ("orders", "1", '{"path": "C:\\new"}'),
        )

    (row,) = postgresql.rows()
    assert bytes(row["payload"]) == b'{"path": "C:\\new"}'
    assert row["id"] is not None
    assert row["seq"] > 0


def test_plain_sql_is_enough_on_sqlite(tmp_path: Path) -> None:
    """There the id is text, as on the wire."""
    url = f"sqlite:///{tmp_path}/log.db"
    migrate(url)
    database = Database(url)

    database.execute(
        "insert into outbox_message (topic, key, payload) values ('orders', '1', x'7b7d')"
    )

    (row,) = database.rows()
    assert (row["payload"], len(row["id"])) == (b"{}", 36)


def test_many_messages_are_one_round_trip(postgresql: Database, tmp_path: Path) -> None:
    """However many there are, up to some megabytes."""
    with psycopg.connect(postgresql.url) as connection:
        EVENTS.add(connection, "orders", 0)  # looks at the limit of the backlog
        trips = _RoundTrips(connection, tmp_path / "trace")
        EVENTS.add_all(connection, [Message("orders", n) for n in range(1, 1000)])

        assert trips.count() == 1
    assert len(postgresql.rows()) == 1000


def test_statements_are_prepared_by_the_driver(postgresql: Database) -> None:
    """Their text does not change with the values."""
    with psycopg.connect(postgresql.url, prepare_threshold=2) as connection:
        for n in range(6):
            EVENTS.add(connection, "orders", n, key=n)
            EVENTS.add_all(connection, [Message("orders", n, key=n) for n in range(n + 1)])
        prepared = connection.execute("select statement from pg_prepared_statements").fetchall()

    assert len([sql for (sql,) in prepared if "outbox_message" in sql]) == 2


def test_strict_ordering_waits_for_the_other_writer_of_the_key(postgresql: Database) -> None:
    """So that `seq` follows the order of commits of that key."""
    started = threading.Event()

    def second() -> None:
        with psycopg.connect(postgresql.url) as other:
            started.set()
            EVENTS.add(other, "second", b"", key="k", ordering="strict")

    with psycopg.connect(postgresql.url) as first:
        # Given a transaction that holds the key
        EVENTS.add(first, "first", b"", key="k", ordering="strict")
        # When another wants it
        thread = threading.Thread(target=second)
        thread.start()
        started.wait(30)
        wait_until(lambda: _waiting(postgresql), what="the second writer to wait for the lock")
        # Then it comes after what the first writes later, too
        EVENTS.add(first, "third", b"", key="k", ordering="strict")
        with psycopg.connect(postgresql.url) as free:
            EVENTS.add(free, "other-key", b"", key="other", ordering="strict")
    thread.join(30)

    topics = postgresql.topics()
    assert topics.index("third") < topics.index("second")
    assert "other-key" in topics


def test_strict_ordering_of_many_keys_takes_them_in_one_order(postgresql: Database) -> None:
    """Two transactions with the same keys in different orders do not wait for each other."""
    keys = [f"k{n}" for n in range(40)]
    barrier = threading.Barrier(2, timeout=30)
    failures: list[BaseException] = []

    def write(order: list[str]) -> None:
        try:
            for _ in range(20):
                barrier.wait()
                with psycopg.connect(postgresql.url) as connection:
                    EVENTS.add_all(
                        connection, [Message("t", b"", key=key, ordering="strict") for key in order]
                    )
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=write, args=(order,)) for order in (keys, keys[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert len(postgresql.rows()) == 2 * 20 * len(keys)


def _waiting(database: Database) -> bool:
    with psycopg.connect(database.url) as connection:
        found = connection.execute(
            "select count(*) from pg_stat_activity "
            "where datname = current_database() and wait_event = 'advisory'"
        ).fetchone()
    return found == (1,)


Refused = tuple[str, type[OutboxError], str]


@pytest.mark.parametrize(
    ("before", "error", "sentence"),
    [
        (
            "drop table outbox_message cascade",
            SchemaMissing,
            'relation "outbox_message" does not e',
        ),
        ("alter table outbox_message rename to mine", SchemaMissing, "Run `outbox-relay migrate`"),
        ("alter table outbox_message drop column lane", SchemaTooOld, 'column "lane" of relation'),
        ("set local transaction read only", DatabaseUnavailable, "write on the primary"),
        (
            "create role nobody_at_all; set local role nobody_at_all",
            ConfigurationError,
            "--writer-r",
        ),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_a_refusal_of_postgresql_is_explained(
    postgresql: Database, before: str, error: type[OutboxError], sentence: str, many: bool
) -> None:
    """With the driver's own error as its cause."""
    with psycopg.connect(postgresql.url) as connection:
        connection.execute(before)
        with pytest.raises(error) as caught:
            _write(connection, many)
        connection.rollback()
    with Session(postgresql.engine()) as session:
        session.connection().exec_driver_sql(before)
        with pytest.raises(error) as through_sqlalchemy:
            _write(session, many)

    assert sentence in str(caught.value)
    assert "nothing was written" in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert str(through_sqlalchemy.value) == str(caught.value)


@pytest.mark.parametrize(
    ("before", "error", "sentence"),
    [
        (
            "drop table outbox_message",
            SchemaMissing,
            "no such table: outbox_message; nothing was w",
        ),
        ("alter table outbox_message drop column lane", SchemaTooOld, "has no column named lane"),
        ("pragma query_only = on", DatabaseUnavailable, "attempt to write a readonly database"),
    ],
)
def test_a_refusal_of_sqlite_is_explained(
    tmp_path: Path, before: str, error: type[OutboxError], sentence: str
) -> None:
    """SQLite has no codes for these, only words."""
    migrate(f"sqlite:///{tmp_path}/log.db")
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute(before)
        for many in (False, True):
            with pytest.raises(error) as caught:
                _write(connection, many)
            assert sentence in str(caught.value)


def test_a_schema_that_is_not_there_is_explained(postgresql: Database) -> None:
    """The setting is most likely wrong."""
    with (
        psycopg.connect(postgresql.url) as connection,
        pytest.raises(SchemaMissing, match="tell the Outbox where its tables are: schema="),
    ):
        Outbox(schema="elsewhere").add(connection, "orders", b"")


def test_an_error_to_retry_on_passes_through(postgresql: Database) -> None:
    """The caller's retries look for the driver's classes."""
    with psycopg.connect(postgresql.url) as connection:
        connection.execute(
            "create function slow() returns trigger language plpgsql as "
            "$$ begin perform pg_sleep(5); return new; end $$"
        )
        connection.execute(
            "create trigger slow before insert on outbox_message "
            "for each row execute function slow()"
        )
        connection.execute("set local statement_timeout = 1")
        with pytest.raises(errors.QueryCanceled):
            EVENTS.add(connection, "orders", b"")


def _write(transaction: object, many: bool) -> None:
    if many:
        EVENTS.add_all(transaction, [Message("orders", b"", lane="bulk")])
    else:
        EVENTS.add(transaction, "orders", b"", lane="bulk")


def test_arrays_read_back_as_they_were(postgresql_url: str) -> None:
    """Quotes, backslashes, NULL, empty text and bytes of every value."""
    texts = [
        "",
        "NULL",
        "null",
        None,
        '"',
        "\\",
        '{"a":"\\\\"}',
        "a,b",
        " x ",
        "\n\t",
        "ü✓\U0001d4b3",
        "{}",
    ]
    blobs = [b"", None, bytes(range(256)), b"\\x", b'"']

    with psycopg.connect(postgresql_url) as connection:
        found = connection.execute(
            "select cast(cast(%s as text) as text[]), cast(cast(%s as text) as bytea[])",
            (array(texts), array(blobs)),
        ).fetchone()

    assert found == (texts, blobs)


def test_chunks_keep_order_and_size() -> None:
    """Each has at most the limit, or is one row that has more."""
    rows: list[dict[str, object]] = [{"payload": bytes(size)} for size in (4, 4, 3, 20, 1, 9, 1)]

    cut = [[len(row["payload"]) for row in chunk] for chunk in chunks(rows, limit=10)]  # type: ignore[arg-type]  # bytes

    assert cut == [[4, 4], [3], [20], [1, 9], [1]]
    assert list(chunks([], limit=10)) == []
    assert list(chunks([{"topic": "t"}], limit=10)) == [[{"topic": "t"}]]


class _RoundTrips:
    """Counts how often a connection waits for the server, in libpq's own trace of what it sends."""

    def __init__(self, connection: psycopg.Connection[Any], file: Path) -> None:
        self._connection = connection
        self._file = file.open("w+b")
        connection.pgconn.trace(self._file.fileno())

    def count(self) -> int:
        """Return how many there were."""
        self._connection.pgconn.untrace()
        with self._file as file:
            file.seek(0)
            return file.read().count(b"\tSync")
