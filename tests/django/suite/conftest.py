"""What the tests of the project share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connections

from outbox.django.settings import current
from tests.django.suite.routing import Router

BOTH = ("default", "other")


@pytest.fixture(autouse=True)
def _no_opinion() -> Iterator[None]:
    yield
    Router.writes_to = None


@pytest.fixture
def names() -> object:
    """Give the names of the tables."""
    return current().names


def rows(sql: str, using: str = "default") -> list[tuple[object, ...]]:
    """Return what a query returns, past our models."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())
