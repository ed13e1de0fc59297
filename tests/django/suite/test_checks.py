"""The system checks: each id, for what it says, and no other."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connections, transaction
from django.test import override_settings

from outbox.django import add, checks
from outbox.django.settings import current
from outbox.errors import ConfigurationError
from tests.django.suite.routing import Router


def found(**settings: Any) -> list[tuple[str, str, str]]:
    with override_settings(**settings):
        return problems(run_checks(tags=["outbox_relay"]))


def problems(messages: list[Any]) -> list[tuple[str, str, str]]:
    return [
        (message.id.removeprefix("outbox_relay."), message.msg, message.hint or "")
        for message in messages
    ]


def ids(messages: list[tuple[str, str, str]]) -> set[str]:
    return {number for number, _, _ in messages}


def test_a_sound_project_has_nothing_to_hear() -> None:
    assert found() == []
    assert found(OUTBOX={"DATABASES": ["default"], "KAFKA": {"bootstrap.servers": "a:1"}}) == []


@pytest.mark.parametrize(
    "outbox",
    [
        "a text",
        {"SCHEMA": 3},
        {"TABLE_PREFIX": "A-B"},
        {"DATABASES": "default"},
        {"MAX_MESSAGE_BYTES": -1},
        {"SERIALIZER": "no.such.module"},
        {"SERIALIZER": "outbox.names.Names"},
        {"LANES": "bulk"},
        {"KAFKA": "localhost:9092"},
        {"RELAY": []},
    ],
)
def test_e001_a_value_that_makes_no_sense(outbox: object) -> None:
    assert ids(found(OUTBOX=outbox)) == {"E001"}


@pytest.mark.parametrize(
    ("outbox", "key", "hint"),
    [
        ({"TABLEPREFIX": ""}, "'TABLEPREFIX'", "Did you mean 'TABLE_PREFIX'?"),
        ({"table_prefix": ""}, "'table_prefix'", "Did you mean 'TABLE_PREFIX'?"),
        ({"RELAY": {"POLL_INTERVALL": 1}}, "'RELAY.POLL_INTERVALL'", "'POLL_INTERVAL'"),
        ({"RELAY": {"DATABASE_URL": "x"}}, "'RELAY.DATABASE_URL'", "Known are"),
    ],
)
def test_e002_a_key_that_means_nothing(outbox: object, key: str, hint: str) -> None:
    ((number, text, said),) = found(OUTBOX=outbox)

    assert number == "E002"
    assert key in text
    assert hint in said


def test_e003_an_alias_that_does_not_exist() -> None:
    ((number, text, _),) = found(OUTBOX={"DATABASES": ["default", "othr"]})

    assert (number, "'othr'" in text) == ("E003", True)


def test_e004_a_database_that_is_neither_postgresql_nor_sqlite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections["other"], "vendor", "oracle")

    assert found() == []  # nobody said that it is to have the tables
    ((number, text, _),) = found(OUTBOX={"DATABASES": ["default", "other"]})
    assert (number, "oracle" in text) == ("E004", True)


@pytest.mark.django_db
def test_a_database_of_another_engine_is_left_alone_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections["other"], "vendor", "oracle")

    assert checks.check_tables(databases=["other"]) == []
    with pytest.raises(ConfigurationError, match=r"its engine is oracle.*nothing was written$"):
        add("orders", {}, using="other")


@pytest.mark.parametrize(
    ("outbox", "words"),
    [
        ({"RELAY": {"LEASE": 0.5}}, "too short for a lease"),
        ({"KAFKA": {"acks": "1"}}, "acks"),
    ],
)
def test_e005_a_setting_of_the_relay(outbox: object, words: str) -> None:
    ((number, text, _),) = found(OUTBOX=outbox)

    assert (number, words in text) == ("E005", True)


def test_w001_routers_with_another_opinion() -> None:
    Router.writes_to = "other"

    ((number, text, _),) = found()
    assert (number, "using='other'" in text) == ("W001", True)


def test_w002_no_database_at_all() -> None:
    assert ids(found(OUTBOX={"DATABASES": []})) == {"W002"}


# The tables


@pytest.fixture
def changed() -> Iterator[Any]:
    """Give a function that changes the tables until the test ends."""
    with transaction.atomic():

        def change(sql: str) -> set[str]:
            with connections["default"].cursor() as cursor:
                cursor.execute(sql)
            return ids(problems(checks.check_tables(databases=["default"])))

        yield change
        transaction.set_rollback(True)


@pytest.mark.django_db
def test_tables_of_this_version_are_silent_and_unasked_databases_untouched(changed: Any) -> None:
    assert changed("select 1") == set()
    assert checks.check_tables(databases=None) == []


@pytest.mark.django_db
def test_w003_tables_are_missing(changed: Any) -> None:
    names = current().names
    for table in ("inbox_message", "inbox_meta"):
        last = changed(f"drop table {names[table]}")

    assert last == {"W003"}


@pytest.mark.django_db
def test_w004_tables_are_older(changed: Any) -> None:
    assert changed(f"update {current().names['outbox_meta']} set version = 0") == {"W004"}


@pytest.mark.django_db
def test_e006_tables_are_not_ours(changed: Any) -> None:
    names = current().names
    assert changed(f"drop table {names['inbox_meta']}") == {"E006"}


@pytest.mark.django_db
def test_e007_tables_are_newer(changed: Any) -> None:
    meta = current().names["outbox_meta"]
    assert changed(f"update {meta} set version = 99") == set()
    assert changed(f"update {meta} set compatible_from = 98") == {"E007"}


@pytest.mark.django_db
def test_warnings_do_not_keep_migrate_from_mending(changed: Any) -> None:
    changed(f"update {current().names['outbox_meta']} set version = 0")

    (warning,) = checks.check_tables(databases=["default"])

    assert not warning.is_serious()
    assert "manage.py migrate outbox_relay" in (warning.hint or "")


@pytest.mark.django_db
def test_migrate_is_not_told_to_run_migrate(changed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = current().names
    for table in ("inbox_message", "inbox_meta"):
        changed(f"drop table {names[table]}")
    monkeypatch.setattr("sys.argv", ["manage.py", "migrate"])

    # What Django takes for done, it would not mend
    assert changed("select 1") == {"W003"}
    assert changed("delete from django_migrations where app = 'outbox_relay'") == set()


def test_every_id_is_in_the_table_and_in_a_test() -> None:
    own = Path(__file__).read_text(encoding="utf-8")
    source = inspect.getsource(checks)
    used = set(re.findall(r"[EW]\d{3}", source.partition("def register")[2]))
    tested = {name.upper() for name in re.findall(r"def test_([ew]\d{3})_", own)}

    assert used == set(checks.IDS)
    assert tested == set(checks.IDS)
