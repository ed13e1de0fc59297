"""After dump and restore nothing is lost, and what was certainly delivered is not sent again."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from outbox.errors import ConfigurationError, LogInconsistent, OutboxError
from outbox.migrations import migrate, rebase
from tests.integration.restored_log import Log, first_deliveries
from tests.servers.availability import require
from tests.servers.postgresql import PrivatePostgreSQL
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.postgresql

Servers: TypeAlias = tuple[PrivatePostgreSQL, PrivatePostgreSQL]

BURN = 20_000  # more ids than any test here uses


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Give two clusters: transaction ids mean nothing when moved from one to the other."""
    with require(PrivatePostgreSQL) as old, require(PrivatePostgreSQL) as new:
        Log(new, create=False).burn_ids(BURN)
        Log(old, create=False).burn_ids(3 * BURN)
        yield old, new


def numbered(prefix: str, first: int, end: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(first, end)]


def half_delivered(server: PrivatePostgreSQL, *, slot: int | None = None) -> Log:
    """Return a log of 100 messages, half of them written in savepoints, with 60 delivered."""
    log = Log(server)
    for first in range(0, 100, 5):
        log.write(*numbered("a", first, first + 5), savepoint=first % 2 == 0, slot=slot)
    log.deliver(60)
    return log


@pytest.mark.parametrize("ids", ["lower", "higher"])
def test_exactly_what_was_not_delivered_follows(servers: Servers, ids: str) -> None:
    # Given a log restored into a cluster whose ids are lower, or higher, than the old ones
    before, after = servers if ids == "lower" else servers[::-1]
    old, new = half_delivered(before), Log(after, create=False)
    new.restore(old.dump())
    # When writers go on, also within savepoints, and the log is rebased
    new.write(*numbered("b", 0, 10))
    new.write(*numbered("c", 0, 10), savepoint=True)
    with pytest.raises(LogInconsistent, match="migrate --rebase"):
        new.deliver()
    (rebased,) = rebase(new.url)
    new.write("d")
    # Then the rest arrives once, in order, and its number was foretold
    rest = [*numbered("a", 60, 100), *numbered("b", 0, 10), *numbered("c", 0, 10)]
    assert rebased.messages == len(rest)
    assert new.deliver() == [*rest, "d"]


def test_a_restore_into_the_same_cluster_is_one_too(servers: Servers) -> None:
    old, new = half_delivered(servers[0]), Log(servers[0], create=False)
    new.restore(old.dump())
    new.write("b", savepoint=True)
    with pytest.raises(LogInconsistent, match="restored"):
        new.deliver()
    rebase(new.url)
    assert new.deliver() == [*numbered("a", 60, 100), "b"]


@pytest.mark.parametrize("ids", ["lower", "higher"])
@pytest.mark.parametrize("savepoint", [False, True])
def test_writers_during_the_restore_lose_nothing(
    servers: Servers, ids: str, savepoint: bool
) -> None:
    # Given messages written while the sequence stood at its beginning, so that their numbers are
    # those of restored messages, in another partition
    before, after = servers if ids == "lower" else servers[::-1]
    old, new = half_delivered(before, slot=0), Log(after, create=False)
    new.restore(old.dump("--section=pre-data"))
    new.write(*numbered("early", 0, 50), savepoint=savepoint, slot=1)
    new.restore(old.dump("--section=data"))
    new.restore(old.dump("--section=post-data"))
    new.write(*numbered("late", 0, 50), savepoint=savepoint)
    # When the log is rebased
    rebase(new.url)
    # Then they come after the restored ones, and every message has a number of its own
    expected = [*numbered("early", 0, 50), *numbered("late", 0, 50)]
    delivered = new.deliver()
    assert delivered[-100:] == expected
    assert first_deliveries(old.delivered, delivered) == [*numbered("a", 0, 100), *expected]
    assert new.value("select count(distinct seq) from outbox_message") == 200


@pytest.mark.parametrize("evidence", ["number", "id", "time"])
def test_one_sign_of_a_new_message_is_enough(servers: Servers, evidence: str) -> None:
    """A message written in a savepoint must not pass for a restored one that was delivered."""
    # Given a log of which all is delivered and the oldest part is gone, and a cluster whose lower
    # ids are visible in the restored snapshots
    old, new = half_delivered(servers[0], slot=0), Log(servers[1], create=False)
    old.deliver()
    old.write("last", slot=0)
    old.deliver()
    with old.connection() as connection:
        connection.execute("delete from outbox_message where seq <= 20")
        if evidence != "time":
            # The server's clock was wrong: all this happens later than the new message
            connection.execute("update outbox_message set created_at = now() + interval '1 day'")
            connection.execute("update outbox_cursor set moved_at = now() + interval '1 day'")
    with new.connection() as slow:
        slow.execute("begin")
        if evidence != "id":
            # An id from before the log was made, like that of a restored message may be
            slow.execute("select pg_current_xact_id()")
        new.restore(old.dump("--section=pre-data"))
        # When it is written in a savepoint, with a number that restored messages have
        if evidence != "number":
            write_in_savepoint(new, slow)
        new.restore(old.dump("--section=data"))
        new.restore(old.dump("--section=post-data"))
        # ... or with a number of its own
        if evidence == "number":
            write_in_savepoint(new, slow)
    rebase(new.url)
    # Then it is delivered
    assert "new" in new.deliver()


def write_in_savepoint(log: Log, slow: Any) -> None:
    slow.execute("savepoint s")
    log.insert(slow, "new", slot=1)
    slow.execute("release savepoint s")
    slow.execute("commit")


def test_a_sequence_that_was_not_restored_makes_everything_doubtful(servers: Servers) -> None:
    # Given rows restored without the sequence, and writers that have used the numbers again
    old, new = half_delivered(servers[0], slot=0), Log(servers[1], create=False)
    new.restore(old.dump())
    new.value("select setval('outbox_message_seq', 1, false)")
    new.write(*numbered("b", 0, 30), savepoint=True, slot=1)
    # When the log is rebased
    (rebased,) = rebase(new.url)
    # Then all is sent again, the new messages last, and later ones follow
    new.write("c")
    assert rebased.messages == 130
    assert new.deliver() == [*numbered("a", 0, 100), *numbered("b", 0, 30), "c"]


def test_a_sequence_set_back_in_place_is_brought_forward(servers: Servers) -> None:
    # Given a log of this cluster whose sequence somebody has set back
    log = half_delivered(servers[0])
    log.value("select setval('outbox_message_seq', 1, false)")
    with pytest.raises(LogInconsistent, match="sequence"):
        log.deliver()
    # When it is rebased
    rebase(log.url)
    log.write("b")
    # Then everything is delivered, with repeats, the new message last
    assert log.deliver() == [*numbered("a", 0, 100), "b"]
    assert log.value("select last_value from outbox_message_seq") == 101


def test_numbers_above_the_log_are_not_used_again(servers: Servers) -> None:
    """The newest messages may be gone while the cursors remember their numbers."""
    old, new = half_delivered(servers[0]), Log(servers[1], create=False)
    old.deliver()
    new.restore(old.dump("--exclude-table-data=outbox_message_?"))
    new.value("select setval('outbox_message_seq', 1, false)")
    assert rebase(new.url)[0].messages == 0
    new.write("b")
    assert new.deliver() == ["b"]


def test_a_transaction_that_runs_meanwhile_and_writes_afterwards_is_not_lost(
    servers: Servers,
) -> None:
    # Given a transaction that has an id, lower than that of the rebase, and no message yet
    old, new = half_delivered(servers[0]), Log(servers[1], create=False)
    new.restore(old.dump())
    with new.connection() as connection:
        connection.execute("begin")
        connection.execute("select pg_current_xact_id()")
        # When the log is rebased, and it writes and commits while a relay goes on
        rebase(new.url)
        with new.relaying() as take:
            assert len(take(1000)) == 40
            new.insert(connection, "slow")
            connection.execute("commit")
            # Then its message is delivered
            assert take(1000) == ["slow"]


def test_a_late_message_below_delivered_ones_is_found(servers: Servers) -> None:
    # Given a slow transaction that commits after its successors were delivered, then a dump
    old, new = Log(servers[0]), Log(servers[1], create=False)
    with old.connection() as slow:
        slow.execute("begin")
        old.insert(slow, "slow")
        old.write(*numbered("a", 0, 20))
        old.deliver()
        slow.execute("commit")
    new.restore(old.dump())
    # When the log is rebased, the message follows, and what is repeated keeps its order
    rebase(new.url)
    assert new.deliver() == ["slow", *numbered("a", 0, 20)]


def test_a_writer_that_has_not_ended_stops_the_rebase(servers: Servers) -> None:
    # Given a prepared transaction that holds a message
    old, new = half_delivered(servers[0]), Log(servers[1], create=False)
    new.restore(old.dump())
    with new.connection() as connection:
        connection.execute("begin")
        new.insert(connection, "prepared")
        connection.execute("prepare transaction 'held'")
        # When the rebase has waited long enough, it says why, and has changed nothing
        with pytest.raises(OutboxError, match=r"lock timeout.*outbox-relay status"):
            rebase(new.url, lock_timeout=0.2)
        with pytest.raises(LogInconsistent, match="restored"):
            new.deliver()
        connection.execute("commit prepared 'held'")
    # Then it works once the transaction has ended
    rebase(new.url)
    assert new.deliver()[-1] == "prepared"


def test_a_rebase_waits_for_a_writer(servers: Servers) -> None:
    old, new = half_delivered(servers[0]), Log(servers[1], create=False)
    new.restore(old.dump())
    with new.connection() as connection:
        connection.execute("begin")
        new.insert(connection, "open")
        thread = threading.Thread(target=rebase, args=(new.url,))
        thread.start()
        wait_until(
            lambda: new.value(
                "select count(*) from pg_locks where not granted and "
                "relation = 'outbox_message'::regclass"
            ),
            what="the rebase to wait for the lock",
        )
        connection.execute("commit")
        thread.join()
    assert new.deliver() == [*numbered("a", 60, 100), "open"]


def test_two_relay_names_keep_their_own_progress(servers: Servers) -> None:
    # Given two relay names that have come to different places
    old, new = half_delivered(servers[0]), Log(servers[1], create=False)
    with old.connection() as connection:
        connection.execute("insert into outbox_cursor (relay, lane) values ('second', 'default')")
        connection.execute(
            "insert into outbox_plan select 'second', lane, 0, 0, '3:3:', 0, '3:3:', 0, 0 "
            "from outbox_cursor where relay = 'second'"
        )
    old.deliver(10, relay="second")
    new.restore(old.dump())
    # When the log is rebased, each goes on where it was
    assert {r.relay: r.messages for r in rebase(new.url)} == {"default": 40, "second": 90}
    assert new.deliver() == numbered("a", 60, 100)
    assert new.deliver(relay="second") == numbered("a", 10, 100)


def test_plans_that_are_missing_make_everything_doubtful(servers: Servers) -> None:
    log = half_delivered(servers[0])
    with log.connection() as connection:
        connection.execute("delete from outbox_plan")
    assert rebase(log.url)[0].messages == 100
    assert log.deliver() == numbered("a", 0, 100)


def test_a_rebase_that_was_not_needed_changes_nothing_for_the_relay(servers: Servers) -> None:
    """Messages written in savepoints aside: those look restored, so they would be sent again."""
    log = Log(servers[0])
    log.write(*numbered("a", 0, 20))
    log.deliver(15)
    for _ in range(2):
        assert rebase(log.url)[0].messages == 5
    assert log.deliver() == numbered("a", 15, 20)


def test_a_rebased_log_can_be_restored_again(servers: Servers) -> None:
    old, new = half_delivered(servers[0]), Log(servers[1], create=False)
    new.restore(old.dump())
    rebase(new.url)
    new.deliver(10)
    new.write("b")
    third = Log(servers[0], create=False)
    third.restore(new.dump())
    rebase(third.url)
    assert third.deliver() == [*numbered("a", 70, 100), "b"]


def test_the_log_gets_a_new_identity_and_the_cursor_keeps_its_cluster(servers: Servers) -> None:
    log = half_delivered(servers[0])
    with log.connection() as connection:
        connection.execute("update outbox_cursor set cluster_id = 'kafka'")
    before = log.value("select log_id from outbox_meta")
    epoch = log.value("select epoch from outbox_cursor")
    rebase(log.url)
    assert log.value("select log_id from outbox_meta") != before
    assert log.value("select (epoch, cluster_id, owner is null)::text from outbox_cursor") == (
        f"({epoch + 1},kafka,t)"
    )


def test_migrate_does_not_hide_that_a_cursor_was_restored(servers: Servers) -> None:
    old, new = half_delivered(servers[0]), Log(servers[1], create=False)
    new.restore(old.dump("--exclude-table=inbox_*"))
    assert [step.name for step in migrate(new.url)] == ["0001_inbox"]
    with pytest.raises(LogInconsistent, match="restored"):
        new.deliver()


def test_numbers_that_sessions_may_hold_are_not_trusted(servers: Servers) -> None:
    log = half_delivered(servers[0])
    with log.connection() as connection:
        connection.execute("alter sequence outbox_message_seq cache 10")
    with pytest.raises(LogInconsistent, match="cache 1"):
        rebase(log.url)


def test_sqlite_needs_no_rebase(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PostgreSQL"):
        rebase(f"sqlite:///{tmp_path}/log.db")


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_whatever_happens_around_the_restore(servers: Servers, seed: int) -> None:
    # Given a log with slow transactions and savepoints, delivered to some point, maybe rebased
    chance = random.Random(seed)
    before, after = chance.sample(servers, 2)
    old, new = Log(before), Log(after, create=False)
    payloads = Counter[str]()

    def some(log: Log, prefix: str, slot: int) -> None:
        """Write some transactions, one of them slow, and deliver a part."""
        with log.connection() as slow:
            slow.execute("begin")
            for step in range(chance.randrange(2, 12)):
                if chance.random() < 0.3:
                    log.insert(slow, f"{prefix}-slow{step}", slot)
                batch = [f"{prefix}-{step}-{i}" for i in range(chance.randrange(1, 9))]
                log.write(*batch, savepoint=chance.random() < 0.5, slot=slot)
                if log is old and chance.random() < 0.6:
                    log.deliver(chance.randrange(20))
            slow.execute("commit")

    some(old, "a", 0)
    if chance.random() < 0.3:
        rebase(old.url)
        some(old, "b", 0)
    # When it is restored with writers on, and rebased with one more transaction open
    new.restore(old.dump("--section=pre-data"))
    if chance.random() < 0.5:
        some(new, "c", 1)
    new.restore(old.dump("--section=data"))
    new.restore(old.dump("--section=post-data"))
    some(new, "d", 2)
    with new.connection() as slow:
        slow.execute("begin; select pg_current_xact_id()")
        rebase(new.url)
        delivered = new.deliver(chance.randrange(50))
        new.insert(slow, "slow")
        some(new, "e", 3)
        slow.execute("commit")
    delivered += new.deliver()
    # Then every message has arrived, and each is delivered once since the rebase
    payloads.update(delivered)
    assert set(old.delivered) | set(delivered) == set(old.written) | set(new.written)
    assert payloads.most_common(1)[0][1] == 1
