"""What every store must keep of relays that died."""

from __future__ import annotations

from typing import Any

import pytest

from outbox.record import Position
from outbox.store.base import Lease, LeaseLost
from outbox.store.owner import new_owner
from outbox.store.trail import Trail
from tests.conformance.store_kit import LEASE_S, StoreKit, acquire, read_all


def killed(kit: StoreKit, *handed: int) -> None:
    """Let a relay take the lane, note messages, and be no more."""
    store = kit.store()
    lease = store.acquire("default", "default", new_owner(), LEASE_S)
    assert lease is not None
    for seq in handed:
        store.suspect(lease, lease.position, LEASE_S, seq)
    run_out(kit)


def run_out(kit: StoreKit) -> None:
    """Let the lease run out."""
    earlier, written = "0", ""
    if kit.has_snapshots:
        earlier = "clock_timestamp() - interval '1 s'"
        written = ", written_by = pg_current_xact_id()"
    kit.writer().execute(f"update outbox_cursor set lease_until = {earlier}{written}")


class TrailSuite:
    """Subclass it and give it a fixture `kit`."""

    def test_who_was_never_killed_leaves_nothing_behind(self, kit: StoreKit) -> None:
        store = kit.store()
        lease = acquire(store)
        assert lease.trail == Trail()
        store.release(lease, lease.position)
        assert acquire(store).trail == Trail()

    def test_deaths_are_counted_with_the_message_that_was_handed_over(self, kit: StoreKit) -> None:
        killed(kit)
        killed(kit, 5)
        assert acquire(kit.store()).trail == Trail(2, None, 5, 0)
        run_out(kit)
        killed(kit, 5)
        killed(kit, 4, 5)
        killed(kit, 4)
        assert acquire(kit.store()).trail == Trail(6, None, 4, 1)

    def test_a_death_with_nothing_handed_over_clears_the_suspect(self, kit: StoreKit) -> None:
        killed(kit, 5)
        killed(kit)
        assert acquire(kit.store()).trail == Trail(2)

    def test_what_was_saved_since_was_not_handed_over_any_more(self, kit: StoreKit) -> None:
        kit.commit("a")
        store = kit.store()
        lease = acquire(store)
        (page,) = read_all(store.reader(lease))
        store.suspect(lease, lease.position, LEASE_S, page.records[0][0])
        store.save(lease, page.end, LEASE_S)
        run_out(kit)
        again = acquire(kit.store())
        assert (again.trail, again.position) == (Trail(1), page.end)

    def test_noting_a_message_moves_the_cursor_too(self, kit: StoreKit) -> None:
        kit.commit("a")
        store = kit.store()
        lease = acquire(store)
        (page,) = read_all(store.reader(lease))
        store.suspect(lease, page.end, LEASE_S, 9)
        run_out(kit)
        assert acquire(kit.store()).position == page.end

    def test_an_end_in_order_and_a_process_that_comes_again_count_for_nothing(
        self, kit: StoreKit
    ) -> None:
        killed(kit, 5)
        store, owner = kit.store(), new_owner()
        for _ in range(2):  # the second time its connection broke
            lease = store.acquire("default", "default", owner, LEASE_S)
            assert lease is not None
            assert lease.trail == Trail(1, None, 5, 0)
            store.suspect(lease, lease.position, LEASE_S, 5)
        store.release(lease, lease.position)
        assert acquire(kit.store()).trail == Trail(1, None, 5, 0)

    def test_what_is_forgiven_is_forgotten(self, kit: StoreKit) -> None:
        killed(kit, 5)
        store = kit.store()
        lease = acquire(store)
        store.forgive(lease, lease.position, LEASE_S)
        store.release(lease, lease.position)
        assert acquire(store).trail == Trail()

    def test_who_goes_on_from_a_later_position_begins_anew(self, kit: StoreKit) -> None:
        kit.commit("a")
        killed(kit, 1)
        store = kit.store()
        lease = acquire(store)
        (page,) = read_all(store.reader(lease))
        same = store.adopt(lease, lease.position, "at-least-once", LEASE_S)
        assert same.trail == Trail(1, None, 1, 0)
        later = store.adopt(lease, page.end, "at-least-once", LEASE_S)
        assert later.trail == Trail()
        store.release(later, later.position)
        assert acquire(store).trail == Trail()

    def test_who_has_lost_the_lane_notes_nothing_but_that_it_lives(self, kit: StoreKit) -> None:
        # Given a process that was taken for dead while it handed a message over
        store = kit.store()
        lost = acquire(store)
        store.suspect(lost, lost.position, LEASE_S, 5)
        run_out(kit)
        successor, next_store = _taken(kit)
        assert successor.trail == Trail(1, None, 5, 0)
        # When it comes back
        with pytest.raises(LeaseLost):
            store.suspect(lost, Position(0, 9), LEASE_S, 6)
        with pytest.raises(LeaseLost):
            store.forgive(lost, Position(0, 9), LEASE_S)
        store.acquit(lost, 6)
        store.acquit(lost, 5)
        # Then the message is cleared, and its successor has the lane
        next_store.save(successor, successor.position, LEASE_S)
        next_store.release(successor, successor.position)
        assert acquire(kit.store()).trail == Trail(1)

    def test_each_relay_name_has_its_own(self, kit: StoreKit) -> None:
        kit.store().create_relay("other", "earliest")
        killed(kit, 5)
        assert acquire(kit.store(), "other").trail == Trail()


def _taken(kit: StoreKit) -> tuple[Lease, Any]:
    store = kit.store()
    return acquire(store), store


class TestSQLite(TrailSuite):
    @pytest.fixture
    def kit(self, sqlite_kit: StoreKit) -> StoreKit:
        return sqlite_kit


@pytest.mark.postgresql
class TestPostgreSQL(TrailSuite):
    @pytest.fixture
    def kit(self, postgresql_kit: StoreKit) -> StoreKit:
        return postgresql_kit
