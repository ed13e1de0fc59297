"""Which tables of a database are ours, declared or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from outbox.alembic.place import Place
from outbox.errors import ConfigurationError
from outbox.names import Names
from outbox.schema import sqlite
from outbox.schema.bridge import Bridge, as_sqlite3
from outbox.schema.postgresql import MARK
from outbox.schema.source import COMPONENTS, tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

#: (schema, name); None is the default schema.
TableKey: TypeAlias = tuple[str | None, str]


def ours(connection: Connection, places: Iterable[Place]) -> set[TableKey]:
    """Return the tables that belong to us, in every schema and under every prefix."""
    if connection.dialect.name == "sqlite":
        found = list(_found_in_sqlite(connection))
        return {key for place in [*places, *found] for key in _tables(place)}
    default = connection.dialect.default_schema_name
    rows = Bridge(connection).execute(_MARKED)
    return {(None if schema == default else str(schema), str(name)) for schema, name in rows}


# By the comment that each of them bears. Partitions have their parent's.
_MARKED = f"""
select n.nspname, c.relname
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_inherits as i on i.inhrelid = c.oid
 where c.relkind in ('r', 'p')
   and (obj_description(c.oid, 'pg_class') like '{MARK}%'
        or obj_description(i.inhparent, 'pg_class') like '{MARK}%')
"""


def _found_in_sqlite(connection: Connection) -> Iterator[Place]:
    """Yield the places whose table of versions is there; SQLite has no comments."""
    bridge = as_sqlite3(connection)
    tables = bridge.execute("select name from sqlite_master where type = 'table'")
    for component in COMPONENTS:
        for (table,) in tables:
            names = _names(table, f"{component}_meta")
            if names is not None and sqlite.read_meta(bridge, names, component):
                yield Place(names, component)


def _names(table: str, meta: str) -> Names | None:
    """Return the names that call the table of versions so."""
    if not table.endswith(meta):
        return None
    try:
        return Names(prefix=table.removesuffix(meta))
    except ConfigurationError:  # a prefix that ours cannot have
        return None


def _tables(place: Place) -> list[TableKey]:
    return [
        (None, place.names.prefix + plain)
        for component in place.components
        for plain in tables("sqlite", component)
    ]
