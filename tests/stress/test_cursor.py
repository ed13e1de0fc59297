"""The cursor under adversarial writers: nothing missing, nothing twice, no key out of order.

The same run with a fault put in must be caught: a checker that finds nothing proves nothing.
"""

from __future__ import annotations

import psycopg
import pytest

from outbox.errors import LogInconsistent
from outbox.store.postgresql.snapshot import Plan, Snapshot
from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import StoreKit, acquire
from tests.stress.cursor_stress import stress

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]


def test_nothing_is_missing_repeated_or_out_of_order(postgresql_kit: StoreKit) -> None:  # noqa: F811
    findings = stress(postgresql_kit, seconds=8, seed=1)

    assert findings.faults == 0, findings
    assert findings.rows > 2_000, findings
    assert findings.late > 20, findings  # else the run was not adversarial


def test_crashes_repeat_messages_at_the_same_positions_only(postgresql_kit: StoreKit) -> None:  # noqa: F811
    findings = stress(postgresql_kit, seconds=8, seed=2, crash_rate=0.05)

    assert findings.faults == 0, findings


@pytest.fixture
def kit(postgresql_url: str) -> StoreKit:
    from outbox.database import DatabaseUrl

    return StoreKit(DatabaseUrl.parse(postgresql_url))


def _alter(kit: StoreKit, sql: str) -> None:
    with psycopg.connect(kit.url.conninfo, autocommit=True) as connection:
        connection.execute(sql)


class TestTheCheckerCatches:
    """Faults that were found in looser versions of the protocol."""

    def test_a_floor_at_the_largest_delivered_seq(
        self, kit: StoreKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Plan, "following", _floor_at_what_was_seen)

        findings = stress(kit, seconds=6, seed=3)

        assert findings.missing > 0, findings

    def test_a_floor_that_is_used_a_plan_too_early(
        self, kit: StoreKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Plan, "following", _floor_one_plan_early)

        findings = stress(kit, seconds=6, seed=4)

        assert findings.missing > 0, findings

    def test_a_seq_that_is_drawn_before_the_transaction_has_an_id(self, kit: StoreKit) -> None:
        _slow_down_between_defaults(kit)
        _alter(
            kit,
            "alter table outbox_message alter column seq set default nextval('outbox_message_seq')",
        )

        findings = stress(kit, seconds=6, seed=5)

        assert findings.missing > 0, findings

    def test_nothing_in_the_same_run_without_that_fault(self, kit: StoreKit) -> None:
        _slow_down_between_defaults(kit)

        findings = stress(kit, seconds=6, seed=5)

        assert findings.faults == 0, findings

    def test_a_sequence_with_a_cache_is_refused_before_it_can_do_harm(self, kit: StoreKit) -> None:
        store = kit.store()
        lease = acquire(store)
        reader = store.reader(lease)
        _alter(kit, "alter sequence outbox_message_seq cache 10")

        with pytest.raises(LogInconsistent, match="cache 10"):
            reader.read(10, 10_000)
        store.release(lease, lease.position)
        with pytest.raises(LogInconsistent, match="cache 10"):
            acquire(store)
        kit.close()


def _floor_at_what_was_seen(
    plan: Plan, sequence_value: int, snapshot: Snapshot, generation: int
) -> Plan:
    """Take the sequence's value, which is at least the largest delivered seq, at once."""
    return Plan(plan.no + 1, plan.target, sequence_value, snapshot, 0, sequence_value, generation)


def _floor_one_plan_early(
    plan: Plan, sequence_value: int, snapshot: Snapshot, generation: int
) -> Plan:
    floors = plan.next_floor, snapshot, sequence_value, sequence_value
    return Plan(plan.no + 1, plan.target, *floors, generation)


def _slow_down_between_defaults(kit: StoreKit) -> None:
    """Widen the moment between two defaults of a row, which decides whether seq follows xid."""
    _alter(
        kit,
        "create or replace function outbox_slot() returns smallint language sql volatile as "
        "$$ select pg_sleep(random() * 0.1); select 0::smallint $$",
    )
