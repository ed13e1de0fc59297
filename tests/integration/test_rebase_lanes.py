"""A rebase of a log with lanes, also while they are changing."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias

import pytest

from outbox.database import DatabaseUrl
from outbox.errors import LogInconsistent
from outbox.migrations import rebase
from outbox.names import Names
from outbox.store.lanes import Lane
from outbox.store.opening import open_store
from tests.integration.restored_log import Log
from tests.servers.availability import require
from tests.servers.postgresql import PrivatePostgreSQL

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.postgresql

Servers: TypeAlias = tuple[PrivatePostgreSQL, PrivatePostgreSQL]

KEYS = 9
URGENT = Lane("urgent", priority=10)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with require(PrivatePostgreSQL) as old, require(PrivatePostgreSQL) as new:
        Log(old, create=False).burn_ids(20_000)
        yield old, new


class LanesLog(Log):
    """A log of messages `<key>:<number>`; every third key is of the lane `urgent`."""

    last = 0

    def write_all(self, each: int = 5) -> None:
        """Commit the next `each` messages of every key."""
        with self.connection() as connection:
            for number in range(self.last, self.last + each):
                for key in range(KEYS):
                    payload = f"{key}:{number:03}"
                    connection.execute(
                        """insert into outbox_message (topic, key, payload, lane)
                           values ('t', %s, convert_to(%s, 'UTF8'), %s)""",
                        (f"k{key}", payload, None if key % 3 else "urgent"),
                    )
                    self.written.append(payload)
        self.last += each

    def change(self, *lanes: Lane) -> None:
        with closing(open_store(DatabaseUrl.parse(self.url), Names())) as store:
            store.connect()
            store.change_lanes(lanes)

    @property
    def streams(self) -> set[str]:
        with self.connection() as connection:
            rows = connection.execute("select lane from outbox_cursor").fetchall()
        return {lane for (lane,) in rows}

    def deliver_everything(self) -> list[str]:
        """Take from every stream, until a round over all of them gives nothing."""
        everything: list[str] = []
        idle = 0
        while idle < 2:
            found = [each for name in sorted(self.streams) for each in self.deliver(stream=name)]
            everything += found
            idle = 0 if found else idle + 1
        return everything


def is_in_order(messages: list[str]) -> bool:
    keys = {message[0] for message in messages}
    own = ([each for each in dict.fromkeys(messages) if each[0] == key] for key in keys)
    return all(numbers == sorted(numbers) for numbers in own)


def test_each_stream_goes_on_where_it_was(servers: Servers) -> None:
    # Given lanes that are settled, of which each has come to another place
    old = LanesLog(servers[0])
    old.change(Lane("default", shards=2), URGENT)
    old.deliver()
    old.write_all()
    old.deliver(stream="urgent")
    old.deliver(10, stream="default:1")
    # When the log is restored into another cluster and rebased
    new = LanesLog(servers[1], create=False)
    new.restore(old.dump())
    with pytest.raises(LogInconsistent, match="migrate --rebase"):
        new.deliver(stream="urgent")
    rebased = rebase(new.url)
    # Then each stream sends what it has not sent, and no stream more than was foretold
    assert new.streams == {"default:0", "default:1", "urgent"}
    rest = {name: new.deliver(stream=name) for name in sorted(new.streams)}
    assert {each.lane: each.messages for each in rebased} == {
        name: len(found) for name, found in rest.items()
    }
    assert rest["urgent"] == []
    everything = [*old.delivered, *rest["default:0"], *rest["default:1"]]
    assert sorted(everything) == sorted(old.written)
    assert is_in_order(everything)


@pytest.mark.parametrize("delivered", [0, 20, 45])
def test_nothing_is_lost_while_lanes_are_changing(servers: Servers, delivered: int) -> None:
    # Given a change of lanes that has not come to its end, at several places, and another after it
    old = LanesLog(servers[0])
    old.write_all()
    old.deliver(delivered)
    old.change(Lane("default", shards=3), URGENT)
    old.write_all()
    old.change(Lane("default", shards=2))
    old.write_all()
    if delivered == 45:
        old.deliver()
        old.deliver(stream="default:2")
    # When the log is restored and rebased
    new = LanesLog(servers[1], create=False)
    new.restore(old.dump())
    rebase(new.url)
    # Then there are the streams of the present lanes, and they send all that was not sent
    assert new.streams == {"default:0", "default:1"}
    new.last, new.written = old.last, list(old.written)
    new.write_all(1)
    everything = [*old.delivered, *new.deliver_everything()]
    assert set(everything) == set(new.written)
    assert is_in_order(everything)


def test_a_lane_that_was_removed_is_sent_by_default_after_a_rebase(servers: Servers) -> None:
    log = LanesLog(servers[0])
    log.change(Lane("default"), URGENT)
    log.write_all()
    with log.connection() as connection:
        connection.execute(
            "insert into outbox_held (relay, lane, seq, created_at, id, topic, key, state, blocks)"
            " values ('default', 'urgent', 1, now(), gen_random_uuid(), 't', 'k0', 'dead', true)"
        )
    log.change(Lane("default"))
    rebase(log.url)
    assert log.streams == {"default"}
    # With what is held of it
    assert log.value("select lane from outbox_held") == "default"
    assert sorted(log.deliver()) == sorted(log.written)
    # And a later change begins after that
    log.change(Lane("default"), URGENT)
    log.write_all()
    assert set(log.deliver_everything()) <= set(log.written)
    assert sorted(log.delivered) == sorted(log.written)


def test_a_log_without_lanes_is_left_as_it_is(servers: Servers) -> None:
    log = LanesLog(servers[0])
    with log.connection() as connection:
        connection.execute("delete from outbox_lane")
    with pytest.raises(LogInconsistent, match="rows of outbox_lane were deleted"):
        rebase(log.url)
    assert log.streams == {"default"}
