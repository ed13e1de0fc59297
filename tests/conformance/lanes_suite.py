"""What every store must do about lanes. Subclasses give a `kit`."""

from __future__ import annotations

from typing import Any

import pytest

from outbox.errors import ConfigurationError
from outbox.store.base import Lease
from outbox.store.held import Hold
from outbox.store.lanes import Lane
from outbox.store.owner import new_owner
from tests.conformance.store_kit import LEASE_S, StoreKit, keys, read_all

DEFAULT, URGENT = Lane("default"), Lane("urgent", priority=10)


class Reading:
    """One stream, acquired, with its reader; what is read counts as delivered."""

    def __init__(self, store: Any, stream: str, relay: str = "default") -> None:
        self.store = store
        lease = store.acquire(relay, stream, new_owner(), LEASE_S)
        assert lease is not None
        self.lease: Lease = lease
        self.position = lease.position
        self.reader = store.reader(lease)

    def __call__(self) -> list[str | None]:
        """Read what there is, deliver it, and return the keys."""
        pages = read_all(self.reader)
        if pages:
            self.position = pages[-1].end
            self.store.save(self.lease, self.position, LEASE_S)
        return keys(pages)

    def give_back(self) -> None:
        self.store.release(self.lease, self.position)


def write(kit: StoreKit, *pairs: tuple[str, str | None]) -> None:
    """Commit messages of a key and a lane each, in one transaction."""
    mark = "?" if kit.url.dialect == "sqlite" else "%s"
    with kit.transaction() as connection:
        for key, lane in pairs:
            connection.execute(
                f"insert into outbox_message (topic, key, payload, lane)"
                f" values ('t', {mark}, {mark}, {mark})",
                (key, b"x", lane),
            )


def names_of(store: Any, relay: str = "default") -> list[str]:
    return [stream.name for stream in store.streams(relay)]


class LanesSuite:
    """Subclass it and give it a fixture `kit`."""

    def test_a_log_begins_with_the_default_lane_alone(self, kit: StoreKit) -> None:
        store = kit.store()

        assert store.lanes() == [DEFAULT]
        assert names_of(store) == ["default"]

    def test_each_lane_reads_its_own_and_default_what_nobody_declared(self, kit: StoreKit) -> None:
        store = kit.store()
        store.change_lanes([DEFAULT, URGENT])
        write(kit, ("a", None), ("b", "urgent"), ("c", "default"), ("d", "undeclared"))
        default, urgent = Reading(store, "default"), Reading(store, "urgent")

        assert default() == ["a", "c", "d"]
        assert urgent() == ["b"]
        assert (default(), urgent()) == ([], [])

    def test_a_new_lane_waits_for_what_went_by_default_before_it(self, kit: StoreKit) -> None:
        # Given messages that name a lane before it is declared, and others after
        store = kit.store()
        write(kit, ("a", "urgent"), ("b", None))
        store.change_lanes([DEFAULT, URGENT])
        write(kit, ("a", "urgent"), ("c", None))
        default, urgent = Reading(store, "default"), Reading(store, "urgent")

        # Then the lane has nothing to send until default has delivered what came before
        assert urgent() == []
        assert default() == ["a", "b", "c"]
        assert urgent() == ["a"]

    def test_a_relay_under_way_takes_a_change_of_lanes_up(self, kit: StoreKit) -> None:
        store = kit.store()
        default = Reading(store, "default")
        write(kit, ("a", "urgent"))
        assert default() == ["a"]

        kit.store().change_lanes([DEFAULT, URGENT])
        write(kit, ("b", "urgent"), ("c", None))

        assert [*default(), *default()] == ["c"]
        assert Reading(store, "urgent")() == ["b"]

    def test_default_waits_for_a_lane_that_is_removed(self, kit: StoreKit) -> None:
        store = kit.store()
        store.change_lanes([DEFAULT, URGENT])
        write(kit, ("a", "urgent"))
        store.change_lanes([DEFAULT])
        write(kit, ("b", "urgent"), ("c", None))
        default = Reading(store, "default")

        assert default() == []
        urgent = Reading(store, "urgent")
        assert urgent() == ["a"]
        assert urgent.reader.ended
        assert default() == ["b", "c"]

    def test_a_stream_that_has_ended_is_forgotten_when_it_is_delivered(self, kit: StoreKit) -> None:
        store = kit.store()
        store.change_lanes([DEFAULT, URGENT])
        write(kit, ("a", "urgent"))
        store.change_lanes([DEFAULT])
        assert Reading(store, "default")() == []
        urgent = Reading(store, "urgent")

        store.retire(urgent.lease)
        assert names_of(store) == ["default", "urgent"]
        assert urgent() == ["a"]
        store.retire(urgent.lease)

        assert names_of(store) == ["default"]
        assert store.acquire("default", "urgent", new_owner(), LEASE_S) is None

    def test_a_lane_that_is_declared_again_gives_out_no_position_twice(self, kit: StoreKit) -> None:
        store = kit.store()
        ends = []
        for key in ("a", "b"):
            store.change_lanes([DEFAULT, URGENT])
            write(kit, (key, "urgent"))
            default, urgent = Reading(store, "default"), Reading(store, "urgent")
            default()
            (page,) = [page for page in read_all(urgent.reader) if page.records]
            store.save(urgent.lease, page.end, LEASE_S)
            ends.append((page.batch, page.records[-1][0]))
            store.change_lanes([DEFAULT])
            urgent()
            store.retire(urgent.lease)
            default()
            default.give_back()

        assert ends[0] < ends[1]

    def test_a_lane_that_is_declared_again_before_it_came_to_its_end_loses_nothing(
        self, kit: StoreKit
    ) -> None:
        store = kit.store()
        store.change_lanes([DEFAULT, URGENT])
        write(kit, ("1", "urgent"))
        store.change_lanes([DEFAULT])
        write(kit, ("2", "urgent"))
        store.change_lanes([DEFAULT, URGENT])
        write(kit, ("3", "urgent"))
        default, urgent = Reading(store, "default"), Reading(store, "urgent")

        read = [key for _ in range(4) for key in (*urgent(), *default())]

        assert read == ["1", "2", "3"]

    def test_every_relay_name_has_the_lanes(self, kit: StoreKit) -> None:
        store = kit.store()
        store.create_relay("before", "earliest")
        store.change_lanes([DEFAULT, URGENT])
        store.create_relay("after", "earliest")
        write(kit, ("a", "urgent"), ("b", None))

        for relay in ("before", "after"):
            assert names_of(store, relay) == ["default", "urgent"]
            assert Reading(store, "default", relay)() == ["b"]
            assert Reading(store, "urgent", relay)() == ["a"]

    def test_a_change_of_priorities_alone_begins_nothing_new(self, kit: StoreKit) -> None:
        store = kit.store()
        store.change_lanes([DEFAULT, URGENT])
        default = Reading(store, "default")
        store.change_lanes([DEFAULT, Lane("urgent", priority=-5)])
        write(kit, ("a", None))

        assert default() == ["a"]
        assert [(each.name, each.priority) for each in store.streams("default")] == [
            ("default", 0),
            ("urgent", -5),
        ]

    def test_delivered_and_the_lag_look_at_every_lane(self, kit: StoreKit) -> None:
        store = kit.store()
        store.change_lanes([DEFAULT, URGENT])
        default, urgent = Reading(store, "default"), Reading(store, "urgent")
        default()
        write(kit, ("a", "urgent"), ("b", "urgent"), ("c", None))
        horizon = store.horizon()

        assert default() == ["c"]
        lags = {status.lane: status.lag_messages for status in store.status("default")}
        assert lags == {"default": 0, "urgent": 2}
        assert not store.delivered("default", horizon)
        assert urgent() == ["a", "b"]
        assert store.delivered("default", horizon)

    def test_nothing_is_delivered_for_certain_while_lanes_change(self, kit: StoreKit) -> None:
        store = kit.store()
        write(kit, ("a", "urgent"))
        store.change_lanes([DEFAULT, URGENT])
        horizon = store.horizon()

        assert not store.delivered("default", horizon)
        default, urgent = Reading(store, "default"), Reading(store, "urgent")
        default()
        urgent()
        assert store.delivered("default", horizon)

    def test_a_quiet_lane_does_not_keep_old_messages(self, kit: StoreKit) -> None:
        store = kit.store()
        store.change_lanes([DEFAULT, URGENT])
        default, urgent = Reading(store, "default"), Reading(store, "urgent")
        write(kit, *((str(n), None) for n in range(12_000)))
        default()

        assert urgent() == []  # but its cursor has moved
        kit.age(86400 * 2)

        assert any(part.kept is None for part in store.prune(dry_run=True))

    def test_what_is_held_goes_along_with_its_lane(self, kit: StoreKit) -> None:
        # Given a message that stops its key, held of a lane with more of that key behind it
        store = kit.store()
        stopped = {("t", "k")}
        store.change_lanes([DEFAULT, URGENT])
        default, urgent = Reading(store, "default"), Reading(store, "urgent")
        assert (default(), urgent()) == ([], [])
        write(kit, ("k", "urgent"), ("other", None))
        assert (default(), urgent()) == (["other"], ["k"])
        ((seq,),) = (
            kit.writer().execute("select seq from outbox_message where key = 'k'").fetchall()
        )
        hold = Hold(seq, "dead", blocks=True)
        store.held().hold(urgent.lease, urgent.position, LEASE_S, [hold])
        write(kit, ("k", "urgent"))
        # When the lane is removed, then the key is stopped for the lane, which has to come to its
        # end, and then for default, which has its messages from then on
        store.change_lanes([DEFAULT])
        assert default() == []
        assert store.held().stopped_keys(urgent.lease, 9) == stopped
        assert store.held().stopped_keys(default.lease, 9) == set()
        assert urgent() == ["k"]
        assert default() == []
        assert store.held().stopped_keys(default.lease, 9) == stopped
        # And when it is declared again, the same the other way round
        store.retire(urgent.lease)
        store.change_lanes([DEFAULT, URGENT])
        urgent = Reading(store, "urgent")
        assert (default(), urgent()) == ([], [])
        assert store.held().stopped_keys(urgent.lease, 9) == stopped
        assert store.held().stopped_keys(default.lease, 9) == set()

    def test_default_cannot_be_removed(self, kit: StoreKit) -> None:
        with pytest.raises(ConfigurationError, match="'default' cannot be removed"):
            kit.store().change_lanes([URGENT])
