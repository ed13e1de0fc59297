"""The rim to SQLite for work on the tables."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, cast

from outbox.errors import ConfigurationError
from outbox.schema.source import tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.names import Names
    from outbox.schema.version import Component


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Run statement by statement: `executescript` would commit the open transaction first."""
    for statement in statements(script):
        connection.execute(statement)


def statements(script: str) -> Iterator[str]:
    """Split a script into its statements."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def version(connection: sqlite3.Connection, names: Names, component: Component) -> int:
    """Return the version of the tables of a component, 0 where there are none.

    Raises ConfigurationError when tables of these names are not ours.
    """
    found = existing(connection, [names.prefix + name for name in tables("sqlite", component)])
    if not found:
        return 0
    meta = read_meta(connection, names, component)
    if meta is None:
        raise ConfigurationError(
            f"the file already has {', '.join(found)}, which outbox-relay did not make; nothing "
            "was changed. Choose other names with --table-prefix"
        )
    return meta[0]


def read_meta(
    connection: sqlite3.Connection, names: Names, component: Component
) -> tuple[int, int] | None:
    """Return (version, compatible_from), None where the meta table is missing or not ours."""
    table = f"{names.prefix}{component}_meta"
    columns = {row[1] for row in connection.execute(f'pragma table_info("{table}")')}
    if not {"only_row", "version", "compatible_from"} <= columns:
        return None
    found = connection.execute(f'select version, compatible_from from "{table}"').fetchone()
    return cast("tuple[int, int] | None", found)


def existing(connection: sqlite3.Connection, names: list[str]) -> list[str]:
    """Return those of the tables, views and indexes that exist."""
    present = {row[0] for row in connection.execute("select name from sqlite_master")}
    return [name for name in names if name in present]
