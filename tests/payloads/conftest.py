"""A schema registry for the tests of payloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.availability import require
from tests.servers.registry import SchemaRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def registry() -> Iterator[SchemaRegistry]:
    """Give the registry that the tests share; each uses subjects of its own."""
    with require(SchemaRegistry) as server:
        yield server
