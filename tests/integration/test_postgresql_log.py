"""What is committed is published, nothing else, in an order that respects commits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from outbox.errors import DatabaseUnavailable, LogInconsistent
from outbox.record import Position
from outbox.store.base import LeaseLost
from outbox.store.owner import new_owner
from outbox.store.postgresql.reader import FLOOR_DISTANCE
from outbox.store.postgresql.sequence import sequence_state
from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import LEASE_S, StoreKit, acquire, keys, positions, read_all

pytestmark = pytest.mark.postgresql


@pytest.fixture
def kit(postgresql_kit: StoreKit) -> Iterator[StoreKit]:  # noqa: F811
    yield postgresql_kit
    with psycopg.connect(postgresql_kit.url.conninfo, autocommit=True) as connection:
        for (gid,) in connection.execute(
            "select gid from pg_prepared_xacts where database = current_database()"
        ).fetchall():
            connection.execute(f"rollback prepared '{gid}'")


def reader_of(kit: StoreKit) -> Any:
    store = kit.store()
    return store.reader(acquire(store))


class TestOrder:
    def test_the_interleaving_that_breaks_other_readers(self, kit: StoreKit) -> None:
        """A and B serialise on a row, so the true order of K is 1, 2. L has a lower transaction id
        and commits late. C is an unrelated transaction that stays open throughout."""
        a, b, c, late = (kit.writer() for _ in range(4))
        reader = reader_of(kit)
        with kit.transaction() as connection:
            connection.execute("create table account (k text primary key, n int)")
            connection.execute("insert into account values ('K', 0)")

        # Given C is open, L has written, and A has an id before B has
        c.execute("begin; select pg_current_xact_id()")
        late.execute("begin")
        kit.write(late, "L")
        for connection in (b, a):
            connection.execute("begin; select pg_current_xact_id()")
        a.execute("update account set n = 1 where k = 'K'")
        kit.write(a, "K", payload=b"1")
        a.execute("commit")
        b.execute("update account set n = 2 where k = 'K'")
        kit.write(b, "K", payload=b"2")
        b.execute("commit")

        # When the relay reads, while L and C are open
        before = read_all(reader)
        # And again when L has committed
        late.execute("commit")
        after = read_all(reader)

        # Then K came at once, in the order of its commits, and L as soon as it could
        assert [record[4] for page in before for record in page.records] == [b"1", b"2"]
        assert keys(after) == ["L"]
        c.execute("rollback")
        assert read_all(reader) == []

    def test_a_message_committed_before_another_was_written_comes_first(
        self, kit: StoreKit
    ) -> None:
        first, second = kit.writer(), kit.writer()
        second.execute("begin; select pg_current_xact_id()")
        first.execute("begin")
        kit.write(first, "first")
        first.execute("commit")
        kit.write(second, "second")
        second.execute("commit")

        assert keys(read_all(reader_of(kit))) == ["first", "second"]

    def test_late_and_fresh_messages_are_merged_by_seq(self, kit: StoreKit) -> None:
        reader = reader_of(kit)
        slow = kit.writer()
        slow.execute("begin")
        kit.write(slow, "late 1")
        kit.commit("seen")
        assert keys(read_all(reader)) == ["seen"]
        kit.commit("fresh 1")
        kit.write(slow, "late 2")
        kit.commit("fresh 2")
        slow.execute("commit")

        assert keys(read_all(reader, max_rows=3)) == ["late 1", "fresh 1", "late 2", "fresh 2"]


class TestTransactions:
    def test_two_phase_commit(self, kit: StoreKit) -> None:
        reader = reader_of(kit)
        writer = kit.writer()
        for name in ("kept", "dropped"):
            writer.execute("begin")
            kit.write(writer, name)
            writer.execute(f"prepare transaction '{name}-{new_owner()[-8:]}'")
        prepared = {
            gid.rsplit("-", 1)[0]: gid
            for (gid,) in writer.execute(
                "select gid from pg_prepared_xacts where database = current_database()"
            ).fetchall()
        }
        kit.commit("meanwhile")

        # A prepared transaction holds nobody back, and is told to whoever asks
        assert keys(read_all(reader)) == ["meanwhile"]
        assert sorted(b.kind for b in kit.store().blockers()) == ["prepared", "prepared"]
        writer.execute(f"rollback prepared '{prepared['dropped']}'")
        writer.execute(f"commit prepared '{prepared['kept']}'")
        assert keys(read_all(reader)) == ["kept"]

    def test_autocommit(self, kit: StoreKit) -> None:
        reader = reader_of(kit)
        writer = kit.writer()
        kit.write(writer, "one")
        kit.write(writer, "two")

        assert keys(read_all(reader)) == ["one", "two"]

    @pytest.mark.parametrize("level", ["repeatable read", "serializable"])
    def test_serialization_failures_leave_nothing(self, kit: StoreKit, level: str) -> None:
        with kit.transaction() as connection:
            connection.execute("create table counter (n int)")
            connection.execute("insert into counter values (0)")
        winner, loser = kit.writer(), kit.writer()
        for connection in (winner, loser):
            connection.execute(f"begin isolation level {level}")
            connection.execute("select n from counter")
        winner.execute("update counter set n = n + 1")
        kit.write(winner, "winner")
        kit.write(loser, "loser")
        winner.execute("commit")
        with pytest.raises(psycopg.errors.SerializationFailure):
            loser.execute("update counter set n = n + 1")
        loser.execute("rollback")

        assert keys(read_all(reader_of(kit))) == ["winner"]

    def test_copy_and_insert_select(self, kit: StoreKit) -> None:
        with kit.transaction() as connection:
            with connection.cursor().copy(
                "copy outbox_message (topic, key, payload) from stdin"
            ) as copy:
                for key in ("copied 1", "copied 2"):
                    copy.write_row(("t", key, b"x"))
            connection.execute(
                "insert into outbox_message (topic, key, payload) "
                "select 't', 'selected ' || g, 'x' from generate_series(1, 2) as g"
            )

        assert keys(read_all(reader_of(kit))) == [
            "copied 1",
            "copied 2",
            "selected 1",
            "selected 2",
        ]

    def test_a_row_written_in_a_savepoint_carries_its_transactions_id(self, kit: StoreKit) -> None:
        with kit.transaction() as connection:
            kit.write(connection, "outer")
            connection.execute("savepoint s")
            kit.write(connection, "inner")

        (ids,) = kit.writer().execute("select count(distinct xid) from outbox_message").fetchone()
        assert ids == 1


class TestPlans:
    def test_a_plan_is_saved_before_its_messages_are_handed_out(self, kit: StoreKit) -> None:
        reader = reader_of(kit)
        kit.commit("a")
        page = reader.read(10, 10_000)

        (saved,) = kit.writer().execute("select max(plan_no) from outbox_plan").fetchone()
        assert saved == page.batch

    def test_a_message_keeps_its_position_when_a_late_one_joins_after_a_crash(
        self, kit: StoreKit
    ) -> None:
        """Without a saved plan the new owner's batch would hold the late message too, below
        positions that consumers have seen."""
        slow = kit.writer()
        slow.execute("begin")
        kit.write(slow, "late")
        kit.commit("a", "b")
        crashed = kit.store()
        lease = crashed.acquire("default", "default", new_owner(), -1.0)
        seen = read_all(crashed.reader(lease))
        slow.execute("commit")

        again = read_all(reader_of(kit))

        assert keys(again) == ["a", "b", "late"]
        assert positions(again)[:2] == positions(seen)
        assert positions(again)[2] > positions(seen)[-1]

    def test_an_idle_reader_writes_nothing(self, kit: StoreKit) -> None:
        reader = reader_of(kit)
        kit.commit("a")
        read_all(reader)
        observer = kit.writer()
        count = "select count(*) from outbox_plan"
        before = observer.execute(count).fetchone()

        for _ in range(20):
            assert reader.read(10, 10_000) is None
        assert observer.execute(count).fetchone() == before

    def test_an_old_floor_is_raised_by_an_empty_plan(self, kit: StoreKit) -> None:
        """Else every poll would scan what came since."""
        reader = reader_of(kit)
        kit.writer().execute(
            "insert into outbox_message (topic, key, payload) "
            "select 't', 'k', 'x' from generate_series(1, %s)",
            (FLOOR_DISTANCE + 100,),
        )
        pages = read_all(reader, max_rows=5_000)

        assert [len(page.records) for page in pages] == [5_000, 5_000, 100, 0]
        (floor,) = (
            kit.writer()
            .execute("select target_floor from outbox_plan order by plan_no desc limit 1")
            .fetchone()
        )
        assert floor == FLOOR_DISTANCE + 100
        assert reader.read(10, 10_000) is None

    def test_polls_that_scan_the_same_again_and_again_move_the_floor(self, kit: StoreKit) -> None:
        # Given a batch of many messages, all delivered, so that the floor is below them
        reader = reader_of(kit)
        many = FLOOR_DISTANCE // 3
        kit.writer().execute(
            "insert into outbox_message (topic, key, payload) "
            "select 't', 'k', 'x' from generate_series(1, %s)",
            (many,),
        )
        assert sum(len(page.records) for page in read_all(reader, max_rows=many)) == many

        # When nothing is found for a while, though other transactions come and go
        other = kit.writer()
        empty = 0
        for _ in range(12):
            other.execute("select pg_current_xact_id()")
            empty += reader.read(10, 10_000) is not None

        # Then the floor has come up, at the price of one empty plan, and nothing is lost
        (floor,) = other.execute(
            "select target_floor from outbox_plan order by plan_no desc limit 1"
        ).fetchone()
        assert (floor, empty) == (many, 1)
        kit.commit("next")
        assert keys(read_all(reader)) == ["next"]

    def test_an_idle_reader_asks_one_question_until_a_transaction_ends(
        self, kit: StoreKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a transaction with a message, which is still running, and a look that found nothing
        reader = reader_of(kit)
        slow = kit.writer()
        slow.execute("begin")
        kit.write(slow, "slow")
        assert reader.read(10, 10_000) is None
        looks: list[None] = []
        look = reader._look
        monkeypatch.setattr(reader, "_look", lambda *given: looks.append(None) or look(*given))

        # When nothing happens, no plan is prepared
        assert [reader.read(10, 10_000) for _ in range(3)] == [None, None, None]
        assert not looks

        # And when the transaction ends, its message is found
        slow.execute("commit")
        assert keys(read_all(reader)) == ["slow"]

    def test_ended_transactions_without_messages_are_not_asked_for_again(
        self, kit: StoreKit
    ) -> None:
        others = [kit.writer() for _ in range(3)]
        for other in others:
            other.execute("begin; select pg_current_xact_id()")
        reader = reader_of(kit)
        kit.commit("a")
        read_all(reader)
        for other in others:
            other.execute("rollback")

        assert reader.read(10, 10_000) is None
        assert len(reader._fruitless) >= 3
        kit.commit("b")
        assert keys(read_all(reader)) == ["b"]

    def test_delivered_plans_are_deleted(
        self, kit: StoreKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("outbox.store.postgresql.store.PRUNE_AFTER", 5)
        store = kit.store()
        lease = acquire(store)
        reader = store.reader(lease)
        for number in range(12):
            kit.commit(str(number))
            (page,) = read_all(reader)
            store.save(lease, page.end, LEASE_S)

        (count,) = kit.writer().execute("select count(*) from outbox_plan").fetchone()
        assert count < 8
        store.release(lease, page.end)
        kit.commit("after")
        assert keys(read_all(store.reader(acquire(store)))) == ["after"]

    def test_a_relay_whose_epoch_is_over_cannot_save_a_plan(self, kit: StoreKit) -> None:
        zombie = kit.store()
        reader = zombie.reader(zombie.acquire("default", "default", new_owner(), -1.0))
        reader_of(kit)
        kit.commit("a")

        with pytest.raises(LeaseLost):
            reader.read(10, 10_000)
        assert kit.writer().execute("select count(*) from outbox_plan").fetchone() == (1,)


class TestTheFloor:
    def test_the_sequence_is_never_read_ahead_of_what_was_drawn(self, kit: StoreKit) -> None:
        """Every 32 numbers nextval shows a value 32 higher for a moment, to whoever takes no lock.
        As a floor that would lose the messages in between."""
        stop = threading.Event()

        def draw() -> None:
            with psycopg.connect(kit.url.conninfo, autocommit=True) as connection:
                while not stop.is_set():
                    connection.execute(
                        "select nextval('outbox_message_seq') from generate_series(1, 5000)"
                    )

        threads = [threading.Thread(target=draw, daemon=True) for _ in range(3)]
        store = kit.store()
        for thread in threads:
            thread.start()
        try:
            with store.session.translated() as connection:
                for _ in range(5_000):
                    read, _ = sequence_state(connection, kit.names)
                    (drawn,) = connection.execute("select nextval('outbox_message_seq')").fetchone()
                    assert drawn > read
        finally:
            stop.set()
            for thread in threads:
                thread.join()


class TestALogThatIsNotWhatItWas:
    """Nothing would ever be delivered again, so the relay stops and says what to do."""

    @pytest.mark.parametrize(
        "reset",
        [
            "select setval('outbox_message_seq', 1)",
            "alter sequence outbox_message_seq restart",
        ],
    )
    def test_the_sequence_went_backwards(self, kit: StoreKit, reset: str) -> None:
        store = kit.store()
        lease = acquire(store)
        reader = store.reader(lease)
        kit.commit(*map(str, range(10)))
        read_all(reader)
        kit.commit("more")
        read_all(reader)
        kit.writer().execute(reset)

        with pytest.raises(LogInconsistent, match="--rebase"):
            reader.read(10, 10_000)
        store.release(lease, lease.position)
        with pytest.raises(LogInconsistent, match="--rebase"):
            acquire(store)

    def test_truncate_restart_identity_leaves_the_sequence_alone(self, kit: StoreKit) -> None:
        reader = reader_of(kit)
        kit.commit("a", "b")
        read_all(reader)
        kit.writer().execute("truncate outbox_message restart identity")
        kit.commit("c")

        assert keys(read_all(reader)) == ["c"]

    def test_the_cursor_was_copied_from_elsewhere(self, kit: StoreKit) -> None:
        """What dump and restore does: every row is written anew, by another transaction."""
        kit.writer().execute("update outbox_cursor set plan_no = plan_no")

        with pytest.raises(LogInconsistent, match="restored from a dump"):
            acquire(kit.store())

    @pytest.mark.parametrize("rewrite", ["vacuum freeze", "vacuum full", "cluster"])
    def test_maintenance_is_not_taken_for_a_restore(self, kit: StoreKit, rewrite: str) -> None:
        target = "outbox_cursor"
        using = " using outbox_cursor_pkey" if rewrite == "cluster" else ""
        kit.writer().execute(f"{rewrite} {target}{using}")
        kit.commit("a")

        assert keys(read_all(reader_of(kit))) == ["a"]

    def test_the_cursor_knows_transactions_that_are_yet_to_come(self, kit: StoreKit) -> None:
        kit.writer().execute(
            "update outbox_plan set target = '4000000000:4000000000:', last = '3:3:'"
        )

        with pytest.raises(LogInconsistent, match="went back in time"):
            acquire(kit.store())

    def test_the_cursor_has_lost_its_plan(self, kit: StoreKit) -> None:
        kit.writer().execute("delete from outbox_plan")

        with pytest.raises(LogInconsistent, match="no plan"):
            acquire(kit.store())

    def test_another_timeline_gives_the_log_a_new_id(self, kit: StoreKit) -> None:
        store = kit.store()
        lease = acquire(store)
        store.release(lease, lease.position)
        kit.writer().execute("update outbox_meta set timeline = '000000AA'")

        assert acquire(store).log_id != lease.log_id


class TestADatabaseThatIsAway:
    def test_a_read_only_server_counts_as_away(self, kit: StoreKit) -> None:
        store = kit.store()
        reader = store.reader(acquire(store))
        kit.commit("a")
        store.session.connection.execute("set default_transaction_read_only = on")

        with pytest.raises(DatabaseUnavailable, match="read-only"):
            reader.read(10, 10_000)

    def test_a_lost_connection_counts_as_away(self, kit: StoreKit) -> None:
        store = kit.store()
        lease = acquire(store)
        kit.writer().execute(
            "select pg_terminate_backend(%s)", (store.session.connection.info.backend_pid,)
        )

        with pytest.raises(DatabaseUnavailable):
            store.save(lease, Position(0, 0), LEASE_S)

    def test_a_standby_publishes_nothing_and_is_waited_for(
        self, kit: StoreKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hot standby answers reads, and its snapshots do not list what runs."""
        store = kit.store()
        reader = store.reader(acquire(store))
        kit.commit("a")
        sequence = reader._sql.sequence
        reader._sql.sequence = sequence.replace("pg_is_in_recovery()", "true")

        with pytest.raises(DatabaseUnavailable, match="standby"):
            reader.read(10, 10_000)

    def test_a_commit_the_standby_did_not_confirm_counts_as_failed(self, kit: StoreKit) -> None:
        """A cancelled wait for a synchronous standby ends with a warning, not with an error."""
        store = kit.store()
        session = store.session

        with pytest.raises(DatabaseUnavailable, match="not durable"), session.durable() as c:
            c.execute(
                "create temp table t (n int); "
                "create function pg_temp.warn() returns trigger language plpgsql as "
                "$$ begin raise warning 'canceling wait'; return null; end $$; "
                "create constraint trigger w after insert on t deferrable initially deferred "
                "for each row execute function pg_temp.warn(); insert into t values (1)"
            )
