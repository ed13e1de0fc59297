"""Open the store for a database URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from outbox.database import DatabaseUrl, require_psycopg
from outbox.errors import ConfigurationError
from outbox.names import Names

if TYPE_CHECKING:
    from outbox.store.postgresql.retained import PostgreSQLRetainedLog
    from outbox.store.postgresql.store import PostgreSQLStore
    from outbox.store.sqlite import SQLiteStore
    from outbox.store.sqlite_retained import SQLiteRetainedLog


def open_store(
    url: DatabaseUrl,
    names: Names,
    *,
    password_callback: Callable[[], str] | None = None,
    silence_s: float | None = None,
) -> PostgreSQLStore | SQLiteStore:
    """Return the store for `url`, not connected yet. Imports only the driver it needs.

    `silence_s`: after how long a server that says nothing counts as gone; None is never.
    """
    if url.dialect == "sqlite":
        from outbox.store.sqlite import SQLiteStore

        if names.schema is not None:
            raise ConfigurationError("SQLite has no schemas; use table_prefix instead")
        return SQLiteStore(url.path, names)
    require_psycopg()
    from outbox.store.postgresql.store import PostgreSQLStore

    return PostgreSQLStore(url, names, password_callback=password_callback, silence_s=silence_s)


def open_retained_log(
    url: DatabaseUrl, names: Names, *, password_callback: Callable[[], str] | None = None
) -> PostgreSQLRetainedLog | SQLiteRetainedLog:
    """Return what reads the whole log, not connected yet. Imports only the driver it needs."""
    if url.dialect == "sqlite":
        from outbox.store.sqlite_retained import SQLiteRetainedLog

        return SQLiteRetainedLog(url.path, names)
    require_psycopg()
    from outbox.store.postgresql.retained import PostgreSQLRetainedLog

    return PostgreSQLRetainedLog(url, names, password_callback=password_callback)
