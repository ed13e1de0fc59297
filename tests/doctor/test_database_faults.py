"""Faults of the database server, planted in a real PostgreSQL, and found."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.doctor.installation import Installation
from tests.doctor.pooler import Pooler
from tests.servers.postgresql import PrivatePostgreSQL
from tests.waiting import wait_until

pytestmark = pytest.mark.postgresql


def database_of(installation: Installation) -> str:
    return urlsplit(installation.url).path[1:]


def test_a_standby(
    new_postgresql: Callable[..., PrivatePostgreSQL], capsys: pytest.CaptureFixture[str]
) -> None:
    server = new_postgresql()
    installation = Installation(server.url("postgres"), capsys)
    installation.relay("migrate")
    server.stop()
    (server.data_directory / "standby.signal").touch()
    server.start()

    report = installation.doctor()

    assert report.code == 6
    assert "it is a standby" in report.only("server")["found"]
    assert "primary" in report.only("server")["advice"]


def test_a_database_that_is_read_only(installation: Installation) -> None:
    name = database_of(installation)
    installation.execute(f"alter database {name} set default_transaction_read_only = on")

    report = installation.doctor()

    assert report.outcome("server") == "failed"
    assert "default_transaction_read_only" in report.only("server")["found"]


def test_a_pooler_is_noticed_and_is_no_fault(installation: Installation) -> None:
    address = urlsplit(installation.url)
    with Pooler(address.port or 0) as pooler:
        plain = "?sslmode=disable&gssencmode=disable"
        installation.url = f"postgresql://postgres@127.0.0.1:{pooler.port}{address.path}{plain}"
        report = installation.doctor()

    assert "a pooler stands between" in report.only("pooler")["found"]
    assert report.problems == {}


@pytest.mark.parametrize(("ahead_s", "words"), [(300, "5 min behind"), (-300, "5 min ahead of")])
def test_clocks_that_are_apart(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, ahead_s: float, words: str
) -> None:
    from outbox.store.postgresql import diagnosis

    real = diagnosis.time.time
    monkeypatch.setattr(diagnosis.time, "time", lambda: real() + ahead_s)

    report = installation.doctor()

    assert report.outcome("database-clock") == "warning"
    assert words in report.only("database-clock")["found"]


def test_a_default_isolation_of_the_database(installation: Installation) -> None:
    name = database_of(installation)
    installation.execute(
        f"alter database {name} set default_transaction_isolation = 'repeatable read'"
    )
    assert "this session" in installation.doctor().only("isolation")["found"]


def test_a_default_isolation_of_another_role(installation: Installation) -> None:
    name = database_of(installation)
    installation.execute(
        "drop role if exists strict",
        "create role strict",
        f"alter role strict in database {name} set default_transaction_isolation = 'serializable'",
    )
    assert "role strict in this database" in installation.doctor().only("isolation")["found"]


def test_commits_that_are_not_durable(installation: Installation) -> None:
    name = database_of(installation)
    installation.execute(f"alter database {name} set synchronous_commit = off")

    report = installation.doctor()

    assert report.outcome("durable-commits") == "warning"
    assert "synchronous_commit is off" in report.only("durable-commits")["found"]


def test_a_server_that_does_not_sync(installation: Installation) -> None:
    with installation.reverted("alter system set fsync = off", "alter system reset fsync"):
        wait_until(
            lambda: "durable-commits" in installation.doctor().problems, what="fsync to be off"
        )


def test_an_asynchronous_standby(
    installation: Installation, sick_postgresql: PrivatePostgreSQL, tmp_path_factory: object
) -> None:
    with receiver(sick_postgresql):
        wait_until(
            lambda: installation.execute("select 1 from pg_stat_replication"),
            what="the receiver to connect",
        )
        report = installation.doctor()

    assert report.outcome("replication") == "warning"
    assert "all standbys are asynchronous" in report.only("replication")["found"]


@contextmanager
def receiver(server: PrivatePostgreSQL) -> Iterator[None]:
    """Stream the WAL as a standby does."""
    account = server._account.arguments if server._account else {}
    place = server.data_directory.parent / "received"
    place.mkdir()
    if server._account:
        server._account.owns(place)
    process = subprocess.Popen(
        [server.program("pg_receivewal"), "-D", place, "-d", server.url("postgres")],
        cwd=place,
        stderr=subprocess.DEVNULL,
        **account,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def test_a_synchronous_standby_that_is_away(installation: Installation) -> None:
    with installation.reverted(
        "alter system set synchronous_standby_names = 'nobody'",
        "alter system reset synchronous_standby_names",
    ):
        wait_until(
            lambda: installation.execute("show synchronous_standby_names") == [("nobody",)],
            what="the setting to be read",
        )
        report = installation.doctor()

    assert report.outcome("replication") == "failed"
    assert "every commit waits" in report.only("replication")["found"]


def test_a_prepared_transaction_that_was_forgotten(installation: Installation) -> None:
    installation.execute(
        "begin",
        "insert into outbox_message (topic, key, payload) values ('t', 'k', 'x')",
        "prepare transaction 'it''s forgotten'",
    )

    report = installation.doctor("--older-than", "0")

    assert report.outcome("prepared-transactions") == "warning"
    assert "rollback prepared 'it''s forgotten'" in report.only("prepared-transactions")["advice"]
    assert "rollback prepared 'it''s forgotten'" in report.only("held-messages")["advice"]
    assert "prepared-transactions" not in installation.doctor().problems  # it is not a minute old
    installation.execute("rollback prepared 'it''s forgotten'")
    assert installation.doctor("--older-than", "0").problems == {}


def test_a_transaction_that_stays_open(installation: Installation) -> None:
    idle = installation.connect()
    idle.execute("begin")
    idle.execute("insert into outbox_message (topic, key, payload) values ('t', 'k', 'x')")
    pid = idle.info.backend_pid

    report = installation.doctor("--older-than", "0")

    assert f"pg_terminate_backend({pid})" in report.only("long-transactions")["advice"]
    assert f"pid {pid}" in report.only("held-messages")["found"]


def test_a_snapshot_that_holds_back_vacuum(installation: Installation) -> None:
    reporting = installation.connect()
    reporting.execute("begin isolation level repeatable read")
    reporting.execute("select 1")

    report = installation.doctor("--older-than", "0")

    assert report.outcome("long-transactions") == "warning"
    assert report.outcome("held-messages") == "ok"


def test_a_replication_slot_that_nobody_uses(installation: Installation) -> None:
    installation.execute("select pg_create_physical_replication_slot('leftover', true)")
    try:
        found = installation.doctor().only("replication-slots")
    finally:
        installation.execute("select pg_drop_replication_slot('leftover')")

    assert "slot leftover is used by nobody" in found["found"]
    assert "pg_drop_replication_slot('leftover')" in found["advice"]


def test_a_relays_role_without_its_rights(installation: Installation) -> None:
    installation.execute("drop role if exists poor", "create role poor")

    report = installation.doctor("--relay-role", "poor")
    assert report.outcome("relay-rights") == "failed"
    assert "select on table" in report.only("relay-rights")["found"]
    assert "migrate --relay-role poor" in report.only("relay-rights")["advice"]

    installation.relay("migrate", "--relay-role", "poor")
    assert installation.doctor("--relay-role", "poor").outcome("relay-rights") == "ok"

    installation.execute("revoke update (timeline) on outbox_meta from poor")
    missing = installation.doctor("--relay-role", "poor").only("relay-rights")
    assert "lacks: update (timeline) on table" in missing["found"]


@pytest.mark.parametrize(
    ("revoked", "words"),
    [
        ("usage on sequence outbox_message_seq", "usage on sequence"),
        ("insert (payload) on outbox_message", "insert (payload) on table"),
    ],
)
def test_a_writers_role_without_a_right(
    installation: Installation, revoked: str, words: str
) -> None:
    """A grant on the columns alone fails on the sequence."""
    installation.execute("drop role if exists writes", "create role writes")
    installation.relay("migrate", "--writer-role", "writes")
    assert installation.doctor("--writer-role", "writes").outcome("writer-rights") == "ok"

    installation.execute(f"revoke {revoked} from writes")

    report = installation.doctor("--writer-role", "writes")
    assert words in report.only("writer-rights")["found"]
    assert report.code == 6


def test_a_writers_role_that_does_not_exist(installation: Installation) -> None:
    report = installation.doctor("--writer-role", "misspelt")
    assert report.outcome("writer-rights") == "failed"
    assert "no role 'misspelt'" in report.only("writer-rights")["found"]


def test_an_old_journal_mode(on_sqlite: Installation) -> None:
    on_sqlite.execute("pragma journal_mode = delete")

    report = on_sqlite.doctor()

    assert report.outcome("journal-mode") == "warning"
    assert report.outcome("schema") == "ok"
    assert on_sqlite.doctor().outcome("journal-mode") == "warning"  # looking did not change it
