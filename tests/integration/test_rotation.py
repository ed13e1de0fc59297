"""Which slots of the log are emptied, and when."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from outbox.errors import ConfigurationError, LogInconsistent
from outbox.migrations import check, grants, migrate
from outbox.publishers.memory import MemoryPublisher
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.postgresql.rotation import Rotation
from outbox.store.postgresql.session import BY_INDEX
from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import LEASE_S, StoreKit, acquire, keys, read_all
from tests.waiting import wait_until

pytestmark = pytest.mark.postgresql

DAY = 86_400
IN_OLD_SLOT = (
    "insert into outbox_message (slot, topic, key, payload, created_at) "
    "values ((outbox_slot() + 2) %% 4, 't', %s, 'x', clock_timestamp() - interval '2 days')"
)
MANY_IN_OLD_SLOT = (
    "insert into outbox_message (slot, topic, key, payload, created_at) "
    "select (outbox_slot() + 2) % 4, 't', 'k', 'x', clock_timestamp() - interval '2 days' "
    "from generate_series(1, 40000)"
)


@pytest.fixture
def kit(postgresql_kit: StoreKit) -> StoreKit:  # noqa: F811
    return postgresql_kit


def write_old(kit: StoreKit, *names: str) -> None:
    """Commit messages of two days ago, in a slot that is not written to any more."""
    with kit.transaction() as connection:
        for name in names:
            connection.execute(IN_OLD_SLOT, (name,))


def deliver(kit: StoreKit, relay: str = "default") -> list[str | None]:
    """Take everything there is, as a relay does."""
    store = kit.store()
    lease = acquire(store, relay)
    pages = read_all(store.reader(lease))
    store.release(lease, pages[-1].end if pages else lease.position)
    return keys(pages)


def removed(kit: StoreKit, **options: Any) -> list[str]:
    return [part.name for part in kit.store().prune(**options) if part.kept is None]


def reasons(kit: StoreKit) -> set[str | None]:
    return {part.kept for part in kit.store().prune()}


def log(kit: StoreKit) -> list[str]:
    query = "select key from outbox_message order by seq"
    return [key for (key,) in kit.writer().execute(query)]


class TestWhatIsRemoved:
    def test_old_delivered_messages_are_removed(self, kit: StoreKit) -> None:
        write_old(kit, "a", "b")
        deliver(kit)

        assert len(removed(kit)) == 1
        assert log(kit) == []
        assert removed(kit) == []

    def test_a_dry_run_removes_nothing(self, kit: StoreKit) -> None:
        write_old(kit, "a")
        deliver(kit)

        assert len(removed(kit, dry_run=True)) == 1
        assert log(kit) == ["a"]

    def test_what_was_not_delivered_stays_however_old_it_is(self, kit: StoreKit) -> None:
        write_old(kit, "a")
        deliver(kit)
        write_old(kit, "b")

        assert removed(kit) == []
        assert "not delivered yet by default" in reasons(kit)
        assert log(kit) == ["a", "b"]

    def test_every_relay_name_must_have_delivered(self, kit: StoreKit) -> None:
        # Given a relay name that nobody has served for years
        kit.store().create_relay("forgotten", "earliest")
        write_old(kit, "a")
        deliver(kit)

        # Then it is what keeps the log, and is named
        assert removed(kit) == []
        assert "not delivered yet by forgotten" in reasons(kit)

        # When it is dropped
        kit.store().forget_relay("forgotten")
        assert len(removed(kit)) == 1

    def test_the_slot_that_is_written_to_and_young_messages_stay(self, kit: StoreKit) -> None:
        kit.commit("now")
        with kit.transaction() as connection:
            connection.execute(IN_OLD_SLOT.replace("2 days", "1 hour"), ("an hour ago",))
        deliver(kit)

        assert removed(kit) == []
        assert {
            "it is being written to",
            "its messages are younger than the retention",
        } <= reasons(kit)

    def test_delivery_goes_on_after_it_in_order(self, kit: StoreKit) -> None:
        write_old(kit, "a", "b")
        deliver(kit)
        removed(kit)
        write_old(kit, "c", "d")

        assert deliver(kit) == ["c", "d"]

    def test_a_restored_log_is_left_alone(self, kit: StoreKit) -> None:
        write_old(kit, "a")
        deliver(kit)
        kit.writer().execute("update outbox_cursor set moved_at = clock_timestamp()")

        with pytest.raises(LogInconsistent, match="rebase"):
            kit.store().prune()
        assert log(kit) == ["a"]

    def test_half_of_a_batch_keeps_the_slot(self, kit: StoreKit) -> None:
        # Given a batch whose first page is delivered
        write_old(kit, "a", "b", "c")
        store = kit.store()
        lease = acquire(store)
        reader = store.reader(lease)
        first = reader.read(2, 10_000)
        store.save(lease, first.end, LEASE_S)

        # Then the slot stays until the rest is, and goes then although nothing new came
        assert removed(kit) == []
        rest = reader.read(2, 10_000)
        assert removed(kit) == []
        store.save(lease, rest.end, LEASE_S)
        assert len(removed(kit)) == 1


class TestTheCostOfALook:
    def test_it_is_the_same_in_the_midst_of_a_large_backlog(self, kit: StoreKit) -> None:
        # Given a plan of many messages, half of them delivered
        kit.writer().execute(MANY_IN_OLD_SLOT)
        store = kit.store()
        lease = acquire(store)
        page = store.reader(lease).read(20_000, 10**8)
        store.save(lease, page.end, LEASE_S)
        kit.writer().execute("vacuum analyze outbox_message")

        # Then looking whether the rest is delivered reads a few blocks, and no row of the half
        slot = kit.writer().execute("select (outbox_slot() + 2) % 4").fetchone()[0]
        question = Rotation(store.session, kit.names)._question(f"outbox_message_{slot}")
        connection = kit.writer()
        connection.execute(f"begin; {BY_INDEX}")
        (found,) = connection.execute(
            f"explain (analyze, buffers, timing off, format json) {question}"
        ).fetchone()
        plan = found[0]["Plan"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 30
        assert "not delivered yet by default" in reasons(kit)


class TestARelay:
    def test_it_prunes_while_it_works(self, kit: StoreKit) -> None:
        write_old(kit, "a")
        settings = RelaySettings(prune_interval_s=0.01)
        stop = threading.Event()
        relay = Relay(kit.store(), MemoryPublisher, settings)
        thread = threading.Thread(target=relay.run, args=(stop,))
        thread.start()
        try:
            kit.commit("b")
            connection = kit.writer()
            query = "select count(*) from outbox_message where key = 'a'"
            wait_until(
                lambda: connection.execute(query).fetchone() == (0,),
                what="the old message to be removed",
            )
        finally:
            stop.set()
            thread.join()

    def test_it_keeps_its_lane_however_long_that_takes(self, kit: StoreKit) -> None:
        # Given a removal that takes as long as our clock trusts a lease
        now = 0.0
        store: Any = kit.store()

        def prune() -> list[Any]:
            nonlocal now
            now += 8.0
            return []

        store.prune = prune
        settings = RelaySettings(lease_s=10.0, prune_interval_s=5.0)
        with Relay(store, MemoryPublisher, settings, clock=lambda: now) as relay:
            kit.commit("a")
            assert relay.run_once().delivered == 1
            for _ in range(10):
                now += 2.0
                kit.commit("b")
                assert relay.run_once().delivered == 1
        assert now > 28.0

    def test_without_the_right_it_goes_on_and_says_so(
        self, kit: StoreKit, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Forbidden:
            def prune(self) -> list[Any]:
                raise ConfigurationError("permission denied; grant what the relay needs")

        store: Any = kit.store()
        store.prune = Forbidden().prune
        kit.commit("a")
        relay = Relay(store, MemoryPublisher, RelaySettings(prune_interval_s=0.001))
        for _ in range(3):
            kit.commit("b")
            assert relay.run_once().delivered
        relay.close()

        assert caplog.text.count("old messages are not removed: permission denied") == 1

    def test_the_relays_role_may_prune_and_says_what_it_needs_to(self, kit: StoreKit) -> None:
        admin = kit.writer()
        role = f"relay_{threading.get_native_id()}"
        admin.execute(f"create role {role}")
        try:
            admin.execute(grants(kit.names, relay_role=role, schema="public"))
            slots = ", ".join(f"outbox_message_{slot}" for slot in range(4))
            admin.execute(f"revoke truncate on {slots} from {role}")
            write_old(kit, "a")
            deliver(kit)
            store = kit.store()
            store.session.connection.execute(f"set role {role}")

            # Without the right it says so, and the connection is as good as before
            with pytest.raises(ConfigurationError, match="migrate --relay-role"):
                store.prune()
            lease = acquire(store)
            store.release(lease, lease.position)

            admin.execute(grants(kit.names, relay_role=role, schema="public"))
            assert [part.kept for part in store.prune()].count(None) == 1
        finally:
            admin.execute(f"drop owned by {role}; drop role {role}")


class TestTheRetention:
    def test_it_is_a_setting(self, kit: StoreKit) -> None:
        # Given messages of two days ago
        write_old(kit, "a")
        deliver(kit)

        # When they are to be kept for a week, and then for an hour
        assert migrate(kit.url, retention_s=7 * DAY) == []
        assert removed(kit) == []
        migrate(kit.url, retention_s=3600)
        kit.age(0)  # by the new pace their slot may be the one that is written to

        # Then that holds at once, and the tables are as they should be
        assert check(kit.url) == []
        assert len(removed(kit)) == 1

    def test_slots_take_turns_at_half_of_it(self, kit: StoreKit) -> None:
        migrate(kit.url, retention_s=100)
        connection = kit.writer()
        source = "select prosrc from pg_proc where proname = 'outbox_slot'"
        assert "/ 50 % 4" in connection.execute(source).fetchone()[0]

    @pytest.mark.parametrize("seconds", [0, 59, 10**10])
    def test_nonsense_is_refused_and_changes_nothing(self, kit: StoreKit, seconds: int) -> None:
        with pytest.raises(ConfigurationError, match="retention"):
            migrate(kit.url, retention_s=seconds)
        row = kit.writer().execute("select retention_s from outbox_meta").fetchone()
        assert row == (DAY,)

    def test_a_later_migrate_leaves_it_alone(self, kit: StoreKit) -> None:
        migrate(kit.url, retention_s=3600)
        migrate(kit.url)
        row = kit.writer().execute("select retention_s from outbox_meta").fetchone()
        assert row == (3600,)
