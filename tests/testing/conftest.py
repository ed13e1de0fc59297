"""Databases with a log and an inbox, as the tests of an application have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox.migrations import migrate
from tests.integration.writing import Database


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    """Give a SQLite file that has a log."""
    url = f"sqlite:///{tmp_path}/shop.db"
    migrate(url)
    return Database(url)


@pytest.fixture
def postgresql(postgresql_url: str) -> Database:
    """Give a PostgreSQL that has a log."""
    migrate(postgresql_url)
    return Database(postgresql_url)


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest) -> Database:
    """Give a database of each kind that has a log."""
    found: Database = request.getfixturevalue(request.param)
    return found
