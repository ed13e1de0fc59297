from __future__ import annotations

import pytest

from tests.conformance.pauses_suite import PausesSuite
from tests.conformance.store_kit import StoreKit


class TestSQLite(PausesSuite):
    @pytest.fixture
    def kit(self, sqlite_kit: StoreKit) -> StoreKit:
        return sqlite_kit


@pytest.mark.postgresql
class TestPostgreSQL(PausesSuite):
    @pytest.fixture
    def kit(self, postgresql_kit: StoreKit) -> StoreKit:
        return postgresql_kit
