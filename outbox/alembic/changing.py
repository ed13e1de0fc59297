"""Make, upgrade and drop the tables on SQLAlchemy's connection, or print how."""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from outbox.alembic.place import MigrationRefused, Place, between, level, newest
from outbox.alembic.undelivered import count_undelivered, guard
from outbox.errors import ConfigurationError
from outbox.schema import postgresql, sqlite
from outbox.schema.bridge import Bridge, as_psycopg, as_sqlite3
from outbox.schema.grants import quoted
from outbox.schema.source import steps
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
        raise MigrationRefused(str(error)) from error


def create(connection: Connection, dialect: Dialect, place: Place, to: int) -> None:
    """Make what is missing, and recognise what is there already at this version or a later one."""
    _lock(connection, dialect, place)
    pending: list[Step] = []
    for component in place.components:
        found, wanted = (
            version(connection, dialect, place, component),
            level(dialect, component, to),
        )
        if found == 0:
            pending += between(dialect, component, 0, to)
        elif found < wanted:
            raise MigrationRefused(
                f"the {component} tables are there already, at version {found}, and this migration "
                f"makes version {wanted}; use op.upgrade_outbox({found}, {to})"
            )
        else:
            log.info("The %s tables are there already, at version %s", component, found)
    _apply(connection, dialect, [*_schema(place, pending), *script(dialect, place, pending)])
    if dialect == "postgresql" and any(step.component == "outbox" for step in pending):
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
    pending: list[Step] = []
    for component in place.components:
        found = version(connection, dialect, place, component)
        if found >= level(dialect, component, to):
            log.info("The %s tables are at version %s already", component, found)
        elif found == level(dialect, component, above):
            pending += between(dialect, component, above, to)
        else:
            raise MigrationRefused(
                f"the {component} tables should be at version {level(dialect, component, above)} "
                f"before this migration, and are {f'at {found}' if found else 'not there'}; run "
                "the migrations before it, or correct its first version"
            )
    _apply(connection, dialect, keeping_marks(dialect, place, pending))


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
        _apply(connection, dialect, drops(dialect, replace(place, only=component)))


def _refuse_loss(connection: Connection, dialect: Dialect, place: Place) -> None:
    if messages := count_undelivered(Bridge(connection), dialect, place.names):
        raise MigrationRefused(
            f"{messages} messages are not delivered yet and would be lost with the log; let "
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


def _apply(connection: Connection, dialect: Dialect, statements: Iterable[str]) -> None:
    bridge = Bridge(connection)
    # On SQLite Alembic and the driver leave every statement to itself; a savepoint makes it one
    # change. Not on PostgreSQL, where cursors written in a savepoint look restored from a dump.
    with bridge.transaction() if dialect == "sqlite" else nullcontext():
        for statement in statements:
            bridge.execute(statement)


def _schema(place: Place, pending: list[Step]) -> list[str]:
    # Asked for only where it may be missing: who may not create schemas can use one that exists.
    if place.names.schema is None or not pending:
        return []
    schema = place.names.schema
    missing = f"not exists (select from pg_namespace where nspname = '{schema}')"
    return [f"do $$ begin if {missing} then create schema {quoted(schema)}; end if; end $$"]


# What is printed for `alembic upgrade --sql`; no database is there to ask.


def create_script(dialect: Dialect, place: Place, to: int) -> list[str]:
    """Return the statements that make the tables."""
    pending = [s for part in place.components for s in between(dialect, part, 0, to)]
    return [*_schema(place, pending), *script(dialect, place, pending)]


def upgrade_script(dialect: Dialect, place: Place, above: int, to: int) -> list[str]:
    """Return the statements that bring the tables to another version."""
    pending = [s for part in place.components for s in between(dialect, part, above, to)]
    return list(keeping_marks(dialect, place, pending))


def drop_script(dialect: Dialect, place: Place, *, force: bool) -> list[str]:
    """Return the statements that drop the tables, with one before them that refuses a loss."""
    guarded = "outbox" in place.components and not force
    return [*([guard(dialect, place.names)] if guarded else []), *drops(dialect, place)]


def script(dialect: Dialect, place: Place, pending: Iterable[Step]) -> list[str]:
    """Return the statements of migrations, in their order."""
    ordered = sorted(pending, key=lambda step: (step.version, step.component != "outbox"))
    split = postgresql.statements if dialect == "postgresql" else sqlite.statements
    return [text.strip() for step in ordered for text in split(step.sql(place.names))]


def keeping_marks(dialect: Dialect, place: Place, pending: list[Step]) -> Iterator[str]:
    """Yield the statements, and around them what keeps cursors from looking restored.

    A migration may rewrite the rows of the cursor, which changes their xmin. Those that were native
    before are marked again; a temporary table remembers which, so that it can be printed too.
    """
    marked = dialect == "postgresql" and any(step.component == "outbox" for step in pending)
    cursor = place.names["outbox_cursor"]
    if marked:
        yield (
            "create temporary table outbox_native on commit drop as "
            f"select relay, lane from {cursor} where {postgresql.NATIVE}"
        )
    yield from script(dialect, place, pending)
    if marked:
        yield (
            f"update {cursor} as c set written_by = pg_current_xact_id() "
            "from pg_temp.outbox_native as n where n.relay = c.relay and n.lane = c.lane"
        )
        yield "drop table pg_temp.outbox_native"


def drops(dialect: Dialect, place: Place) -> list[str]:
    """Return the statements that undo all migrations, the last thing made first."""
    made = [
        found
        for part in place.components
        for step in steps(dialect, part)
        for found in _CREATED.findall(step.template)
    ]
    return [
        f"drop {kind} if exists {place.names.render(name)}"
        for kind, name in reversed(list(dict.fromkeys(made)))
    ]


_CREATED = re.compile(
    r"^create (?:or replace )?(table|sequence|function|view) ((?:out|in)box_\w+)", re.MULTILINE
)
