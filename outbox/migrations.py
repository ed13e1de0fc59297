"""Create, upgrade, check and repair the tables: what `outbox-relay migrate` does, as a library.

The SQL itself lives in `migrations/` at the top of the repository; wheels carry it as
`outbox/_migrations`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

from outbox.database import DatabaseUrl, PasswordCallback, connect_sqlite
from outbox.errors import DatabaseUnavailable
from outbox.names import Names
from outbox.schema import postgresql
from outbox.schema.applying import apply_postgresql, apply_sqlite
from outbox.schema.backlog import NO_LIMIT, BacklogLimit, set_backlog, set_backlog_sqlite
from outbox.schema.check import Finding, check
from outbox.schema.grants import grants
from outbox.schema.rebase import Rebased, rebase
from outbox.schema.retention import set_retention, set_retention_sqlite
from outbox.schema.source import Step, check_names, check_roles, sql
from outbox.schema.version import SCHEMA_VERSION, Component, require_schema

__all__ = [
    "NO_LIMIT",
    "PLAIN_NAMES",
    "SCHEMA_VERSION",
    "BacklogLimit",
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


def migrate(
    url: DatabaseUrl | str,
    names: Names = PLAIN_NAMES,
    *,
    only: Component | None = None,
    writer_role: str | None = None,
    relay_role: str | None = None,
    retention_s: int | None = None,
    backlog: BacklogLimit | None = None,
    password_callback: PasswordCallback | None = None,
) -> list[Step]:
    """Bring the tables to this version and return the steps that were applied, maybe none.

    All of it happens in one transaction, and one run at a time. `retention_s`: for how many seconds
    delivered messages are kept, `backlog`: how many may wait; None to leave that as it is. Raises
    ConfigurationError, having touched nothing, when tables of these names exist that are not ours.
    """
    url = DatabaseUrl.parse(url) if isinstance(url, str) else url
    check_names(url.dialect, names)
    check_roles(url.dialect, writer_role, relay_role)
    if url.dialect == "sqlite":
        return _migrate_sqlite(url.path, names, only, retention_s, backlog)
    with postgresql.transaction(url, password_callback=password_callback) as connection:
        applied = apply_postgresql(connection, names, only)
        schema = postgresql.place(connection, names)
        if granted := grants(names, writer_role=writer_role, relay_role=relay_role, schema=schema):
            postgresql.run(connection, granted)
        if retention_s is not None:
            set_retention(connection, names, retention_s)
        if backlog is not None:
            set_backlog(connection, names, backlog)
        return applied


def _migrate_sqlite(
    path: str,
    names: Names,
    only: Component | None,
    retention_s: int | None,
    backlog: BacklogLimit | None,
) -> list[Step]:
    with closing(connect_sqlite(path, create=True)) as connection:
        try:
            connection.execute("begin immediate")
            applied = apply_sqlite(connection, names, only)
            if retention_s is not None:
                set_retention_sqlite(connection, names, retention_s)
            if backlog is not None:
                set_backlog_sqlite(connection, names, backlog)
            connection.execute("commit")
        except sqlite3.OperationalError as error:
            raise DatabaseUnavailable(f"the SQLite file {path}: {error}") from error
    return applied
