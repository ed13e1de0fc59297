"""Apply the steps that are outstanding, in a transaction that belongs to the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.schema import postgresql, sqlite
from outbox.schema.source import COMPONENTS, Step, steps

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    import psycopg

    from outbox.names import Names
    from outbox.schema.version import Component


def apply_postgresql(
    connection: psycopg.Connection,
    names: Names,
    only: Component | None = None,
    *,
    up_to: int | None = None,
) -> list[Step]:
    """Apply what is outstanding, up to a version; return it, maybe nothing.

    Waits for others who do the same. Raises ConfigurationError, having touched nothing, when tables
    of these names exist that are not ours.
    """
    schema = postgresql.place(connection, names)
    postgresql.lock_place(connection, schema, names)
    if names.schema is not None:
        _create_schema(connection, names.schema)
    versions = {
        component: postgresql.version(connection, schema, names, component)
        for component in COMPONENTS
        if only in (None, component)
    }
    native = _native_cursors(connection, names) if versions.get("outbox") else []
    applied = _outstanding(steps("postgresql", only), versions, up_to)
    for step in applied:
        postgresql.run(connection, step.sql(names))
    if applied:
        _mark_cursors(connection, names, native)
    return applied


def _create_schema(connection: psycopg.Connection, schema: str) -> None:
    # "if not exists" asks for the right to create schemas even where it exists.
    if not postgresql.rows(connection, "select 1 from pg_namespace where nspname = %s", (schema,)):
        postgresql.run(connection, f'create schema "{schema}"')


def _outstanding(
    all_steps: Iterable[Step], versions: dict[Component, int], up_to: int | None
) -> list[Step]:
    return [
        step
        for step in all_steps
        if step.version > versions[step.component] and (up_to is None or step.version <= up_to)
    ]


def _native_cursors(connection: psycopg.Connection, names: Names) -> list[tuple[str, str]]:
    return postgresql.rows(
        connection, f"select relay, lane from {names['outbox_cursor']} where {postgresql.NATIVE}"
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


def apply_sqlite(
    connection: sqlite3.Connection,
    names: Names,
    only: Component | None = None,
    *,
    up_to: int | None = None,
) -> list[Step]:
    """Do the same on SQLite."""
    versions = {
        component: sqlite.version(connection, names, component)
        for component in COMPONENTS
        if only in (None, component)
    }
    applied = _outstanding(steps("sqlite", only), versions, up_to)
    for step in applied:
        sqlite.run_script(connection, step.sql(names))
    return applied
