"""One suite for what cannot be sent, every store."""

from __future__ import annotations

import pytest

from tests.conformance.held_suite import HeldSuite
from tests.conformance.store_kit import StoreKit


class TestSQLite(HeldSuite):
    @pytest.fixture
    def kit(self, sqlite_kit: StoreKit) -> StoreKit:
        return sqlite_kit


@pytest.mark.postgresql
class TestPostgreSQL(HeldSuite):
    @pytest.fixture
    def kit(self, postgresql_kit: StoreKit) -> StoreKit:
        return postgresql_kit
