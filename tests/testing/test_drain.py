"""What the relay would put on the wire, without a broker."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from outbox import (
    BrokerUnavailable,
    ConfigurationError,
    DatabaseUnavailable,
    Message,
    MessageRefused,
    Outbox,
    OutboxError,
)
from outbox.database import DatabaseUrl
from outbox.names import Names
from outbox.store.opening import open_store
from outbox.testing import Faults, OutboxLog, PublishedMessage, drain, drain_async
from tests.integration.writing import Database
from tests.testing.test_added import WAYS

events = Outbox()


def orders(messages: list[PublishedMessage]) -> list[int]:
    """Return the payloads, which are numbers."""
    return [int(message.payload or b"") for message in messages]


def add(database: Database, *numbers: int) -> None:
    """Commit messages."""
    with Session(database.engine()) as session:
        events.add_all(session, [Message("orders", number, key="ada") for number in numbers])
        session.commit()


def cursor(database: Database) -> dict[str, Any]:
    """Return the cursor of the relay, without what a lease changes."""
    with database._connection() as connection:
        (row,) = connection.execute("select * from outbox_cursor").fetchall()
    return dict(row)


def test_what_is_committed_is_relayed_once(database: Database) -> None:
    """By the real relay, whose cursor moves."""
    # Given some messages
    add(database, 1, 2)

    # When they are drained, and more come
    first = drain(database.url)
    add(database, 3)
    second = drain(database.engine())

    # Then each drain has what is new, in order, as it would be on the wire
    assert orders(first) == [1, 2]
    assert orders(second) == [3]
    assert drain(database.url) == []
    assert [name for name, _ in first[0].headers] == ["id", "content-type", "outbox-position"]
    log_id, relay, lane, *_ = (first[0].header("outbox-position") or "").split("/")
    assert (len(log_id), relay, lane) == (36, "default", "default")
    # And the relay name may still go to any cluster
    assert cursor(database)["cluster_id"] is None
    assert cursor(database)["owner"] is None


@pytest.mark.parametrize("begin", WAYS, ids=lambda begin: begin.__name__)
def test_a_transaction_is_only_read(begin: Any, database: Database) -> None:
    """So that a test can roll all of it back."""
    # Given a message that is committed, and one that never will be
    add(database, 1)
    before = cursor(database)
    with begin(database) as transaction:
        events.add(transaction, "orders", 2, key="ada", type="t", headers={"a": "b"})

        # When the transaction is drained
        messages = drain(transaction)

        # Then both are there as they would be sent if it committed
        assert orders(messages) == [1, 2]
        assert [name for name, _ in messages[1].headers] == [
            *("id", "type", "content-type", "outbox-position", "a")
        ]
        (log_id,) = (row["log_id"] for row in _meta(database))
        assert (
            messages[1]
            .header(
                "outbox-position",
            )
            .startswith(f"{log_id}/default/default/1/")
        )  # type: ignore[union-attr]  # there is one
        # And again, since nothing was written
        assert drain(transaction) == messages
        transaction.rollback()
    assert cursor(database) == before


def _meta(database: Database) -> list[dict[str, Any]]:
    with database._connection() as connection:
        return [
            {"log_id": str(dict(row)["log_id"])}
            for row in connection.execute("select log_id from outbox_meta").fetchall()
        ]


def test_a_log_drains_only_what_is_new(database: Database) -> None:
    """Of its test, and since its last drain; with positions that rise."""
    add(database, 1)
    with Session(database.engine()) as session:
        log = OutboxLog(session)
        events.add(session, "orders", 2)
        first = log.drain()
        events.add(session, "orders", 3)
        second = log.drain()

        assert (orders(first), orders(second), log.drain()) == ([2], [3], [])
        positions = [m.header("outbox-position") or "" for m in first + second]
        assert positions == sorted(positions)


def test_the_order_is_that_of_the_log(database: Database) -> None:
    """Over many pages of the relay."""
    numbers = range(4500)
    with Session(database.engine()) as session:
        events.add_all(session, [Message("orders", number, key="ada") for number in numbers])
        assert orders(drain(session)) == list(numbers)
        session.commit()
    assert orders(drain(database.url)) == list(numbers)


def test_a_relay_name_of_its_own_has_its_own_cursor(database: Database) -> None:
    """And an unknown one is a mistake."""
    store = open_store(DatabaseUrl.parse(database.url), Names())
    store.connect()
    store.create_relay("audit", "earliest")
    store.close()
    add(database, 1)

    assert orders(drain(database.url)) == [1]
    assert orders(drain(database.url, relay="audit")) == [1]
    with pytest.raises(ConfigurationError, match="no relay called 'nobody'"):
        drain(database.url, relay="nobody")


def test_another_relay_at_work_is_named(database: Database) -> None:
    """What it sends is not for the test."""
    store = open_store(DatabaseUrl.parse(database.url), Names())
    store.connect()
    lease = store.acquire("default", "default", "another:1:1:1", 60)
    assert lease is not None

    with pytest.raises(OutboxError, match="another process works for relay 'default'"):
        drain(database.url)

    store.release(lease, lease.position)
    store.close()


def test_an_engine_of_a_database_in_memory_says_what_to_pass() -> None:
    """No other connection can see it."""
    engine = create_engine("sqlite://")
    with pytest.raises(ConfigurationError, match="belongs to one connection") as raised:
        drain(engine)
    assert "pass drain() the session or connection itself" in raised.value.__notes__[0]
    engine.dispose()


def test_a_locked_file_says_what_may_lock_it(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test's own transaction, most of the time."""
    connect = sqlite3.connect

    def impatient(path: str, **more: Any) -> sqlite3.Connection:
        return connect(path, **{**more, "timeout": 0.01})

    with closing(connect(sqlite.path)) as writing:
        events.add(writing, "orders", 1)
        monkeypatch.setattr(sqlite3, "connect", impatient)
        with pytest.raises(DatabaseUnavailable, match="locked") as raised:
            drain(sqlite.url)
    assert "a transaction of the test still open" in raised.value.__notes__[0]


@pytest.mark.asyncio
async def test_an_async_engine_is_drained(database: Database) -> None:
    """In a thread, so that the event loop goes on."""
    add(database, 1)

    assert orders(await drain_async(database.async_engine())) == [1]
    assert await drain_async(database.url) == []


def test_failed_sends_are_sent_again(database: Database) -> None:
    """And nothing is lost or out of order."""
    add(database, 1, 2, 3)
    faults = Faults()
    faults.fail_sends(2)

    assert orders(drain(database.url, faults=faults)) == [1, 2, 3]
    assert drain(database.url) == []


def test_lost_acknowledgements_make_duplicates(database: Database) -> None:
    """With the same id and the same position, as a consumer must expect."""
    add(database, 1, 2)
    faults = Faults()
    faults.duplicate()

    messages = drain(database.url, faults=faults)

    assert orders(messages) == [1, 1, 2]
    assert messages[0] == messages[1]
    assert faults.published == messages


def test_faults_happen_to_a_transaction_as_well(database: Database) -> None:
    """Which is relayed by the same relay."""
    with Session(database.engine()) as session:
        for number in (1, 2, 3):
            events.add(session, "orders", number)
        faults = Faults()
        faults.fail_sends()
        faults.duplicate(2)

        assert orders(drain(session, faults=faults)) == [1, 1, 1, 2, 3]


def test_a_broker_that_hangs_is_not_waited_for_long(database: Database) -> None:
    """And what did not arrive is sent when it answers again."""
    add(database, 1)
    faults = Faults()
    faults.hang()

    with pytest.raises(BrokerUnavailable, match="it hangs, on demand"):
        drain(database.url, faults=faults, timeout_s=0.2)
    faults.resume()

    assert orders(drain(database.url, faults=faults)) == [1]


def test_a_refused_message_is_named(database: Database) -> None:
    """As the relay names it; others do not mind."""
    with Session(database.engine()) as session:
        for key in ("ada", "ben"):
            events.add(session, "orders", 1, key=key)
        session.commit()
    faults = Faults()
    faults.refuse("orders", key="ben")

    with pytest.raises(MessageRefused, match="topic 'orders', key 'ben': refused on demand"):
        drain(database.url, faults=faults)
    faults.clear()

    assert [message.key for message in drain(database.url, faults=faults)] == ["ada", "ben"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [("MSG_SIZE_TOO_LARGE", MessageRefused), (10, MessageRefused)],
)
def test_the_error_decides_whose_fault_it_is(
    sqlite: Database, error: str | int, raised: type[OutboxError]
) -> None:
    """A message's own fault is not tried again."""
    add(sqlite, 1)
    faults = Faults()
    faults.fail_sends(error=error)

    with pytest.raises(raised, match="MSG_SIZE_TOO_LARGE, on demand"):
        drain(sqlite.url, faults=faults)


def test_a_missing_topic_is_waited_for(sqlite: Database) -> None:
    """Like an outage."""
    add(sqlite, 1)
    faults = Faults()
    faults.fail_sends(error="UNKNOWN_TOPIC_OR_PART")

    assert orders(drain(sqlite.url, faults=faults)) == [1]


def test_nonsense_is_refused() -> None:
    """When the fault is asked for, not when it happens."""
    faults = Faults()
    with pytest.raises(ConfigurationError, match="'NO_SUCH' is not the name of an error"):
        faults.fail_sends(error="NO_SUCH")
    for ask in (faults.fail_sends, faults.duplicate, faults.fail_commits):
        with pytest.raises(ValueError, match="positive number, not 0"):
            ask(0)
