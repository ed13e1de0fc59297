"""The relay prepares its statements, and does without where that does not work."""

from __future__ import annotations

import psycopg
import pytest

from outbox.errors import DatabaseUnavailable
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.relay.relay import Relay
from outbox.store.postgresql.session import Preparation
from outbox.store.postgresql.store import PostgreSQLStore
from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import StoreKit, acquire, keys, read_all

pytestmark = pytest.mark.postgresql


@pytest.fixture
def kit(postgresql_kit: StoreKit) -> StoreKit:  # noqa: F811
    return postgresql_kit


def prepared(store: PostgreSQLStore) -> dict[str, int]:
    """Return the statements that the server keeps, and how often each was planned anew."""
    rows = store.session.connection.execute(
        "select statement, custom_plans from pg_prepared_statements"
    ).fetchall()
    return {" ".join(statement.split())[:40]: custom for statement, custom in rows}


def test_statements_are_planned_once_however_often_nothing_is_found(kit: StoreKit) -> None:
    # Given a reader that has read, and has found nothing after that, which ends in a rollback
    store = kit.store()
    reader = store.reader(acquire(store))
    kit.commit("a")
    assert len(read_all(reader)) == 1
    known = prepared(store)
    # When that goes on and on
    for number in range(20):
        kit.commit(f"b{number}")
        assert len(read_all(reader)) == 1
        store.moment()
    # Then no statement was forgotten, and none planned for its values
    assert set(prepared(store)) >= set(known)
    hot = {name: custom for name, custom in prepared(store).items() if "set_config" not in name}
    assert len(hot) >= 4
    assert not any(hot.values())


def test_nothing_is_prepared_once_a_server_has_forgotten_what_was(kit: StoreKit) -> None:
    """A pooler that says it is none would hand the next transaction to another process."""
    # Given a relay that prepares, and a server that knows nothing of it any more
    published: list[PublishedMessage] = []
    store = kit.store()
    relay = Relay(store, lambda: MemoryPublisher(published))
    kit.commit("a")
    relay.run_once()
    store.session.connection.pgconn.exec_(b"deallocate all")
    # When there is more to send
    kit.commit("b", "c")
    with pytest.raises(DatabaseUnavailable, match="prepared statement"):
        relay.run_once()
    relay.run_once()
    kit.commit("d")
    relay.run_once()
    # Then all of it is sent, without preparing anything
    assert [message.key for message in published] == ["a", "b", "c", "d"]
    assert prepared(store) == {}
    relay.close()


def test_a_table_that_was_changed_is_read_with_statements_prepared_anew(kit: StoreKit) -> None:
    # Given a reader whose statements are prepared
    store = kit.store()
    lease = acquire(store)
    reader = store.reader(lease)
    kit.commit("a")
    read_all(reader)
    # When a column gets another type
    kit.writer().execute("alter table outbox_message alter column topic type varchar(300)")
    kit.commit("b")
    with pytest.raises(DatabaseUnavailable, match="prepared statement"):
        read_all(reader)
    # Then a new connection prepares them again
    store.connect()
    store.release(lease, lease.position)
    reader = store.reader(acquire(store))
    assert keys(read_all(reader)) == ["a", "b"]
    assert prepared(store)


def test_a_connection_through_a_pooler_is_told_by_the_process_it_names(
    kit: StoreKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kit.store()
    connection = store.session.connection
    assert Preparation().is_possible(connection)
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 1))
    assert not Preparation().is_possible(connection)
    assert connection.prepare_threshold is None
