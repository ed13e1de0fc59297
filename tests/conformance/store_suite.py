"""What every store must do. Subclasses give a `kit`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outbox.errors import ConfigurationError
from outbox.record import Position, Record
from outbox.store.base import LeaseLost
from outbox.store.owner import new_owner
from tests.conformance.store_kit import LEASE_S, StoreKit, acquire, keys, positions, read_all


class StoreSuite:
    """Subclass it and give it a fixture `kit`."""

    # Reading

    def test_what_is_committed_is_read_once_in_order(self, kit: StoreKit) -> None:
        kit.commit("a", "b")
        kit.commit("c")
        store = kit.store()
        reader = store.reader(acquire(store))

        assert keys(read_all(reader)) == ["a", "b", "c"]
        assert read_all(reader) == []

    def test_a_record_has_every_column_of_the_message(self, kit: StoreKit) -> None:
        mark = "?" if kit.url.dialect == "sqlite" else "%s"
        with kit.transaction() as connection:
            connection.execute(
                "insert into outbox_message (topic, key, payload, id, type, content_type, headers,"
                f" traceparent, tracestate) values ({', '.join([mark] * 9)})",
                (
                    "orders",
                    "k",
                    b"\x00\xff",
                    "018f3f1e-0000-7000-8000-000000000001",
                    "order.placed",
                    "application/json",
                    '{"tenant": "acme"}',
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                    "vendor=1",
                ),
            )
        store = kit.store()

        (page,) = read_all(store.reader(acquire(store)))

        record = Record(*page.records[0])
        assert record == (
            record.seq,
            "018f3f1e-0000-7000-8000-000000000001",
            "orders",
            "k",
            b"\x00\xff",
            "order.placed",
            "application/json",
            '{"tenant": "acme"}',
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "vendor=1",
            None,
            record.total,
        )

    def test_a_rollback_leaves_nothing_to_read(self, kit: StoreKit) -> None:
        writer = kit.writer()
        writer.execute("begin")
        kit.write(writer, "rolled back")
        writer.execute("rollback")
        kit.commit("committed")
        store = kit.store()

        assert keys(read_all(store.reader(acquire(store)))) == ["committed"]

    def test_a_savepoint_that_is_rolled_back_drops_only_its_own(self, kit: StoreKit) -> None:
        with kit.transaction() as connection:
            kit.write(connection, "before")
            connection.execute("savepoint s")
            kit.write(connection, "within")
            connection.execute("rollback to savepoint s")
            kit.write(connection, "after")
            connection.execute("savepoint kept")
            kit.write(connection, "kept")
            connection.execute("release savepoint kept")
        store = kit.store()

        assert keys(read_all(store.reader(acquire(store)))) == ["before", "after", "kept"]

    def test_a_page_is_bounded_by_rows(self, kit: StoreKit) -> None:
        kit.commit(*map(str, range(10)))
        store = kit.store()

        pages = read_all(store.reader(acquire(store)), max_rows=3)

        assert [len(page.records) for page in pages] == [3, 3, 3, 1]
        assert keys(pages) == [str(i) for i in range(10)]

    def test_a_page_is_bounded_by_bytes_and_holds_at_least_one(self, kit: StoreKit) -> None:
        kit.commit(*map(str, range(6)), payload=bytes(100_000))
        store = kit.store()

        pages = read_all(store.reader(acquire(store)), max_bytes=200_000)

        assert [len(page.records) for page in pages] == [2, 2, 2]
        assert keys(pages) == [str(i) for i in range(6)]

    def test_one_message_larger_than_the_bound_is_a_page_of_its_own(self, kit: StoreKit) -> None:
        kit.commit("large", "larger", payload=bytes(100_000))
        store = kit.store()

        pages = read_all(store.reader(acquire(store)), max_bytes=10)

        assert [len(page.records) for page in pages] == [1, 1]

    @pytest.mark.parametrize("heavy_at", [{0}, {3}, {0, 1, 9}, {2, 5, 6}, set(range(10))])
    def test_heavy_messages_among_light_ones_are_whole_and_bounded(
        self, kit: StoreKit, heavy_at: set[int]
    ) -> None:
        # Given two batches, the first of which has messages of more than a page's bytes by the row
        written = [bytes([n]) * (60_000 if n in heavy_at else 100) for n in range(10)]
        with kit.transaction() as connection:
            for payload in written:
                kit.write(connection, "k", payload=payload)
        store = kit.store()
        reader = store.reader(acquire(store))

        # When they are read by 4 at a time and some bytes
        pages = read_all(reader, max_rows=4, max_bytes=100_000)
        kit.commit("light", payload=b"light")
        pages += read_all(reader, max_rows=4, max_bytes=100_000)

        # Then each is there, whole and in order, and no page has more than one beyond the bound
        sizes = [[len(record[4] or b"") for record in page.records] for page in pages]
        assert [record[4] for page in pages for record in page.records] == [*written, b"light"]
        assert all(sum(page[:-1]) < 100_000 and len(page) <= 4 for page in sizes)

    def test_positions_rise_over_pages_and_batches(self, kit: StoreKit) -> None:
        store = kit.store()
        reader = store.reader(acquire(store))
        read = []
        for round_ in range(4):
            kit.commit(*(f"{round_}-{i}" for i in range(5)))
            read += read_all(reader, max_rows=2)

        assert positions(read) == sorted(set(positions(read)))
        assert [page.end for page in read] == sorted(page.end for page in read)

    # The cursor

    def test_a_saved_position_is_where_the_next_term_begins(self, kit: StoreKit) -> None:
        kit.commit(*map(str, range(6)))
        first = kit.store()
        lease = acquire(first)
        page = first.reader(lease).read(4, 10_000_000)
        first.save(lease, page.end, LEASE_S)
        first.release(lease, page.end)

        second = kit.store()

        assert keys(read_all(second.reader(acquire(second)))) == ["4", "5"]

    def test_what_was_not_saved_is_read_again_at_the_same_positions(self, kit: StoreKit) -> None:
        first = kit.store()
        lease = acquire(first)
        reader = first.reader(lease)
        read = []
        for round_ in range(3):
            kit.commit(*(f"{round_}-{i}" for i in range(5)))
            read += read_all(reader, max_rows=2)
        first.release(lease, lease.position)
        kit.commit("new")

        second = kit.store()
        again = read_all(second.reader(acquire(second)), max_rows=3)

        assert keys(again) == [*keys(read), "new"]
        assert positions(again)[: len(positions(read))] == positions(read)

    def test_a_position_in_the_middle_of_a_page_is_kept(self, kit: StoreKit) -> None:
        kit.commit(*map(str, range(6)))
        store = kit.store()
        lease = acquire(store)
        page = store.reader(lease).read(100, 10_000_000)
        store.release(lease, Position(page.batch, page.records[2][0]))

        assert keys(read_all(store.reader(acquire(store)))) == ["3", "4", "5"]

    def test_two_relay_names_have_progress_of_their_own(self, kit: StoreKit) -> None:
        kit.commit("a")
        store = kit.store()
        store.create_relay("from-earliest", "earliest")
        store.create_relay("from-latest", "latest")
        kit.commit("b")

        read = {
            name: keys(read_all(store.reader(acquire(store, name))))
            for name in ("default", "from-earliest", "from-latest")
        }

        assert read == {"default": ["a", "b"], "from-earliest": ["a", "b"], "from-latest": ["b"]}

    def test_a_relay_name_may_begin_at_a_time(self, kit: StoreKit) -> None:
        # Given messages of two hours ago, of one hour ago, and of now
        kit.commit("old", "older")
        kit.age(3600)
        kit.commit("of the time", "and after")
        kit.age(3600)
        kit.commit("now")
        store = kit.store()
        now = datetime.now(UTC)

        # When relay names begin at times between them
        for name, ago in (("all", 5.0), ("most", 1.5), ("some", 0.5)):
            store.create_relay(name, now - timedelta(hours=ago))
        kit.commit("later")

        # Then each delivers what was written from then on
        assert _read(store, "all") == ["old", "older", "of the time", "and after", "now", "later"]
        assert _read(store, "most") == ["of the time", "and after", "now", "later"]
        assert _read(store, "some") == ["now", "later"]

    def test_a_relay_name_cannot_begin_in_the_future(self, kit: StoreKit) -> None:
        with pytest.raises(ConfigurationError, match="is later than"):
            kit.store().create_relay("prophet", datetime.now(UTC) + timedelta(hours=1))

    # The lease

    def test_a_lane_that_is_held_is_not_given_away(self, kit: StoreKit) -> None:
        first, second = kit.store(), kit.store()
        acquire(first)

        assert second.acquire("default", "default", new_owner(), LEASE_S) is None

    def test_a_lane_that_was_released_is_free_at_once(self, kit: StoreKit) -> None:
        first, second = kit.store(), kit.store()
        lease = acquire(first)
        first.release(lease, lease.position)

        assert acquire(second).epoch == lease.epoch + 1

    def test_a_lease_that_ran_out_is_free(self, kit: StoreKit) -> None:
        first, second = kit.store(), kit.store()
        lease = first.acquire("default", "default", new_owner(), -1.0)

        assert acquire(second).epoch == lease.epoch + 1

    def test_saving_renews_the_lease(self, kit: StoreKit) -> None:
        first, second = kit.store(), kit.store()
        lease = first.acquire("default", "default", new_owner(), -1.0)
        first.save(lease, lease.position, LEASE_S)

        assert second.acquire("default", "default", new_owner(), LEASE_S) is None

    def test_nothing_a_former_owner_writes_changes_anything(self, kit: StoreKit) -> None:
        """Given a relay that lost its lane with a batch in flight, its late writes do nothing."""
        kit.commit("a", "b")
        zombie, successor = kit.store(), kit.store()
        old = zombie.acquire("default", "default", new_owner(), -1.0)
        page = zombie.reader(old).read(10, 10_000)
        new = acquire(successor)

        for write in (
            lambda: zombie.save(old, page.end, LEASE_S),
            lambda: zombie.release(old, page.end),
            lambda: zombie.bind_cluster(old, "elsewhere"),
        ):
            with pytest.raises(LeaseLost):
                write()

        successor.save(new, new.position, LEASE_S)
        assert keys(read_all(successor.reader(new))) == ["a", "b"]
        assert successor.status("default")[0].cluster_id is None

    def test_an_unknown_relay_name_is_refused_with_the_way_to_make_it(self, kit: StoreKit) -> None:
        with pytest.raises(ConfigurationError, match="relays create nobody"):
            kit.store().acquire("nobody", "default", new_owner(), LEASE_S)

    def test_a_bound_cluster_is_remembered_until_rebound(self, kit: StoreKit) -> None:
        store = kit.store()
        lease = acquire(store)
        store.bind_cluster(lease, "cluster-1")
        store.release(lease, lease.position)

        assert acquire(store).cluster_id == "cluster-1"
        store.rebind_relay("default")
        assert store.status("default")[0].cluster_id is None

    # What is delivered

    def test_delivered_tells_what_was_committed_before_the_horizon(self, kit: StoreKit) -> None:
        store = kit.store()
        lease = acquire(store)
        kit.commit("a")
        horizon = store.horizon()
        kit.commit("later")

        assert not store.delivered("default", horizon)
        page = store.reader(lease).read(1, 10_000)
        store.save(lease, page.end, LEASE_S)
        assert store.delivered("default", horizon)
        assert not store.delivered("default", store.horizon())

    def test_status_tells_the_lag(self, kit: StoreKit) -> None:
        store = kit.store()
        lease = acquire(store)
        kit.commit("a", "b", "c")

        (behind,) = store.status()
        assert (behind.lag_messages, behind.lag_is_exact) == (3, True)
        assert behind.lag_seconds is not None
        assert 0 <= behind.lag_seconds < 60

        (page,) = read_all(store.reader(lease))
        store.save(lease, page.end, LEASE_S)
        (level,) = store.status("default")
        assert (level.lag_messages, level.lag_seconds) == (0, None)

    def test_status_estimates_a_large_lag_without_counting_it(self, kit: StoreKit) -> None:
        kit.commit(*map(str, range(10_050)))

        (status,) = kit.store().status()

        assert not status.lag_is_exact
        assert 10_050 <= status.lag_messages <= 10_051

    def test_processes_are_seen_until_they_end(self, kit: StoreKit) -> None:
        store = kit.store()
        store.heartbeat("default", "me", "relaying")
        store.heartbeat("default", "you", "standby")
        store.heartbeat("default", "me", "relaying")

        assert [p.process for p in store.status("default")[0].processes] == ["me", "you"]
        store.forget_process("default", "you")
        assert [p.process for p in store.status("default")[0].processes] == ["me"]

    # What is old

    def test_old_messages_are_removed_once_they_are_delivered(self, kit: StoreKit) -> None:
        # Given messages of two days ago, half of them delivered
        kit.commit("a", "b")
        store = kit.store()
        lease = acquire(store)
        reader = store.reader(lease)
        (page,) = read_all(reader)
        store.save(lease, page.end, LEASE_S)
        kit.commit("c", "d")
        kit.age(2 * 86_400)

        # Then nothing that waits is removed
        store.prune()
        assert {"c", "d"} <= set(kit.keys_in_log())

        # And what is delivered is, once nothing beside it waits
        store.save(lease, read_all(reader)[-1].end, LEASE_S)
        assert any(part.kept is None for part in store.prune(dry_run=True))
        assert set(kit.keys_in_log()) >= {"c", "d"}
        store.prune()
        assert kit.keys_in_log() == []

    def test_young_messages_stay(self, kit: StoreKit) -> None:
        kit.commit("a")
        store = kit.store()
        lease = acquire(store)
        store.save(lease, read_all(store.reader(lease))[-1].end, LEASE_S)

        assert all(part.kept for part in store.prune())
        assert kit.keys_in_log() == ["a"]

    def test_nothing_is_removed_while_there_is_no_relay_name(self, kit: StoreKit) -> None:
        """As when one is renamed: forgotten, and then made anew to begin at the earliest."""
        kit.commit("a")
        kit.age(2 * 86_400)
        store = kit.store()
        store.forget_relay("default")

        assert all(part.kept for part in store.prune())

        store.create_relay("renamed", "earliest")
        assert keys(read_all(store.reader(acquire(store, "renamed")))) == ["a"]

    # Relay names

    def test_relay_names_are_made_and_forgotten(self, kit: StoreKit) -> None:
        store = kit.store()
        store.create_relay("audit", "latest")
        assert store.relays() == ["audit", "default"]
        with pytest.raises(ConfigurationError, match="already"):
            store.create_relay("audit", "latest")

        store.forget_relay("audit")
        assert store.relays() == ["default"]
        for act in (store.forget_relay, store.rebind_relay, store.status):
            with pytest.raises(ConfigurationError, match="no relay called 'audit'"):
                act("audit")


def _read(store: Any, relay: str) -> list[str | None]:
    return keys(read_all(store.reader(acquire(store, relay))))
