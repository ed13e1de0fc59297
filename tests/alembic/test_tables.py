"""Our tables in the user's MetaData: made whole by create_all(), and fit for queries."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, func, inspect, select, text
from sqlalchemy.pool import NullPool

from outbox.alembic import OutboxTables, add_tables
from outbox.alembic.place import MigrationRefused
from outbox.inbox import Inbox
from outbox.migrations import check, migrate
from outbox.names import Names
from outbox.writer.outbox import Outbox
from tests.alembic.conftest import url_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

#: Columns that belong to the relay alone, or that one database lacks.
INTERNAL = {"slot", "xid", "plan_no", "written_by"}


@pytest.fixture(params=["sqlite", pytest.param("psycopg", marks=pytest.mark.postgresql)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Give an engine on each kind of empty database."""
    engine = create_engine(url_for(request.param, request, tmp_path), poolclass=NullPool)
    yield engine
    engine.dispose()


def our_url(engine: Engine) -> str:
    """Return the URL as our own commands take it."""
    return engine.url.set(drivername=engine.dialect.name).render_as_string(hide_password=False)


def test_create_all_makes_what_our_command_makes(engine: Engine) -> None:
    # Given MetaData with a table of the user's, and ours
    metadata = MetaData()
    Table("shop_order", metadata, Column("id", Integer, primary_key=True))
    add_tables(metadata, table_prefix="shop_")
    # When a test suite creates everything, twice
    metadata.create_all(engine)
    metadata.create_all(engine)
    # Then ours are right
    assert check(our_url(engine), Names(prefix="shop_")) == []
    # and go with the rest
    metadata.drop_all(engine)
    assert inspect(engine).get_table_names() == []


def test_dropping_some_tables_leaves_ours(engine: Engine) -> None:
    metadata = MetaData()
    order = Table("shop_order", metadata, Column("id", Integer, primary_key=True))
    Table("shop_customer", metadata, Column("id", Integer, primary_key=True))
    add_tables(metadata)
    metadata.create_all(engine)
    metadata.drop_all(engine, tables=[order])
    assert check(our_url(engine)) == []


def test_adding_twice_is_adding_once() -> None:
    metadata = MetaData()
    add_tables(metadata)
    add_tables(metadata)
    assert len(metadata.info["outbox-relay"]) == 1
    assert metadata.tables == {}


def test_bad_places_are_refused_where_they_are_written() -> None:
    with pytest.raises(MigrationRefused, match="table_prefix 'Shop'"):
        add_tables(MetaData(), table_prefix="Shop")


def test_the_columns_are_those_of_the_database(engine: Engine) -> None:
    migrate(our_url(engine))
    tables = add_tables(MetaData())
    for table in all_tables(tables):
        with engine.connect() as connection:
            actual = connection.execute(text(f"select * from {table.name} where false")).keys()
        assert set(table.columns.keys()) == set(actual) - INTERNAL


@dataclass(frozen=True)
class Received:
    """What an inbox records: anything with an id."""

    id: str


def all_tables(tables: OutboxTables) -> list[Table]:
    """Return every one."""
    return [getattr(tables, field.name) for field in fields(tables)]


def test_queries_speak_the_same_on_both_databases(engine: Engine) -> None:
    # Given a message with everything in it
    migrate(our_url(engine))
    tables = add_tables(MetaData())
    with engine.begin() as connection:
        written = Outbox().add(
            connection, "orders", b"payload", key="ada", headers={"tenant": "acme"}
        )
        Inbox("billing").record(connection, Received(str(written.id)))
    # When it is looked for by its id and its age
    log, now = tables.message.c, datetime.now(UTC)
    query = select(log.id, log.created_at, log.payload, log.headers, log.key).where(
        log.id == written.id, log.created_at > now - timedelta(minutes=5)
    )
    with engine.connect() as connection:
        row = connection.execute(query).one()
        # Then it is as it was
        assert isinstance(row.id, UUID)
        assert abs(row.created_at - now) < timedelta(minutes=5)
        assert (row.payload, row.headers, row.key) == (b"payload", {"tenant": "acme"}, "ada")
        # and so is the rest
        assert connection.scalar(select(tables.cursor.c.lease_until)) is None
        received = connection.scalar(select(func.max(tables.inbox_message.c.received_at)))
        assert abs(received - now) < timedelta(minutes=5)
