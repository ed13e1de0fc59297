"""Whose fault an error of the database is: over every SQLSTATE and every result code of SQLite."""

from __future__ import annotations

import logging
import re
import sqlite3

import psycopg
import pytest
from psycopg import errors as pg

from outbox import database_faults
from outbox.database_faults import (
    SQLITE_CODES,
    SQLSTATES,
    DatabaseFault,
    explained,
    fault_of_sqlite,
    fault_of_sqlstate,
)
from outbox.errors import ConfigurationError, DatabaseUnavailable, OutboxError, SchemaMissing
from outbox.relay.observer import Unobserved
from outbox.relay.voice import Voice
from outbox.store.postgresql.session import _translate

#: Every SQLSTATE by its code, from the driver. It knows them by their names in PostgreSQL too.
ALL = {code: cls for code, cls in pg._sqlcodes.items() if re.fullmatch("[0-9A-Z]{5}", code)}
CLASSES = {code[:2] for code in ALL}

#: Every primary result code of SQLite that Python knows, by its name.
PRIMARY = {
    name.removeprefix("SQLITE_"): code
    for name, code in vars(sqlite3).items()
    if re.fullmatch("SQLITE_[A-Z]+", name) and isinstance(code, int)
}
#: Numbers of the same range that are no result of a statement that failed.
NO_ERRORS = {"OK", "NOTICE", "WARNING", "ROW", "DONE"}
#: Constants of other kinds that have such names too.
ACTIONS = {
    *("DELETE", "DENY", "IGNORE", "INSERT", "PRAGMA", "READ", "SELECT", "TRANSACTION", "UPDATE"),
    *("ATTACH", "DETACH", "REINDEX", "ANALYZE", "FUNCTION", "SAVEPOINT", "RECURSIVE"),
}


def test_every_class_of_sqlstate_that_the_driver_knows_is_in_the_table() -> None:
    assert len(ALL) > 200
    assert CLASSES - SQLSTATES.keys() == set()


def test_every_code_in_the_table_is_one_that_the_driver_knows() -> None:
    assert SQLSTATES.keys() <= ALL.keys() | CLASSES


@pytest.mark.parametrize("rows", [database_faults._SQLSTATES, database_faults._SQLITE_CODES])
def test_nothing_is_in_the_table_twice(rows: dict[DatabaseFault, str]) -> None:
    codes = [code for row in rows.values() for code in row.split()]
    assert sorted(codes) == sorted(set(codes))


def test_every_result_code_of_sqlite_that_python_knows_is_in_the_table() -> None:
    assert PRIMARY.keys() - SQLITE_CODES.keys() == NO_ERRORS | ACTIONS
    assert SQLITE_CODES.keys() <= PRIMARY.keys()


WAITED_FOR = {
    *("08006", "08P01", "25006", "25P02", "25P03", "25P04", "28P01", "3D000", "40001", "40P01"),
    *("53100", "53200", "53300", "55P03", "57014", "57P01", "57P02", "57P03", "58030", "XX001"),
}


@pytest.mark.parametrize("sqlstate", sorted(WAITED_FOR))
def test_what_passes_is_waited_for(sqlstate: str) -> None:
    error = _translate(ALL[sqlstate]("what the server says"))
    assert type(error) is DatabaseUnavailable
    assert "what the server says" in str(error)


@pytest.mark.parametrize(
    ("sqlstate", "kind", "words"),
    [
        ("42501", ConfigurationError, "`outbox-relay migrate --relay-role ROLE`"),
        ("42P01", SchemaMissing, "`outbox-relay migrate`"),
        ("42703", SchemaMissing, "`outbox-relay migrate`"),
        ("3F000", SchemaMissing, "`outbox-relay migrate`"),
        ("P0001", ConfigurationError, "triggers"),
        ("22001", OutboxError, "report it"),
        ("23505", OutboxError, "report it"),
        ("42601", OutboxError, "(SQLSTATE 42601)"),
        ("54000", OutboxError, "report it"),
    ],
)
def test_what_no_waiting_mends_ends_the_relay_with_what_to_do(
    sqlstate: str, kind: type[OutboxError], words: str
) -> None:
    error = _translate(ALL[sqlstate]("what the server says"))
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("consuming input failed: server closed the connection"),
        psycopg.InterfaceError("the connection is closed"),
    ],
    ids=["broken", "closed"],
)
def test_a_connection_that_is_gone_has_no_sqlstate_and_is_waited_for(error: psycopg.Error) -> None:
    assert type(_translate(error)) is DatabaseUnavailable


@pytest.mark.parametrize("sqlstate", ["", "99999", "ZZ", "no code"])
def test_an_error_nobody_knows_is_ours(sqlstate: str) -> None:
    assert fault_of_sqlstate(sqlstate) is DatabaseFault.OURS


def test_a_mistake_of_the_driver_s_user_is_ours() -> None:
    assert type(_translate(psycopg.ProgrammingError("no results to fetch"))) is OutboxError


@pytest.mark.parametrize(
    ("name", "words", "fault"),
    [
        ("SQLITE_BUSY", "database is locked", DatabaseFault.CONFLICT),
        ("SQLITE_BUSY_SNAPSHOT", "database is locked", DatabaseFault.CONFLICT),
        ("SQLITE_FULL", "database or disk is full", DatabaseFault.SERVER),
        ("SQLITE_IOERR_WRITE", "disk I/O error", DatabaseFault.SERVER),
        ("SQLITE_READONLY_DBMOVED", "attempt to write a readonly", DatabaseFault.STANDBY),
        ("SQLITE_NOTADB", "file is not a database", DatabaseFault.CONFIGURATION),
        ("SQLITE_ERROR", "no such table: outbox_cursor", DatabaseFault.SCHEMA),
        ("SQLITE_ERROR", 'near "selec": syntax error', DatabaseFault.OURS),
        ("SQLITE_CONSTRAINT_UNIQUE", "UNIQUE constraint failed", DatabaseFault.OURS),
        ("", "Cannot operate on a closed database.", DatabaseFault.OURS),
        ("unknown", "from a later version", DatabaseFault.OURS),
    ],
)
def test_sqlite_s_extended_codes_count_as_their_primary_ones(
    name: str, words: str, fault: DatabaseFault
) -> None:
    assert fault_of_sqlite(name, words) is fault


def test_it_is_said_of_every_fault_what_happens_and_what_the_database_said() -> None:
    for fault in DatabaseFault:
        assert fault.what_happens
        assert "the words" in str(explained(fault, "the words"))
        assert fault in SQLSTATES.values()


def test_a_reason_of_another_kind_is_said_too_and_each_kind_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a relay that hears of a connection that broke, and then of a standby, again and again
    voice = Voice("default", Unobserved())
    away = explained(DatabaseFault.AWAY, "the connection broke")
    standby = explained(DatabaseFault.STANDBY, "cannot execute")
    # When it says so
    with caplog.at_level(logging.WARNING):
        for error in (away, away, standby, away, standby):
            assert isinstance(error, DatabaseUnavailable)
            voice.waits("database", "database", str(error), error.why)
        # Then it has said each of them once
        assert [record.getMessage() for record in caplog.records] == [
            f"{away}; waiting",
            f"{standby}; waiting",
        ]
        # And says it again the next time
        voice.is_well("database")
        voice.waits("database", "database", str(away), "")
    assert len(caplog.records) == 3
