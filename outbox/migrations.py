"""Create, upgrade, check and repair the tables: what `outbox-relay migrate` does, as a library.

The SQL itself lives in `migrations/` at the top of the repository; wheels carry it as
`outbox/_migrations`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from outbox.database import DatabaseUrl, PasswordCallback, connect_sqlite
from outbox.errors import DatabaseUnavailable
from outbox.names import Names
from outbox.schema import postgresql, sqlite
from outbox.schema.check import Finding, check
from outbox.schema.grants import grants
from outbox.schema.rebase import Rebased, rebase
from outbox.schema.source import COMPONENTS, Step, check_names, check_roles, sql, steps
from outbox.schema.version import SCHEMA_VERSION, Component, require_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

__all__ = [
    "PLAIN_NAMES",
    "SCHEMA_VERSION",
    "Component",
    "Finding",
    "Rebased",
    "Step",
    "check",
    "grants",
    "migrate",
    "rebase",
    "require_schema",
    "sql",
]

PLAIN_NAMES = Names()

#: A row that was written in this cluster: its mark is the id of the transaction that wrote it.
_NATIVE = "xmin::text = (written_by::text::numeric % 4294967296)::text"


def migrate(
    url: DatabaseUrl | str,
    names: Names = PLAIN_NAMES,
    *,
    only: Component | None = None,
    writer_role: str | None = None,
    relay_role: str | None = None,
    password_callback: PasswordCallback | None = None,
) -> list[Step]:
    """Bring the tables to this version and return the steps that were applied, maybe none.

    All of it happens in one transaction, and one run at a time. Raises ConfigurationError, having
    touched nothing, when tables of these names exist that are not ours.
    """
    url = DatabaseUrl.parse(url) if isinstance(url, str) else url
    check_names(url.dialect, names)
    check_roles(url.dialect, writer_role, relay_role)
    if url.dialect == "sqlite":
        return _migrate_sqlite(url.path, names, only)
    with postgresql.transaction(url, password_callback=password_callback) as connection:
        schema = postgresql.place(connection, names)
        postgresql.lock_place(connection, schema, names)
        applied = _migrate_postgresql(connection, schema, names, only)
        if granted := grants(names, writer_role=writer_role, relay_role=relay_role, schema=schema):
            postgresql.run(connection, granted)
        return applied


def _migrate_postgresql(
    connection: psycopg.Connection, schema: str, names: Names, only: Component | None
) -> list[Step]:
    if names.schema is not None:
        _create_schema(connection, names.schema)
    versions = {
        component: postgresql.version(connection, schema, names, component)
        for component in COMPONENTS
        if only in (None, component)
    }
    native = _native_cursors(connection, names) if versions.get("outbox") else []
    applied = _outstanding(steps("postgresql", only), versions)
    for step in applied:
        postgresql.run(connection, step.sql(names))
    if applied:
        _mark_cursors(connection, names, native)
    return applied


def _create_schema(connection: psycopg.Connection, schema: str) -> None:
    # "if not exists" asks for the right to create schemas even where it exists.
    if not postgresql.rows(connection, "select 1 from pg_namespace where nspname = %s", (schema,)):
        postgresql.run(connection, f'create schema "{schema}"')


def _outstanding(all_steps: Iterable[Step], versions: dict[Component, int]) -> list[Step]:
    return [step for step in all_steps if step.version > versions[step.component]]


def _native_cursors(connection: psycopg.Connection, names: Names) -> list[tuple[str, str]]:
    return postgresql.rows(
        connection, f"select relay, lane from {names['outbox_cursor']} where {_NATIVE}"
    )


def _mark_cursors(
    connection: psycopg.Connection, names: Names, native: list[tuple[str, str]]
) -> None:
    """Rewrite the mark of the cursors that were written in this cluster.

    ALTER TABLE may rewrite rows, which changes their xmin; the relay would take them for restored.
    A cursor that really was restored keeps its mark until `rebase`.
    """
    for relay, lane in native:
        postgresql.run(
            connection,
            f"update {names['outbox_cursor']} set written_by = pg_current_xact_id() "
            "where relay = %s and lane = %s",
            (relay, lane),
        )


def _migrate_sqlite(path: str, names: Names, only: Component | None) -> list[Step]:
    with closing(connect_sqlite(path, create=True)) as connection:
        try:
            connection.execute("begin immediate")
            versions = {
                component: sqlite.version(connection, names, component)
                for component in COMPONENTS
                if only in (None, component)
            }
            applied = _outstanding(steps("sqlite", only), versions)
            for step in applied:
                sqlite.run_script(connection, step.sql(names))
            connection.execute("commit")
        except sqlite3.OperationalError as error:
            raise DatabaseUnavailable(f"the SQLite file {path}: {error}") from error
    return applied
