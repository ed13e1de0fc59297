"""What autogenerate does about our tables: writes our operations, and keeps its own from them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError

from outbox.alembic.changing import version
from outbox.alembic.declaring import declared
from outbox.alembic.operations import CreateOutbox, UpgradeOutbox
from outbox.alembic.place import Place, known_dialect, level, newest
from outbox.alembic.protecting import TableKey, ours
from outbox.schema.bridge import as_psycopg, as_sqlite3
from outbox.schema.check import Finding, check_postgresql, check_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from sqlalchemy.schema import SchemaItem

    from outbox.database import Dialect
    from outbox.schema.version import Component

# Below "alembic", because its usual fileConfig() silences every logger its file does not name.
log = logging.getLogger("alembic.autogenerate.outbox")


def compare(context: AutogenContext, upgrade: UpgradeOps) -> None:
    """Add what our declared tables need, and hide ours from the comparison that follows."""
    connection, name = context.connection, context.dialect.name
    places = declared(context.metadata)
    if connection is None or (name not in ("postgresql", "sqlite") and not places):
        return
    for place in places:
        dialect = known_dialect(name, place)
        upgrade.ops.extend(needed(_versions(connection, dialect, place), dialect, place))
    _hide(context, ours(connection, places))


def _versions(connection: Connection, dialect: Dialect, place: Place) -> dict[Component, int]:
    """Return what there is, and say where it is not what it should be."""
    found = {part: version(connection, dialect, place, part) for part in place.components}
    for component, at in found.items():
        if at:
            _report(connection, dialect, replace(place, only=component))
    return found


def needed(
    versions: Mapping[Component, int], dialect: Dialect, place: Place
) -> list[CreateOutbox | UpgradeOutbox]:
    """Return the operations that bring a place to the newest version, one if one will do."""
    to = newest(dialect)
    missing = [part for part, at in versions.items() if at == 0]
    behind = {part: at for part, at in versions.items() if 0 < at < level(dialect, part, to)}
    operations: list[CreateOutbox | UpgradeOutbox] = [
        CreateOutbox(each, to) for each in _places(place, versions, missing)
    ]
    for above in sorted(set(behind.values())):
        same = [part for part, at in behind.items() if at == above]
        operations += [UpgradeOutbox(each, above, to) for each in _places(place, versions, same)]
    return operations


def _places(place: Place, versions: Mapping[Component, int], some: list[Component]) -> list[Place]:
    if len(some) == len(versions):
        return [place]
    return [replace(place, only=part) for part in some]


def _report(connection: Connection, dialect: Dialect, place: Place) -> None:
    try:
        findings = _check(connection, dialect, place)
    except DBAPIError as error:
        log.warning("The tables of outbox-relay could not be checked: %s", error.orig)
        return
    for finding in findings:
        log.warning(
            "The %s tables of outbox-relay are not what they should be, and autogenerate cannot "
            "mend it; `outbox-relay migrate --check` says so too: %s",
            finding.component,
            finding.problem,
        )


def _check(connection: Connection, dialect: Dialect, place: Place) -> list[Finding]:
    if dialect == "sqlite":
        return check_sqlite(as_sqlite3(connection), place.names, only=place.only)
    with connection.begin_nested():
        return check_postgresql(as_psycopg(connection), place.names, only=place.only)


def _hide(context: AutogenContext, hidden: Iterable[TableKey]) -> None:
    """Leave tables out of the comparison, both those of the database and those of the MetaData.

    Alembic gives a plugin no other way in, and what is only taken out of the result has been
    reflected before, with a warning for each type that SQLAlchemy does not know.
    """
    hidden, default = frozenset(hidden), context.dialect.default_schema_name
    by_name, by_object = context.run_name_filters, context.run_object_filters

    def is_ours(schema: str | None, name: str | None) -> bool:
        return (None if schema == default else schema, name) in hidden

    def only_ours(schema: str | None) -> bool:
        # Of a schema where it wants no table, Alembic reflects them all.
        names = {*context.inspector.get_table_names(schema=schema)}
        names -= {context.migration_context.version_table}
        return bool(names) and all(is_ours(schema, name) for name in names)

    def keep_name(name: str | None, type_: str, parents: dict[str, str | None]) -> bool:
        if type_ == "schema" and only_ours(name):
            return False
        if type_ == "table" and is_ours(parents.get("schema_name"), name):
            return False
        return by_name(name, type_, parents)  # type: ignore[arg-type] # Literal, and passed on

    def keep_object(
        item: SchemaItem, name: str, type_: str, reflected: bool, compare_to: SchemaItem | None
    ) -> bool:
        if isinstance(item, Table) and is_ours(item.schema, item.name):
            return False
        return by_object(item, name, type_, reflected, compare_to)  # type: ignore[arg-type] # as above

    context.run_name_filters = keep_name  # type: ignore[method-assign, assignment] # see above
    context.run_object_filters = keep_object  # type: ignore[method-assign, assignment] # see above
