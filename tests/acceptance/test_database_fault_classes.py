"""Each class of fault of the database, provoked for real under a relay process.

A database that goes away and comes back: see test_relay_outages and test_network.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.acceptance.judged import is_judged
from tests.acceptance.relay_process import HOLDS, Scene, wait_until_planned, warnings
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.kafka import KafkaCluster
    from tests.servers.postgresql import PrivatePostgreSQL

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]


@pytest.mark.parametrize(
    ("end", "says"),
    [
        pytest.param("pg_terminate_backend", "the database is away", id="connection-lost"),
        pytest.param("pg_cancel_backend", "another transaction was in the way", id="cancelled"),
        pytest.param("kill", "the database is away", id="server-killed"),
    ],
)
def test_a_settlement_that_the_database_breaks_off_is_made_good(
    fragile: Scene, broker: KafkaCluster, database: PrivatePostgreSQL, end: str, says: str
) -> None:
    # Given a relay that has its acknowledgements, and is kept from writing that down
    scene, relay = fragile, fragile.holder()
    broker.pause()
    scene.write(each=50)
    wait_until_planned(scene)
    with _cursor_locked(scene):
        broker.resume()
        ((pid,),) = wait_until(lambda: _waiting(scene), what="a settlement that waits")
        assert len(scene.topic_now()) == len(scene.committed()) * 50
        # When the server ends its session, or its statement, or is killed
        if end == "kill":
            database.kill()
            database.start()
        else:
            scene.query(f"select {end}(%(pid)s)", pid=pid)  # type: ignore[arg-type] # of two words
        relay.says(says)
    # Then it says so once, and goes on where it was
    relay.says("going on")
    scene.write(each=10)
    is_judged(scene)
    assert len(warnings(relay)) == 1, relay.lines


@contextmanager
def _cursor_locked(scene: Scene) -> Iterator[None]:
    """Keep the relay from saving where it is."""
    connection = psycopg.connect(scene.url)
    try:
        connection.execute("select from outbox_cursor for update")
        yield
    finally:
        connection.close()


def _waiting(scene: Scene) -> list[tuple[int]]:
    return scene.query(
        """select pid from pg_stat_activity
            where wait_event_type = 'Lock' and datname = current_database()"""
    )


def test_a_database_that_takes_no_writes_is_waited_for(scene: Scene) -> None:
    # Given a relay that is busy
    relay = scene.holder()
    scene.write(each=10)
    scene.wait_until_delivered()
    # When the database is set to read-only, as one is that must not be written to for a while
    _set_read_only(scene, "on")
    relay.says("set to read-only")
    # Then the relay waits until it is not
    _set_read_only(scene, "off")
    relay.says("going on")
    scene.write(each=10)
    is_judged(scene)
    away, standby = warnings(relay)
    assert "the database is away" in away
    assert "primary" in standby


def _set_read_only(scene: Scene, value: str) -> None:
    with psycopg.connect(scene.url, autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = off")
        name = connection.info.dbname
        connection.execute(
            f'alter database "{name}" set default_transaction_read_only = {value}'.encode()
        )
        connection.execute(
            """select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()"""
        )


@pytest.mark.parametrize(
    ("change", "code", "advice"),
    [
        pytest.param(
            "alter table outbox_cursor rename to gone", 5, "`outbox-relay migrate`", id="table"
        ),
        pytest.param(
            "alter table outbox_cursor rename epoch to gone", 5, "outbox-relay migrate", id="column"
        ),
        pytest.param(
            """create function no() returns trigger language plpgsql
                   as $$ begin raise exception 'not today'; end $$;
               create trigger no before update on outbox_cursor
                   for each row execute function no()""",
            *(78, "triggers"),
            id="trigger",
        ),
        pytest.param(
            "alter table outbox_cursor add check (after_seq < 0) not valid",
            *(1, "report it"),
            id="constraint",
        ),
    ],
)
def test_what_no_waiting_mends_in_the_database_ends_the_relay(
    scene: Scene, change: str, code: int, advice: str
) -> None:
    # Given a relay that is busy
    relay = scene.holder()
    scene.write(each=10)
    scene.wait_until_delivered()
    # When somebody changes its tables
    with psycopg.connect(scene.url, autocommit=True) as connection:
        connection.execute(change.encode())
    scene.write(each=10)
    # Then it ends with the way to mend it
    assert relay.wait() == code, relay.lines
    assert advice in relay.lines[-1], relay.lines


def test_a_right_that_is_taken_from_the_relay_ends_it_with_how_to_grant_it(scene: Scene) -> None:
    # Given a relay with a role of its own, which has what it needs
    role = f"relay_{secrets.token_hex(4)}"
    with psycopg.connect(scene.url, autocommit=True) as connection:
        connection.execute(f"create role {role}".encode())
        assert scene.commands("migrate", "--relay-role", role).code == 0
        try:
            url = f"{scene.url}?options=-crole%3D{role}"
            scene.commands.variables["OUTBOX_DATABASE_URL"] = url
            relay = scene.holder()
            # When a right is taken from it
            connection.execute(f"revoke update on outbox_cursor from {role}".encode())
            scene.write(each=10)
            # Then it ends, and says how to give it back
            assert relay.wait() == 78, relay.lines
            assert "table outbox_cursor" in relay.lines[-1]
            assert "; grant what the relay needs" in relay.lines[-1]
        finally:
            connection.execute(f"drop owned by {role}".encode())
            connection.execute(f"drop role {role}".encode())
    assert HOLDS in "".join(relay.lines)
