"""Our tables as part of the user's MetaData."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, Table, event

from outbox.alembic import changing, columns
from outbox.alembic.place import Place, known_dialect, newest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from outbox.schema.version import Component

_KEY = "outbox-relay"


@dataclass(frozen=True, slots=True)
class OutboxTables:
    """Our tables for queries: the columns that both databases have."""

    message: Table
    scheduled: Table
    cursor: Table
    process: Table
    held: Table
    pause: Table
    audit: Table
    inbox_message: Table


def add_tables(
    metadata: MetaData,
    *,
    schema: str | None = None,
    table_prefix: str = "",
    only: Component | None = None,
) -> OutboxTables:
    """Make our tables a part of what `metadata` describes, and return them for queries.

    `alembic revision --autogenerate` then writes `op.create_outbox(…)`, and
    `metadata.create_all()` and `drop_all()` make and drop the real ones, as our migrations do. The
    Table objects are not in `metadata.tables`: a CREATE TABLE made of columns would lose the
    partitions, the defaults and the checks that the relay lives by.
    """
    place = Place.of(schema, table_prefix, only)
    if place not in declared([metadata]):
        metadata.info[_KEY] = (*metadata.info.get(_KEY, ()), place)
        _follow(metadata, place)
    names = place.names
    return OutboxTables(
        columns.message(names),
        columns.scheduled(names),
        columns.cursor(names),
        columns.process(names),
        columns.held(names),
        columns.pause(names),
        columns.audit(names),
        columns.inbox_message(names),
    )


def declared(metadata: MetaData | Iterable[MetaData] | None) -> list[Place]:
    """Return the places that were added to one MetaData or to several."""
    several = [metadata] if isinstance(metadata, MetaData) else metadata or ()
    return [place for one in several for place in one.info.get(_KEY, ())]


def _follow(metadata: MetaData, place: Place) -> None:
    """Let create_all() and drop_all() do to our tables what they do to the user's."""

    def create(_: MetaData, connection: Connection, **_given: object) -> None:
        if isinstance(connection, Connection):  # and not one that only prints
            dialect = known_dialect(connection.dialect.name, place)
            changing.create(connection, dialect, place, newest(dialect))

    def drop(
        _: MetaData, connection: Connection, tables: Collection[Table] = (), **_given: object
    ) -> None:
        # A drop_all() of some tables is not meant for ours.
        if isinstance(connection, Connection) and len(tables) == len(metadata.tables):
            dialect = known_dialect(connection.dialect.name, place)
            changing.drop(connection, dialect, place, force=True)

    event.listen(metadata, "after_create", create)
    event.listen(metadata, "before_drop", drop)
