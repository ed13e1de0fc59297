"""What `add` and `add_all` write, in whatever transaction the caller has."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from outbox import InvalidMessage, Message, MessageTooLarge, Outbox, UnknownLane
from outbox.errors import ConfigurationError, PayloadNotSerializable
from outbox.migrations import migrate
from outbox.names import Names
from tests.integration.writing import Database

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = Outbox()

#: Gives the caller's transaction object; commits unless the block raises.
Begin = Callable[[Database], AbstractContextManager[Any]]


@contextmanager
def session(database: Database) -> Iterator[Session]:
    """SQLAlchemy's Session."""
    with Session(database.engine()) as opened, opened.begin():
        yield opened


@contextmanager
def scoped(database: Database) -> Iterator[Any]:
    """SQLAlchemy's scoped_session, which is Flask-SQLAlchemy's db.session as well."""
    registry = scoped_session(sessionmaker(database.engine()))
    with registry.begin():
        yield registry
    registry.remove()


@contextmanager
def connection(database: Database) -> Iterator[Any]:
    """SQLAlchemy's Connection."""
    with database.engine().begin() as opened:
        yield opened


@contextmanager
def driver(database: Database) -> Iterator[Any]:
    """The driver's own connection: psycopg's or sqlite3's."""
    if database.is_postgresql:
        with psycopg.connect(database.url) as opened:
            yield opened
        return
    with closing(sqlite3.connect(database.path)) as opened, opened:
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


@pytest.fixture(params=[session, scoped, connection, driver], ids=lambda begin: begin.__name__)
def begin(request: pytest.FixtureRequest) -> Begin:
    """Give each way to have a transaction."""
    return request.param  # type: ignore[no-any-return]  # of the list above


def test_every_column_is_written(database: Database, begin: Begin) -> None:
    """As it was given, and nothing else."""
    # Given a message with everything a writer may say
    given = UUID("0190163d-8694-739b-aea5-966c26f8ad90")

    # When it is added and the transaction commits
    with begin(database) as transaction:
        message = EVENTS.add(
            transaction,
            "orders",
            {"total": Decimal("1.10"), "note": "straße \\ \" 'x' %s :y"},
            key="k:1 %s 'ü'",
            type="order.placed",
            headers={"tenant": 'a"c\\me', "empty": ""},
            id=given,
            lane="bulk",
            content_type="application/vnd.order+json",
        )

    # Then it is in the log
    (row,) = database.rows()
    assert message.id == given
    assert row["topic"] == "orders"
    assert row["key"] == message.key == "k:1 %s 'ü'"
    assert bytes(row["payload"]) == (
        '{"total":"1.10","note":"straße \\\\ \\" \'x\' %s :y"}'.encode()
    )
    assert str(row["id"]) == str(given)
    assert (row["type"], row["lane"]) == ("order.placed", "bulk")
    assert row["content_type"] == "application/vnd.order+json"
    assert _json(row["headers"]) == {"tenant": 'a"c\\me', "empty": ""}
    assert row["traceparent"] is row["tracestate"] is row["expires_at"] is row["key_id"] is None


def test_what_is_not_given_is_null(database: Database, begin: Begin) -> None:
    """Bytes get no content type, since nobody said what they are."""
    with begin(database) as transaction:
        EVENTS.add(transaction, "orders", b"\x00\xff%s:x")

    (row,) = database.rows()
    assert bytes(row["payload"]) == b"\x00\xff%s:x"
    for column in ("key", "type", "content_type", "headers", "lane"):
        assert row[column] is None


def test_many_are_written_in_their_order(database: Database, begin: Begin) -> None:
    """Whatever columns each of them has; `seq` follows the list."""
    messages = [
        Message("orders", {"n": 0}, key=0),
        Message("orders", None, key='NULL,"{}\\'),
        Message("other", b"\x00\\\"'", type='q"\\', headers=[("a", "1"), ("a", '{"}\\')]),
        Message("orders", memoryview(b"view"), lane="bulk"),
        Message("orders", bytearray(b"array"), content_type="text/plain", key=""),
        *(Message("orders", n, key=n) for n in range(200)),
    ]

    with begin(database) as transaction:
        EVENTS.add_all(transaction, messages)

    rows = database.rows()
    assert [str(row["id"]) for row in rows] == [str(message.id) for message in messages]
    assert [row["key"] for row in rows] == [message.key for message in messages]
    payloads = [row["payload"] if row["payload"] is None else bytes(row["payload"]) for row in rows]
    assert payloads[:5] == [b'{"n":0}', None, b"\x00\\\"'", b"view", b"array"]
    assert payloads[5:] == [str(n).encode() for n in range(200)]
    assert rows[2]["type"] == 'q"\\'
    assert _json(rows[2]["headers"]) == [["a", "1"], ["a", '{"}\\']]
    assert [row["content_type"] for row in rows[:5]] == [
        "application/json",
        None,
        None,
        None,
        "text/plain",
    ]
    assert [row["lane"] for row in rows[:5]] == [None, None, None, "bulk", None]


def test_an_iterator_of_messages_will_do(database: Database, begin: Begin) -> None:
    """Also an empty one, which writes nothing."""
    with begin(database) as transaction:
        EVENTS.add_all(transaction, (Message("orders", n) for n in range(2)))
        EVENTS.add_all(transaction, [])

    assert database.topics() == ["orders", "orders"]


def test_a_rollback_drops_the_message(database: Database, begin: Begin) -> None:
    """Both happen or neither."""
    with suppress(ZeroDivisionError), begin(database) as transaction:
        EVENTS.add(transaction, "orders", b"")
        EVENTS.add_all(transaction, [Message("orders", b"")])
        raise ZeroDivisionError

    assert database.rows() == []


def test_nothing_is_committed_by_add(database: Database) -> None:
    """Leaving without a commit leaves nothing."""
    engine = database.engine()
    with Session(engine) as opened:
        EVENTS.add(opened, "orders", b"")
    with engine.connect() as opened_connection:
        EVENTS.add(opened_connection, "orders", b"")

    assert database.rows() == []


def test_a_savepoints_rollback_drops_what_was_added_in_it(database: Database) -> None:
    """And nothing else."""
    with Session(database.engine()) as opened, opened.begin():
        # A change first: sqlite3 of this age begins with the first change, not with a savepoint.
        EVENTS.add(opened, "before", b"")
        savepoint = opened.begin_nested()
        EVENTS.add(opened, "inside", b"")
        savepoint.rollback()
        EVENTS.add(opened, "after", b"")

    assert database.topics() == ["before", "after"]


def test_a_savepoint_of_psycopg_drops_what_was_added_in_it(postgresql: Database) -> None:
    """The same without SQLAlchemy."""
    with psycopg.connect(postgresql.url) as opened:
        EVENTS.add(opened, "before", b"")
        with opened.transaction() as savepoint:
            EVENTS.add(opened, "inside", b"")
            raise psycopg.Rollback(savepoint)
        EVENTS.add(opened, "after", b"")

    assert postgresql.topics() == ["before", "after"]


def test_the_same_id_twice_is_written_twice(database: Database, begin: Begin) -> None:
    """Dropping repeats is the inbox's work."""
    same = UUID(int=1)

    with begin(database) as transaction:
        EVENTS.add(transaction, "orders", b"", id=same)
        EVENTS.add_all(transaction, [Message("orders", b"", id=same)])

    assert [str(row["id"]) for row in database.rows()] == [str(same)] * 2


def test_schema_and_prefix_are_used(postgresql_url: str) -> None:
    """Two logs in one database do not mix."""
    migrate(postgresql_url, Names("events", "shop_"))
    events = Outbox(schema="events", table_prefix="shop_")

    with psycopg.connect(postgresql_url) as opened:
        events.add(opened, "orders", b"")
        events.add_all(opened, [Message("orders", b"")])

    assert len(Database(postgresql_url).rows("events.shop_outbox_message")) == 2


@pytest.mark.parametrize("factory", ["Cursor", "ClientCursor", "RawCursor"])
def test_any_cursor_factory_of_psycopg_will_do(postgresql: Database, factory: str) -> None:
    """The connection may have been made for something special."""
    chosen = getattr(psycopg, factory)
    with psycopg.connect(postgresql.url, cursor_factory=chosen) as opened:
        EVENTS.add(opened, "orders", "ü'\\", key="'\\")
        EVENTS.add_all(opened, [Message("orders", "ü'\\", key="'\\")])

    assert [bytes(row["payload"]) for row in postgresql.rows()] == ['"ü\'\\\\"'.encode()] * 2


def test_a_pipeline_writes_in_order(postgresql: Database) -> None:
    """The answers come later, the order stays."""
    with (
        psycopg.connect(postgresql.url, autocommit=True) as opened,
        opened.pipeline(),
        opened.transaction(),
    ):
        EVENTS.add(opened, "first", b"")
        opened.execute("select 1")
        EVENTS.add_all(opened, [Message("second", b"")])
        EVENTS.add(opened, "third", b"")

    assert postgresql.topics() == ["first", "second", "third"]


def test_large_messages_go_in_several_statements(
    postgresql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same transaction and the same order."""
    monkeypatch.setattr("outbox.writer.insert.CHUNK_BYTES", 100)
    messages = [Message("orders", bytes([n]) * 60, key=n) for n in range(9)]

    with psycopg.connect(postgresql.url) as opened:
        EVENTS.add_all(opened, messages)

    assert [row["key"] for row in postgresql.rows()] == [str(n) for n in range(9)]


def test_a_checked_list_is_written_whole_or_not_at_all(database: Database, begin: Begin) -> None:
    """The last message's fault is found before the first is written."""
    with begin(database) as transaction:
        with pytest.raises(PayloadNotSerializable, match=r"payload\.x: type bytes"):
            EVENTS.add_all(transaction, [Message("orders", b""), Message("orders", {"x": b""})])
        with pytest.raises(TypeError, match=r"messages\[1\] is a dict: write Message\("):
            EVENTS.add_all(transaction, [Message("orders", b""), {"topic": "orders"}])  # type: ignore[list-item]  # the point

    assert database.rows() == []


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"topic": ""}, InvalidMessage, "topic is empty"),
    ({"topic": "a b"}, InvalidMessage, "not a valid Kafka topic name"),
    ({"payload": None}, InvalidMessage, "a tombstone, which deletes its key: it needs key="),
    ({"payload": {"a": {1}}}, PayloadNotSerializable, "payload.a: type set"),
    ({"payload": b"x" * 1_000_001}, MessageTooLarge, "has 1,000,001 bytes (key, payload and heade"),
    ({"payload": b"x" * 999_999, "key": "ü"}, MessageTooLarge, "has 1,000,001 bytes"),
    ({"key": "x" * 1025}, InvalidMessage, "has 1025 bytes; at most 1024 fit"),
    ({"key": "a\0"}, InvalidMessage, "U+0000"),
    ({"headers": {"ID": "x"}}, InvalidMessage, "reserved: use the argument id="),
    ({"headers": {"a": 1}}, InvalidMessage, "must be str, not int"),
    ({"headers": [("h", "")] * 65}, InvalidMessage, "65 headers are too many"),
    ({"deliver_at": datetime(2026, 1, 1)}, InvalidMessage, "has no time zone"),  # noqa: DTZ001  the point
    ({"expires_at": datetime(2026, 1, 1)}, InvalidMessage, "has no time zone"),  # noqa: DTZ001  the point
    ({"lane": "fast"}, UnknownLane, "lane 'fast' is not one of the lanes of this Outbox: bulk, "),
    ({"type": "\ud800"}, InvalidMessage, "type '\\ud800' contains a lone surrogate"),
]


@pytest.mark.parametrize(("bad", "error", "sentence"), BAD)
def test_bad_input_loses_nothing(
    database: Database, bad: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    """It raises in the caller's code, and the caller's transaction goes on."""
    events = Outbox(lanes=["bulk"])

    # Given a transaction in which something was written
    with session(database) as transaction:
        events.add(transaction, "before", b"", lane="bulk")

        # When a message is bad
        with pytest.raises(error) as caught:
            events.add(transaction, **{"topic": "orders", "payload": b"", **bad})

        # Then the sentence says why, and the transaction can go on and commit
        events.add(transaction, "after", b"", lane="default")
    assert sentence in str(caught.value)
    assert database.topics() == ["before", "after"]


def test_the_size_limit_is_a_setting() -> None:
    """It counts what the application says: key, payload, type, content type, headers."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        opened.execute("create table outbox_message (topic, id, key, payload, headers)")
        opened.execute("begin")
        events = Outbox(max_message_bytes=10)

        events.add(opened, "orders", b"12345", key="678", headers={"9": "0"})

        with pytest.raises(MessageTooLarge) as caught:
            events.add(opened, "orders", b"12345", key="678", headers={"9": "00"})
    assert str(caught.value) == (
        "the message for topic 'orders' has 11 bytes (key, payload and headers), the limit is 10. "
        "Store the data elsewhere and send a reference; or raise Outbox(max_message_bytes=…) "
        "together with the topic's max.message.bytes"
    )


@pytest.mark.parametrize("limit", [0, -1, True, "1", 1.5, None])
def test_a_bad_limit_is_refused(limit: object) -> None:
    """Where the Outbox is made."""
    with pytest.raises(ConfigurationError, match="max_message_bytes must be a positive int"):
        Outbox(max_message_bytes=limit)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("lanes", "sentence"),
    [("bulk", "lanes must be several names, not the text 'bulk'"), (["a b"], "lane 'a b' is not")],
)
def test_bad_lanes_are_refused(lanes: Any, sentence: str) -> None:
    """Where the Outbox is made."""
    with pytest.raises(ConfigurationError, match=sentence):
        Outbox(lanes=lanes)


def test_a_serializer_of_ones_own(database: Database, begin: Begin) -> None:
    """It gets every payload that is neither bytes nor None, and names its content type."""

    class Upper:
        content_type = "text/upper"

        def serialize(self, payload: Any) -> bytes:
            return str(payload).upper().encode()

    events = Outbox(serializer=Upper())
    with begin(database) as transaction:
        events.add(transaction, "orders", "a")
        events.add(transaction, "orders", b"b")
        events.add(transaction, "orders", None, key="c")
        events.add(transaction, "orders", "d", content_type="text/plain")

    rows = database.rows()
    assert [row["payload"] and bytes(row["payload"]) for row in rows] == [b"A", b"b", None, b"D"]
    assert [row["content_type"] for row in rows] == ["text/upper", None, None, "text/plain"]


def test_a_serializer_must_return_bytes() -> None:
    """Text would be stored in who knows which encoding."""

    class Text:
        content_type = None

        def serialize(self, payload: Any) -> Any:
            return str(payload)

    with (
        closing(sqlite3.connect(":memory:")) as opened,
        pytest.raises(PayloadNotSerializable, match=r"Text\.serialize\(\) returned str; it must"),
    ):
        Outbox(serializer=Text()).add(opened, "orders", 1)


def test_threads_share_one_outbox(database: Database) -> None:
    """Each with its own transaction; nothing gets mixed up."""
    events = Outbox()
    barrier = threading.Barrier(4, timeout=30)

    def write(thread: int) -> None:
        with closing(
            psycopg.connect(database.url)
            if database.is_postgresql
            else sqlite3.connect(database.path, timeout=30)
        ) as opened:
            barrier.wait()
            for n in range(25):
                events.add(opened, "orders", {"n": n}, key=f"{thread}", type=f"{thread}.{n}")
                events.add_all(opened, [Message("orders", {"n": n}, key=f"{thread}")])
                opened.commit()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))

    rows = database.rows()
    assert len({str(row["id"]) for row in rows}) == 200
    for thread in range(4):
        mine = [json.loads(bytes(row["payload"])) for row in rows if row["key"] == f"{thread}"]
        assert mine == [{"n": n} for n in range(25) for _ in range(2)]


def test_an_outbox_holds_nothing() -> None:
    """It can be made for one call, and pickled or copied never needs to be."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        opened.execute("create table outbox_message (topic, id, payload)")
        opened.execute("begin")
        Outbox().add(opened, "orders", b"")
        assert opened.execute("select count(*) from outbox_message").fetchone() == (1,)


def _json(stored: Any) -> Any:
    return json.loads(stored) if isinstance(stored, str) else stored
