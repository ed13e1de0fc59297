"""The tables of an app, made on its own engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flask import current_app

from outbox.errors import ConfigurationError
from outbox.flask.database import engine_of
from outbox.names import Names
from outbox.schema.applying import apply_postgresql, apply_sqlite
from outbox.schema.bridge import as_psycopg, as_sqlite3

if TYPE_CHECKING:
    from sqlalchemy import Connection


def migrate_app(tables: Mapping[str, str], bind_arguments: Mapping[str, object] | None) -> None:
    """Create or upgrade the tables in the current app's database, in one transaction."""
    engine = engine_of(current_app, bind_arguments)
    if engine.dialect.is_async:
        raise ConfigurationError(
            "the app has asynchronous engines alone, and this is not a coroutine; run "
            "`flask outbox migrate`"
        )
    names = Names(tables.get("schema"), tables.get("table_prefix", ""))
    with engine.begin() as connection:
        _apply(connection, names)


def _apply(connection: Connection, names: Names) -> None:
    dialect = connection.dialect.name
    if dialect == "postgresql":
        apply_postgresql(as_psycopg(connection), names)
    elif dialect == "sqlite":
        # The driver begins no transaction for DDL; this also lets one run at a time.
        connection.exec_driver_sql("begin immediate")
        apply_sqlite(as_sqlite3(connection), names)
    else:
        raise ConfigurationError(
            f"this version works with PostgreSQL and SQLite, and the app's database is {dialect!r}"
        )
