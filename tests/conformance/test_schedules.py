"""One suite, the schedule of every store."""

from __future__ import annotations

import pytest

from tests.conformance.schedule_suite import ScheduleSuite
from tests.conformance.store_kit import StoreKit


class TestSQLite(ScheduleSuite):
    @pytest.fixture
    def kit(self, sqlite_kit: StoreKit) -> StoreKit:
        return sqlite_kit


@pytest.mark.postgresql
class TestPostgreSQL(ScheduleSuite):
    @pytest.fixture
    def kit(self, postgresql_kit: StoreKit) -> StoreKit:
        return postgresql_kit
