"""Django's migrations make the tables, take over ours, refuse others', and take them away."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.db.migrations.recorder import MigrationRecorder

from outbox.database import DatabaseUrl
from outbox.django import add
from outbox.django.hosting import database_url
from outbox.django.models import OutboxMessage
from outbox.django.operations import DROP_UNDELIVERED
from outbox.django.settings import current
from outbox.migrations import check, migrate
from outbox.schema.source import steps
from tests.django.suite.conftest import rows

pytestmark = pytest.mark.django_db(transaction=True)
bare = pytest.mark.django_db(transaction=True, databases=["bare"])


@pytest.fixture(autouse=True)
def _migrated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the tables as the other tests need them."""
    yield
    monkeypatch.undo()
    marker = request.node.get_closest_marker("django_db")
    if "bare" in (marker.kwargs.get("databases") or ()):
        return
    if not is_ours():
        execute(f"drop table if exists {current().names['outbox_message']}")
    if not (is_ours() and recorded()):
        run("migrate", "outbox_relay")


def run(*arguments: str, database: str = "default") -> str:
    out = io.StringIO()
    call_command(*arguments, database=database, verbosity=1, stdout=out, no_color=True)
    return out.getvalue()


def execute(sql: str, using: str = "default") -> None:
    with connections[using].cursor() as cursor:
        cursor.execute(sql)


def is_ours() -> bool:
    return f"{current().names.prefix}outbox_meta" in tables_of()


def tables_of(using: str = "default") -> set[str]:
    """Return everything of our names: tables, indexes, sequences, functions."""
    if connections[using].vendor == "sqlite":
        found = rows("select name from sqlite_master", using)
    else:
        found = rows(
            """select relname::text from pg_class as c
                 join pg_namespace as n on n.oid = c.relnamespace
                where n.nspname not in ('pg_catalog', 'pg_toast', 'information_schema')
               union select proname::text from pg_proc as p
                 join pg_namespace as n on n.oid = p.pronamespace
                where n.nspname not in ('pg_catalog', 'information_schema')""",
            using,
        )
    return {str(name) for (name,) in found if "outbox_" in str(name) or "inbox_" in str(name)}


def ours() -> set[str]:
    return {name for name in tables_of() if not name.startswith("django_")}


def log_id() -> object:
    return rows(f"select log_id from {current().names['outbox_meta']}")


def url() -> DatabaseUrl:
    return DatabaseUrl.parse(database_url("default"))


def test_the_tables_are_exactly_those_of_our_own_migrate() -> None:
    assert check(url(), current().names) == []


def test_backwards_takes_everything_away_and_forwards_makes_it_again() -> None:
    run("migrate", "outbox_relay", "zero")
    assert ours() == set()

    run("migrate", "outbox_relay")
    assert check(url(), current().names) == []


def test_backwards_refuses_while_messages_wait_and_says_how_to_go_on() -> None:
    with transaction.atomic():
        add("orders", {})

    with pytest.raises(CommandError, match=f"1 by relay default.*{DROP_UNDELIVERED}=1"):
        run("migrate", "outbox_relay", "zero")

    assert OutboxMessage.objects.count() == 1


def test_backwards_refuses_when_messages_have_no_relay_at_all() -> None:
    with transaction.atomic():
        add("orders", {})
    execute(f"delete from {current().names['outbox_cursor']}")

    with pytest.raises(CommandError, match="no relay name"):
        run("migrate", "outbox_relay", "zero")

    with pytest.MonkeyPatch.context() as override:
        override.setenv(DROP_UNDELIVERED, "1")
        run("migrate", "outbox_relay", "zero")


def test_an_explicit_word_lets_backwards_drop_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction.atomic():
        add("orders", {})
    monkeypatch.setenv(DROP_UNDELIVERED, "1")

    run("migrate", "outbox_relay", "zero")

    assert ours() == set()


def test_tables_of_our_own_migrate_are_taken_over_as_they_are() -> None:
    # Given tables that `outbox-relay migrate` made, with a message in them
    run("migrate", "outbox_relay", "zero")
    migrate(url(), current().names)
    with transaction.atomic():
        add("orders", {})
    before = log_id()

    # When Django migrates
    run("migrate", "outbox_relay")

    # Then nothing of them has changed
    assert log_id() == before
    assert OutboxMessage.objects.count() == 1


def test_an_inbox_that_is_there_already_gets_its_outbox() -> None:
    run("migrate", "outbox_relay", "zero")
    migrate(url(), current().names, only="inbox")

    run("migrate", "outbox_relay")

    assert check(url(), current().names) == []


def test_tables_that_are_not_ours_are_refused_and_left_alone() -> None:
    run("migrate", "outbox_relay", "zero")
    execute(f"create table {current().names['outbox_message']} (theirs integer)")

    with pytest.raises(CommandError, match=r"did not make.*OUTBOX\['TABLE_PREFIX'\]"):
        run("migrate", "outbox_relay", "--skip-checks")

    assert ours() == {f"{current().names.prefix}outbox_message"}
    assert not recorded()


def recorded(using: str = "default") -> bool:
    applied = MigrationRecorder(connections[using]).applied_migrations()
    return any(app == "outbox_relay" for app, _ in applied)


@bare
def test_a_database_that_the_routers_keep_free_gets_no_tables() -> None:
    assert recorded("bare")
    assert {name for name in tables_of("bare") if not name.startswith("django_")} == set()


@bare
def test_backwards_leaves_a_database_alone_that_was_kept_free() -> None:
    run("migrate", "outbox_relay", "zero", database="bare")
    run("migrate", "outbox_relay", database="bare")


def test_sqlmigrate_prints_the_statements_and_changes_nothing() -> None:
    before = log_id()
    vendor = connections["default"].vendor

    sql = run("sqlmigrate", "outbox_relay", "0001")

    for step in steps(vendor):  # type: ignore[arg-type]  # the suite has no other databases
        if step.version == 1:
            assert step.sql(current().names).strip().rstrip(";") in sql
    assert log_id() == before


def test_sqlmigrate_prints_the_way_back() -> None:
    sql = run("sqlmigrate", "outbox_relay", "0001", "--backwards")

    assert f"drop table if exists {current().names['outbox_message']};" in sql
