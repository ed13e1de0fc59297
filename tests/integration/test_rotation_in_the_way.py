"""Who may be in the way of emptying a slot, and who is not kept waiting by it."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import pytest

from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import LEASE_S, StoreKit, acquire, keys
from tests.integration.test_rotation import (
    IN_OLD_SLOT,
    deliver,
    log,
    reasons,
    removed,
    write_old,
)

pytestmark = pytest.mark.postgresql


@pytest.fixture
def kit(postgresql_kit: StoreKit) -> StoreKit:  # noqa: F811
    return postgresql_kit


class TestWhoIsInTheWay:
    def test_a_transaction_that_wrote_to_the_slot_and_goes_on(self, kit: StoreKit) -> None:
        # Given a slot of which everything that can be seen is delivered
        write_old(kit, "a")
        late = kit.writer()
        late.execute("begin")
        late.execute(IN_OLD_SLOT, ("late",))
        deliver(kit)

        # Then it stays while somebody has something in it that cannot be seen
        assert removed(kit) == []
        assert "somebody is using it" in reasons(kit)

        # And what was committed late is delivered before it goes
        late.execute("commit")
        assert removed(kit) == []
        assert deliver(kit) == ["late"]
        assert len(removed(kit)) == 1

    def test_a_prepared_transaction(self, kit: StoreKit) -> None:
        late = kit.writer()
        late.execute("begin")
        late.execute(IN_OLD_SLOT, ("late",))
        late.execute("prepare transaction 'late'")
        write_old(kit, "a")
        deliver(kit)

        assert removed(kit) == []
        late.execute("commit prepared 'late'")
        assert deliver(kit) == ["late"]
        assert len(removed(kit)) == 1

    def test_a_dump_that_reads_the_log_is_not_disturbed(self, kit: StoreKit) -> None:
        # Given a transaction that has read the log, as pg_dump does, and goes on
        write_old(kit, "a", "b")
        deliver(kit)
        dump = kit.writer()
        dump.execute("begin isolation level repeatable read")
        assert dump.execute("select count(*) from outbox_message").fetchone()[0] >= 2

        # Then nothing is taken from under it, until it has ended
        assert removed(kit) == []
        assert dump.execute("select count(*) from outbox_message").fetchone()[0] >= 2
        dump.execute("commit")
        assert len(removed(kit)) == 1

    def test_a_report_on_other_tables_is_not_in_the_way(self, kit: StoreKit) -> None:
        # Given a transaction with an old snapshot, which would keep DELETE's rows for ever
        report = kit.writer()
        report.execute("begin isolation level repeatable read")
        report.execute("select count(*) from pg_class")
        for batch in range(3):
            write_old(kit, *(f"{batch}-{number}" for number in range(2_000)))
            deliver(kit)

            # Then the space is given back all the same
            assert len(removed(kit)) == 1
        size = sum(part.bytes for part in kit.store().prune())
        assert size < 100_000
        dead = "select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables where relname like %s"
        assert kit.writer().execute(dead, ("outbox_message%",)).fetchone()[0] == 0

    def test_writers_do_not_wait_while_it_waits_for_somebody(self, kit: StoreKit) -> None:
        """The lock is asked for on the old slot only, and for 20 ms at the most."""
        write_old(kit, "a")
        deliver(kit)
        reader = kit.writer()
        reader.execute("begin")
        reader.execute("select count(*) from outbox_message")
        stop, longest = threading.Event(), 0.0

        def prune() -> None:
            with closing(kit.store()) as store:
                while not stop.is_set():
                    store.prune()

        thread = threading.Thread(target=prune)
        thread.start()
        try:
            writer = kit.writer()
            for number in range(200):
                began = time.monotonic()
                with kit.transaction(writer):
                    kit.write(writer, f"now-{number}")
                longest = max(longest, time.monotonic() - began)
        finally:
            stop.set()
            thread.join()
        # Generous: what it must not be is the time for which the reader stays.
        assert longest < 2.0
        assert len(log(kit)) == 201

    def test_somebody_who_keeps_it_from_looking(self, kit: StoreKit) -> None:
        """Cancelled, it has not worked this time; that is no reason to end the relay's term."""
        # Given somebody who keeps the relay from even looking
        write_old(kit, "a")
        deliver(kit)
        migration = kit.writer()
        migration.execute("begin")
        migration.execute("lock table outbox_cursor in access exclusive mode")
        store = kit.store()

        # Then it goes away again after a moment, well within a lease
        began = time.monotonic()
        assert reasons(kit) >= {"somebody is using it"}
        assert time.monotonic() - began < 7.5

        # And the connection is as good as before
        migration.execute("rollback")
        assert len([part for part in store.prune() if part.kept is None]) == 1

    def test_two_that_prune_at_once(self, kit: StoreKit) -> None:
        """Neither holds the other up with the lock it has looked with."""
        for turn in range(10):
            write_old(kit, str(turn))
            deliver(kit)
            stores = [kit.store(), kit.store()]
            both = threading.Barrier(2)
            found: list[Any] = []

            def prune(store: Any, both: threading.Barrier = both, found: Any = found) -> None:
                both.wait()
                found.extend(store.prune())

            threads = [threading.Thread(target=prune, args=(store,)) for store in stores]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            # On a busy machine one may be held up for longer than the other waits: then once more.
            for _ in range(3):
                if log(kit):
                    found += stores[0].prune()
            for store in stores:
                store.close()

            assert log(kit) == [], found

    def test_the_page_that_a_relay_has_asked_for_already(self, kit: StoreKit) -> None:
        """The relay prunes by the connection on which its next page is under way."""
        # Given old messages, and a relay in the midst of newer ones in another slot
        write_old(kit, "old")
        deliver(kit)
        kit.commit(*(str(number) for number in range(10)))
        store = kit.store()
        lease = acquire(store)
        reader = store.reader(lease)
        pages = [reader.read(3, 10_000)]

        # When it prunes, and prunes again, between its pages
        while pages[-1] is not None:
            assert len([part for part in store.prune() if part.kept is None]) == (len(pages) == 1)
            store.save(lease, pages[-1].end, LEASE_S)
            pages.append(reader.read(3, 10_000))

        # Then nothing is missing, and only what was old is gone
        assert keys(pages[:-1]) == [str(number) for number in range(10)]
        assert log(kit) == [str(number) for number in range(10)]

    def test_a_standby_that_does_not_answer(self, kit: StoreKit) -> None:
        """Readers of the log must not wait, behind the lock, for a standby."""
        write_old(kit, "a")
        deliver(kit)
        store = kit.store()
        store.session.connection.execute("set synchronous_commit = remote_apply")
        said: list[str] = []
        lock = "select current_setting('synchronous_commit')"
        connection = store.session.connection
        execute = connection.execute

        def listening(query: Any, *arguments: Any, **options: Any) -> Any:
            if str(query).startswith("truncate"):
                said.extend(execute(lock).fetchone())
            return execute(query, *arguments, **options)

        connection.execute = listening
        assert len([part for part in store.prune() if part.kept is None]) == 1
        assert said == ["local"]
