"""What a fail-over, or a copy of the disk, takes back, and what the relay makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outbox.migrations import rebase
from tests.integration.restored_log import Log, first_deliveries
from tests.servers.replication import CopiedVolume, Standby

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgresql import PrivatePostgreSQL

pytestmark = pytest.mark.postgresql


def numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def log_on(server: PrivatePostgreSQL, before: Log) -> Log:
    """Return the log of a database that came with a copy of the server."""
    return Log(server, database=before.url.rpartition("/")[2])


@pytest.fixture
def standby(private_postgresql: PrivatePostgreSQL) -> Iterator[Standby]:
    with Standby(private_postgresql) as server:
        yield server


def test_a_promoted_asynchronous_standby_may_repeat_but_skips_no_new_message(
    private_postgresql: PrivatePostgreSQL, standby: Standby
) -> None:
    # Given a standby that has everything up to a point between two messages of the cursor
    old = Log(private_postgresql)
    old.write(*numbered("a", 20))
    old.deliver(10)
    standby.wait_until_caught_up()
    standby.stop()
    # And messages that are written and published afterwards
    old.write(*numbered("lost", 30))
    published = old.deliver()
    assert published == [*numbered("a", 20)[10:], *numbered("lost", 30)]
    log_id = old.value("select log_id from outbox_meta")

    # When the primary is gone, the standby takes its place, and writers go on
    private_postgresql.kill()
    standby.start()
    standby.promote()
    new = log_on(standby, old)
    new.write(*numbered("b", 50))
    after = new.deliver()

    # Then every message that exists is sent, in order, some of them again
    assert after == [*numbered("a", 20)[10:], *numbered("b", 50)]
    # And the positions of the two histories cannot be taken for each other
    assert new.value("select log_id from outbox_meta") != log_id


def test_a_promoted_synchronous_standby_has_lost_nothing(
    private_postgresql: PrivatePostgreSQL, standby: Standby
) -> None:
    # Given a primary that waits for its standby with every commit
    log = Log(private_postgresql)
    with log.connection() as connection:
        connection.execute("alter system set synchronous_standby_names = 'standby'")
        connection.execute("select pg_reload_conf()")
    log.write(*numbered("a", 20))
    log.deliver(10)

    # When the primary is gone without a word and the standby takes its place
    private_postgresql.kill()
    standby.promote()
    new = log_on(standby, log)
    new.write(*numbered("b", 5))
    after = new.deliver()

    # Then what was committed is there, and all of it is delivered in order
    assert first_deliveries(log.delivered, after) == [*numbered("a", 20), *numbered("b", 5)]


def test_a_copied_volume_goes_on_after_a_rebase(private_postgresql: PrivatePostgreSQL) -> None:
    # Given a copy of the disk, after which the original went on for a while
    original = Log(private_postgresql)
    original.write(*numbered("a", 20))
    original.deliver(10)
    private_postgresql.kill()
    with CopiedVolume(private_postgresql) as copy:
        private_postgresql.start()
        original.write(*numbered("elsewhere", 5))
        log_id = original.value("select log_id from outbox_meta")

        # When the copy is put to use, as the documentation says
        new = log_on(copy, original)
        rebase(new.url)
        new.write(*numbered("b", 5))
        after = new.deliver()

        # Then nothing is lost or out of order, and its positions have a name of their own
        assert first_deliveries(numbered("a", 10), after) == [
            *numbered("a", 20),
            *numbered("b", 5),
        ]
        assert new.value("select log_id from outbox_meta") != log_id
