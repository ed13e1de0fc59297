"""One suite, every store."""

from __future__ import annotations

import pytest

from tests.conformance.store_kit import StoreKit
from tests.conformance.store_suite import StoreSuite


class TestSQLite(StoreSuite):
    @pytest.fixture
    def kit(self, sqlite_kit: StoreKit) -> StoreKit:
        return sqlite_kit

    def test_a_look_for_old_messages_does_not_read_the_whole_log(self, kit: StoreKit) -> None:
        # Given a day's messages, delivered and still to be kept
        kit.commit(*map(str, range(20_000)))
        kit.writer().execute("update outbox_cursor set after_seq = 20000")
        store = kit.store()
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1_000

        # Then looking takes some steps for each of the 500 that are looked at, and no more
        store._open.set_progress_handler(count, 1_000)
        assert all(part.kept for part in store.prune())
        assert steps < 20_000


@pytest.mark.postgresql
class TestPostgreSQL(StoreSuite):
    @pytest.fixture
    def kit(self, postgresql_kit: StoreKit) -> StoreKit:
        return postgresql_kit
