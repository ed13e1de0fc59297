"""Databases for Flask apps."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox.database import DatabaseUrl
from outbox.migrations import migrate
from outbox.names import Names
from tests.flask.shop import KINDS
from tests.integration.writing import Database


@pytest.fixture(params=["postgresql", "sqlite"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Give a database without the tables."""
    if request.param == "postgresql":
        return Database(request.getfixturevalue("postgresql_url"))
    return Database(f"sqlite:///{tmp_path}/shop.db")


@pytest.fixture
def database(empty_database: Database) -> Database:
    """Give a database with the tables."""
    return with_tables(empty_database.url)


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    """Give a SQLite database with the tables, where the kind of database does not matter."""
    return with_tables(f"sqlite:///{tmp_path}/shop.db")


def with_tables(url: str) -> Database:
    """Create the tables."""
    migrate(DatabaseUrl.parse(url), Names())
    return Database(url)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Give each way in which an app has its database."""
    name: str = request.param
    return name


def sqlalchemy_url(database: Database) -> str:
    """Return the URL that SQLAlchemy 2.0 and 2.1 take for psycopg 3."""
    return database.url.replace("postgresql://", "postgresql+psycopg://")
