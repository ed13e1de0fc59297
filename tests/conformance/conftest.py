from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outbox.database import DatabaseUrl
from tests.conformance.store_kit import StoreKit


@pytest.fixture
def sqlite_kit(tmp_path: Path) -> Iterator[StoreKit]:
    kit = StoreKit(DatabaseUrl.parse(f"sqlite:///{tmp_path}/log.db"))
    yield kit
    kit.close()


@pytest.fixture
def postgresql_kit(each_postgresql_url: str) -> Iterator[StoreKit]:
    kit = StoreKit(DatabaseUrl.parse(each_postgresql_url))
    yield kit
    kit.close()
