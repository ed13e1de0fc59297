"""Whose a held message is while the number of shards changes: one stream's, at any time."""

from __future__ import annotations

from itertools import chain

import pytest

from outbox.store.base import Lease
from outbox.store.held import Hold
from outbox.store.lanes import Lane
from outbox.store.owner import new_owner
from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import LEASE_S, StoreKit, acquire, read_all

pytestmark = pytest.mark.postgresql

KEYS = [f"k{number}" for number in range(30)]


@pytest.fixture
def kit(postgresql_kit: StoreKit) -> StoreKit:  # noqa: F811
    return postgresql_kit


def stream(store: object, name: str) -> Lease:
    lease = store.acquire("default", name, new_owner(), LEASE_S)  # type: ignore[attr-defined]  # of any database
    assert lease is not None, name
    return lease  # type: ignore[no-any-return]  # as above


def due(store: object, *leases: Lease) -> list[list[str]]:
    """Return which keys each stream would try again now."""
    held = store.held()  # type: ignore[attr-defined]  # of any database
    return [sorted(each.record.key for each in held.due(lease, 1_000, 10**7)) for lease in leases]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (4, 2), (2, 4)])
def test_a_held_message_is_tried_by_one_stream_once_the_old_ones_have_come_to_their_ends(
    kit: StoreKit, before: int, after: int
) -> None:
    # Given messages held by the streams of before
    store = kit.store()
    if before > 1:
        store.change_lanes([Lane("default", shards=before)])
        first = acquire(store)
        store.save(first, read_all(store.reader(first))[-1].end, LEASE_S)
        store.retire(first)
    kit.commit(*KEYS)
    old = {name: stream(store, name) for name in Lane("default", shards=before).streams}
    for lease in old.values():
        records = [record for page in read_all(store.reader(lease)) for record in page.records]
        holds = [Hold(r[0], "retrying", True, 1, 0.0, "message", "too large") for r in records]
        store.held().hold(lease, lease.position, LEASE_S, holds)
    assert sorted(chain(*due(store, *old.values()))) == sorted(KEYS)
    # When the lanes change, and nobody has come to the end of what was before
    store.change_lanes([Lane("default", shards=after)])
    wanted = Lane("default", shards=after).streams
    new = {name: old[name] if name in old else stream(store, name) for name in wanted}
    # Then nobody tries any of them, since a stream of before may hold more of the same keys
    gone = [lease for name, lease in old.items() if name not in new]
    assert not any(due(store, *new.values(), *gone))
    # And when the old ones have come to their ends, each is one of the new streams'
    for lease in old.values():
        pages = read_all(store.reader(lease))
        store.save(lease, pages[-1].end, LEASE_S)
    shares = due(store, *new.values())
    assert sorted(chain(*shares)) == sorted(KEYS)
    assert all(shares)
    assert not any(due(store, *gone))
