"""Make, upgrade and drop the tables on SQLAlchemy's connection, or print how."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from outbox.alembic.place import MigrationRefused, Place, between, level, newest
from outbox.alembic.undelivered import count_undelivered, guard
from outbox.errors import ConfigurationError
from outbox.schema import postgresql, sqlite
from outbox.schema.applying import apply_postgresql, apply_sqlite
from outbox.schema.bridge import Bridge, as_psycopg, as_sqlite3
from outbox.schema.dropping import drop_statements
from outbox.transactions.autocommit import commits_on_its_own

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

    from outbox.database import Dialect
    from outbox.schema.source import Step
    from outbox.schema.version import Component

# Below "alembic", because its usual fileConfig() silences every logger its file does not name.
log = logging.getLogger("alembic.runtime.outbox")


def version(connection: Connection, dialect: Dialect, place: Place, component: Component) -> int:
    """Return the version of the tables there are, 0 for none.

    Raises MigrationRefused for tables of these names that are not ours.
    """
    try:
        if dialect == "sqlite":
            return sqlite.version(as_sqlite3(connection), place.names, component)
        bridge = as_psycopg(connection)
        return postgresql.version(
            bridge, postgresql.place(bridge, place.names), place.names, component
        )
    except ConfigurationError as error:
        # It speaks of the command's options; here they are arguments.
        said = str(error).replace("--schema", "schema=").replace("--table-prefix", "table_prefix=")
        raise MigrationRefused(said) from error


def create(connection: Connection, dialect: Dialect, place: Place, to: int) -> None:
    """Make what is missing, and recognise what is there already at this version or a later one."""
    _lock(connection, dialect, place)
    missing = []
    for component in place.components:
        found, wanted = (
            version(connection, dialect, place, component),
            level(dialect, component, to),
        )
        if 0 < found < wanted:
            raise MigrationRefused(
                f"the {component} tables are there already, at version {found}, and this migration "
                f"makes version {wanted}; use op.upgrade_outbox({found}, {to})"
            )
        if found:
            log.info("The %s tables are there already, at version %s", component, found)
        else:
            missing.append(component)
    for component in missing:
        _apply(connection, dialect, replace(place, only=component), to)
    if dialect == "postgresql" and "outbox" in missing:
        _require_native(connection, place)


def _require_native(connection: Connection, place: Place) -> None:
    cursor = place.names["outbox_cursor"]
    if Bridge(connection).execute(f"select 1 from {cursor} where not ({postgresql.NATIVE})"):
        raise MigrationRefused(
            "this migration runs in a savepoint, where the relay would take its cursor for one "
            "restored from a dump; run it directly in the transaction"
        )


def upgrade(connection: Connection, dialect: Dialect, place: Place, above: int, to: int) -> None:
    """Bring the tables from one version to another, unless they are there already."""
    _lock(connection, dialect, place)
    behind = []
    for component in place.components:
        found = version(connection, dialect, place, component)
        if found >= level(dialect, component, to):
            log.info("The %s tables are at version %s already", component, found)
        elif found == level(dialect, component, above):
            behind.append(component)
        else:
            raise MigrationRefused(
                f"the {component} tables should be at version {level(dialect, component, above)} "
                f"before this migration, and are {f'at {found}' if found else 'not there'}; run "
                "the migrations before it, or correct its first version"
            )
    for component in behind:
        _apply(connection, dialect, replace(place, only=component), to)


def downgrade(connection: Connection, dialect: Dialect, place: Place, to: int) -> None:
    """Leave the tables as they are, if code of the earlier version can run on them."""
    for component in place.components:
        wanted = level(dialect, component, to)
        compatible_from = _compatible_from(connection, dialect, place, component)
        if compatible_from > wanted:
            raise MigrationRefused(
                f"code of version {wanted} cannot run on the {component} tables, which need "
                f"version {compatible_from} or later; versions cannot be taken back from them"
            )
        log.info("The %s tables stay as they are: older code can run on them", component)


def _compatible_from(
    connection: Connection, dialect: Dialect, place: Place, component: Component
) -> int:
    if not version(connection, dialect, place, component):
        return 0
    meta = place.names[f"{component}_meta"]
    return int(Bridge(connection).execute(f"select compatible_from from {meta}")[0][0])


def drop(connection: Connection, dialect: Dialect, place: Place, *, force: bool) -> None:
    """Drop the tables that are there, unless messages in them would be lost."""
    _lock(connection, dialect, place)
    there = [part for part in place.components if version(connection, dialect, place, part)]
    for component in there:
        found = version(connection, dialect, place, component)
        if found > newest(dialect):
            raise MigrationRefused(
                f"the {component} tables are of version {found}, which this outbox-relay does not "
                "know; drop them with the newer one"
            )
    if "outbox" in there and not force:
        _refuse_loss(connection, dialect, place)
    for component in there:
        for statement in drop_statements(dialect, place.names, component):
            Bridge(connection).execute(statement)


def _refuse_loss(connection: Connection, dialect: Dialect, place: Place) -> None:
    if messages := count_undelivered(Bridge(connection), dialect, place.names):
        raise MigrationRefused(
            f"messages in the log: {messages} not delivered yet, which would be lost with it; let "
            "`outbox-relay run --drain` deliver them, or say op.drop_outbox(force=True)"
        )


def _lock(connection: Connection, dialect: Dialect, place: Place) -> None:
    if dialect == "postgresql":
        bridge = as_psycopg(connection)
        postgresql.lock_place(bridge, postgresql.place(bridge, place.names), place.names)
        _require_transaction(connection)


def _require_transaction(connection: Connection) -> None:
    face = connection.connection
    if commits_on_its_own(face.dbapi_connection, face.driver_connection):
        raise MigrationRefused(
            "the connection commits every statement on its own, so half of the tables could be "
            "left behind; run this outside autocommit_block() and without AUTOCOMMIT"
        )


def _apply(connection: Connection, dialect: Dialect, place: Place, to: int) -> None:
    if dialect == "postgresql":
        apply_postgresql(as_psycopg(connection), place.names, place.only, up_to=to)
        return
    # Alembic and the driver leave every statement to itself on SQLite; a savepoint makes it one
    # change. Not on PostgreSQL, where cursors written in a savepoint look restored from a dump.
    with connection.begin_nested():
        apply_sqlite(as_sqlite3(connection), place.names, place.only, up_to=to)


# What is printed for `alembic upgrade --sql`; no database is there to ask.


def create_script(dialect: Dialect, place: Place, to: int) -> list[str]:
    """Return the statements that make the tables."""
    pending = [s for part in place.components for s in between(dialect, part, 0, to)]
    schema = [f'create schema if not exists "{place.names.schema}"'] if place.names.schema else []
    return [*schema, *_script(dialect, place, pending)]


def upgrade_script(dialect: Dialect, place: Place, above: int, to: int) -> list[str]:
    """Return the statements that bring the tables to another version."""
    pending = [s for part in place.components for s in between(dialect, part, above, to)]
    return list(_keeping_marks(dialect, place, pending))


def drop_script(dialect: Dialect, place: Place, *, force: bool) -> list[str]:
    """Return the statements that drop the tables, with one before them that refuses a loss."""
    guarded = "outbox" in place.components and not force
    return [
        *([guard(dialect, place.names)] if guarded else []),
        *drop_statements(dialect, place.names, place.only),
    ]


def _script(dialect: Dialect, place: Place, pending: Iterable[Step]) -> list[str]:
    """Return the statements of migrations, in their order."""
    ordered = sorted(pending, key=lambda step: (step.version, step.component != "outbox"))
    split = postgresql.statements if dialect == "postgresql" else sqlite.statements
    return [text.strip() for step in ordered for text in split(step.sql(place.names))]


def _keeping_marks(dialect: Dialect, place: Place, pending: list[Step]) -> Iterator[str]:
    """Yield the statements, and around them what keeps cursors from looking restored.

    A migration may rewrite the rows of the cursor, which changes their xmin. Those that were native
    before are marked again; nobody but a temporary table is there to remember which.
    """
    marked = dialect == "postgresql" and any(step.component == "outbox" for step in pending)
    cursor = place.names["outbox_cursor"]
    if marked:
        yield (
            "create temporary table outbox_native on commit drop as "
            f"select relay, lane from {cursor} where {postgresql.NATIVE}"
        )
    yield from _script(dialect, place, pending)
    if marked:
        yield (
            f"update {cursor} as c set written_by = pg_current_xact_id() "
            "from pg_temp.outbox_native as n where n.relay = c.relay and n.lane = c.lane"
        )
        yield "drop table pg_temp.outbox_native"
