"""Whatever is changed of an object that the migrations create, the check names that object.

The list is made of the migrations themselves, so that what a later one creates is tested too.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from outbox.database import DatabaseUrl, connect_postgresql
from outbox.migrations import check, migrate
from outbox.names import Names
from outbox.schema import check as checking
from outbox.schema import postgresql, sqlite
from outbox.schema.check import check_postgresql, check_sqlite
from outbox.schema.definitions import take_apart
from outbox.schema.source import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import psycopg

    from outbox.database import Dialect
    from outbox.schema.check import Description
    from tests.servers.postgresql import PostgreSQLServer

#: (what is done, what the check must name)
Damage = tuple[str, str]

CREATE_TABLE = re.compile(r"^create table (\w+) \(", re.MULTILINE)
PARTITION = re.compile(r"^create table (\w+) partition of (\w+)", re.MULTILINE)


def statements(dialect: Dialect) -> list[str]:
    """Return every statement of the migrations."""
    split = postgresql.statements if dialect == "postgresql" else sqlite.statements
    return [text.strip() for step in steps(dialect) for text in split(step.template)]


def described(dialect: Dialect) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (table, kind, name, definition, statement) of all that CREATE TABLEs say."""
    for statement in statements(dialect):
        if table := CREATE_TABLE.search(statement):
            for (kind, name), definition in take_apart(
                table[1], statement[table.start() :]
            ).items():
                yield table[1], kind, name, definition, statement[table.start() :]


#: A value of each type, for defaults and for rows that have none.
SAMPLES = {
    **dict.fromkeys(("integer", "bigint", "smallint"), "7"),
    **dict.fromkeys(("text", "bytea"), "'x'"),
    "jsonb": "'{}'",
    "timestamptz": "now()",
}


def sample(definition: str) -> str:
    """Return a value that a column takes: the first that its CHECK lists, or one of its type."""
    listed = re.search(r"check \(\w+ in \(('[^']*')", definition)
    return listed[1] if listed else SAMPLES[definition.split(maxsplit=1)[0]]


def of_columns() -> Iterator[Damage]:
    pieces = list(described("postgresql"))
    keys = {
        f"{table}.{column}"
        for table, kind, name, _, _ in pieces
        if kind == "constraint" and (key := re.search(r"primary key \(([^)]*)\)", name))
        for column in key[1].split(", ")
    }
    for table, kind, name, definition, _ in pieces:
        if kind != "column":
            continue
        column = name.removeprefix(f"{table}.")
        is_key = name in keys or "primary key" in definition
        yield from of_column(table, column, definition, key=is_key)


def of_column(table: str, column: str, definition: str, *, key: bool) -> Iterator[Damage]:
    named = f"column {table}.{column}"
    if (table, column) != ("outbox_message", "slot"):  # PostgreSQL does not let go of it
        yield f"alter table {table} drop column {column} cascade", named
        yield (
            f"alter table {table} drop column {column} cascade, add column {column} point",
            named,
        )
    if not key and "not null" in definition:
        yield f"alter table {table} alter {column} drop not null", named
    elif not key:
        fill = f"update {table} set {column} = {sample(definition)}; "
        with_rows = table in ("outbox_cursor", "outbox_meta")
        yield f"{fill * with_rows}alter table {table} alter {column} set not null", named
    if "default" in definition:
        yield f"alter table {table} alter {column} drop default", named
    type_ = definition.split(maxsplit=1)[0]
    if "identity" in definition:
        yield f"alter table {table} alter {column} drop identity", named
    elif type_ in ("text", "integer", "bigint", "timestamptz", "bytea", "smallint"):
        other = {"text": "'x'", "timestamptz": "now()", "bytea": "'x'"}.get(type_, "7")
        yield f"alter table {table} alter {column} set default {other}", named


def of_constraints() -> Iterator[Damage]:
    for table, _, name, definition, _ in described("postgresql"):
        for constraint in re.findall(r"constraint (\w+)\s+check", f"{name} {definition}"):
            named, drop = f"check {table}.{constraint}", f"drop constraint {constraint}"
            yield f"alter table {table} {drop}", named
            add = f"add constraint {constraint} check (true) not valid"
            yield f"alter table {table} {drop}, {add}", named
    for table in tables():
        yield f"alter table {table} drop constraint {table}_pkey", f"index {table} btree"


def tables() -> list[str]:
    """Return the tables that are no partitions."""
    return [match[1] for text in statements("postgresql") if (match := CREATE_TABLE.search(text))]


def of_tables() -> Iterator[Damage]:
    for table in tables():
        yield f"drop table {table} cascade", f"table {table} is missing"
        yield f"alter table {table} rename to gone", f"table {table} is missing"
        yield f"comment on table {table} is null", f"comment {table}"
        yield f"comment on table {table} is 'mine'", f"comment {table}"
        yield f"alter table {table} enable row level security", f"table {table}"
    for table in sorted(set(tables()) - {"outbox_message"}):
        yield f"alter table {table} set unlogged", f"table {table}"
    yield "alter table outbox_cursor reset (fillfactor)", "storage option outbox_cursor fillfactor"
    yield "alter table outbox_cursor set (fillfactor = 90)", "storage option outbox_cursor"


def of_partitions() -> Iterator[Damage]:
    for text in statements("postgresql"):
        if match := PARTITION.search(text):
            child, parent = match.groups()
            yield f"drop table {child}", f"table {child} is missing"
            detach = f"alter table {parent} detach partition {child}"
            attach = f"alter table {parent} attach partition {child} for values in (17)"
            yield detach, f"table {child}"
            yield f"{detach}; {attach}", f"table {child}"
            yield f"alter table {child} set unlogged", f"table {child}"
            yield f"alter table {child} alter topic set default 'x'", f"column {child}.topic"


def of_indexes() -> Iterator[Damage]:
    for text in statements("postgresql"):
        if match := re.search(r"^create index (\w+) on (\w+) \((.*)\)", text, re.MULTILINE):
            name, table, columns = match.groups()
            yield f"drop index {name}", f"index {table} btree ({columns})"
            named, drop = f"index {table} btree ({columns})", f"drop index {name}"
            first = columns.partition(",")[0]
            yield f"{drop}; create index {name} on {table} ({columns}) where false", named
            yield f"{drop}; create index {name} on {table} using hash ({first})", named


SEQUENCE = {
    "cache 10": "cache 10",
    "increment 2": "increment 2",
    "cycle": " cycle",
    "as integer": "integer",
    "maxvalue 1000": "maximum 1000",
    "start 7": "start 7",
    "owned by outbox_message.seq": "owned by",
}


def of_sequences() -> Iterator[Damage]:
    for text in statements("postgresql"):
        if match := re.search(r"^create sequence (\w+)", text, re.MULTILINE):
            for change, named in SEQUENCE.items():
                yield f"alter sequence {match[1]} {change}", named
            yield f"drop sequence {match[1]} cascade", f"sequence {match[1]} is missing"
            yield f"comment on sequence {match[1]} is null", f"comment {match[1]}"


def of_functions() -> Iterator[Damage]:
    for text in statements("postgresql"):
        if match := re.search(r"^create function (\w+)", text, re.MULTILINE):
            name, named = match[1], f"function {match[1]}"
            yield f"drop function {name} cascade", f"{named} is missing"
            yield f"alter function {name} immutable", named
            yield f"alter function {name} security definer", named
            yield f"alter function {name} set timezone = 'UTC'", named
            body = text[match.start() :].replace("create function", "create or replace function")
            yield body.replace("$$ ", "$$ select 0; ", 1), named


DAMAGES = [
    damage
    for kind in (
        of_columns,
        of_constraints,
        of_tables,
        of_partitions,
        of_indexes,
        of_sequences,
        of_functions,
    )
    for damage in kind()
]


@pytest.fixture(scope="module")
def connection(postgresql_server: PostgreSQLServer) -> Iterator[psycopg.Connection]:
    """Give a connection to tables that are right; each test takes back what it does."""
    url = postgresql_server.create_database()
    migrate(url)
    with (
        closing(connect_postgresql(DatabaseUrl.parse(url))) as connection,
        pytest.MonkeyPatch.context() as patch,
    ):
        # What should be there is the same for all tests, and takes most of the time.
        patch.setattr(checking, "_expected", _remembered(checking._expected))
        yield connection
    postgresql_server.drop_database(urlsplit(url).path[1:])


def _remembered(expected: Callable[..., Description]) -> Callable[..., Description]:
    known: dict[object, Description] = {}

    def look_up(connection: psycopg.Connection, names: Names, component: str) -> Description:
        if component not in known:
            known[component] = expected(connection, names, component)
        return known[component]

    return look_up


@pytest.mark.postgresql
@pytest.mark.parametrize(("damage", "named"), DAMAGES, ids=[damage for damage, _ in DAMAGES])
def test_the_check_names_what_was_changed(
    connection: psycopg.Connection, damage: str, named: str
) -> None:
    with connection.transaction(force_rollback=True):
        # Given tables without a fault
        # When somebody changes one thing
        connection.execute(damage)
        # Then the check says so
        problems = [finding.problem for finding in check_postgresql(connection, Names())]
        # (a table of versions that lost its marks is none of ours)
        gone = re.search(r"(outbox|inbox)_meta", damage)
        said = [text for text in problems if named in text or (gone and "do not exist" in text)]
        assert said, problems


@pytest.mark.postgresql
def test_what_is_right_is_not_named(connection: psycopg.Connection) -> None:
    assert check_postgresql(connection, Names()) == []


@pytest.mark.postgresql
def test_what_users_tune_is_no_drift(connection: psycopg.Connection) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute(
            "alter table outbox_cursor set (autovacuum_vacuum_scale_factor = 0.01); "
            "alter table outbox_message add column tenant text; "
            "create index on outbox_message (topic); "
            "create table outbox_message_4 partition of outbox_message for values in (4)"
        )
        assert check_postgresql(connection, Names()) == []


# SQLite


def of_sqlite() -> Iterator[tuple[str, str, str]]:
    """Yield (table, its changed CREATE TABLE, what the check must name)."""
    for table, kind, name, definition, statement in described("sqlite"):
        column = name.removeprefix(f"{table}.")
        if kind == "column":
            plain = re.compile(rf"^(\s*{column}\s+)", re.MULTILINE)
            yield table, plain.sub(r"\1varchar ", statement, count=1), f"column {name}"
            yield table, plain.sub(rf"    old_{column} ", statement, count=1), f"column {name}"
        elif kind == "constraint":
            constraint = re.escape(column)
            yield table, re.sub(rf",\s*{constraint}", "", statement), f"constraint {name}"
        elif "without rowid" in definition:
            yield table, statement.replace(" without rowid", ""), f"table {table}"
    changes = (("autoincrement", ""), ("not null", ""), ("default", "default -1 +"), ("<=", "<"))
    for table, kind, name, definition, statement in described("sqlite"):
        for old, new in changes if kind == "column" else ():
            if old in definition:
                column = name.removeprefix(f"{table}.")
                changed = re.compile(rf"^(\s*{column}\s[^\n]*?){old}", re.MULTILINE)
                yield table, changed.sub(rf"\1{new}", statement, count=1), f"column {name}"


SQLITE = list(of_sqlite())


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give a file with tables that are right."""
    migrate(f"sqlite:///{tmp_path}/log.db")
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as connection:
        yield connection


@pytest.mark.parametrize(("table", "changed", "named"), SQLITE, ids=[each[2] for each in SQLITE])
def test_the_check_names_what_was_changed_in_sqlite(
    sqlite_file: sqlite3.Connection, table: str, changed: str, named: str
) -> None:
    # Given a table whose text somebody changed
    sqlite_file.execute("pragma writable_schema = on")
    sqlite_file.execute(
        "update sqlite_master set sql = ? where name = ?", (changed.removesuffix(";"), table)
    )
    problems = [finding.problem for finding in check_sqlite(sqlite_file, Names())]
    assert [text for text in problems if text.startswith(named)], problems


@pytest.mark.parametrize("table", sorted({each[0] for each in SQLITE}))
def test_a_missing_table_is_named_in_sqlite(tmp_path: Path, table: str) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    migrate(url)
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute(f"drop table {table}")
    [finding] = check(url)
    assert table in finding.problem or "do not exist" in finding.problem


def test_what_users_add_to_sqlite_is_no_drift(sqlite_file: sqlite3.Connection) -> None:
    sqlite_file.execute("alter table outbox_message add column tenant text")
    sqlite_file.execute("create index mine on outbox_message (topic)")
    assert check_sqlite(sqlite_file, Names()) == []
