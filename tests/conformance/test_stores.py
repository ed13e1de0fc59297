"""One suite, every store."""

from __future__ import annotations

import pytest

from tests.conformance.store_kit import StoreKit
from tests.conformance.store_suite import StoreSuite


class TestSQLite(StoreSuite):
    @pytest.fixture
    def kit(self, sqlite_kit: StoreKit) -> StoreKit:
        return sqlite_kit


@pytest.mark.postgresql
class TestPostgreSQL(StoreSuite):
    @pytest.fixture
    def kit(self, postgresql_kit: StoreKit) -> StoreKit:
        return postgresql_kit
