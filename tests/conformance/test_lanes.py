from __future__ import annotations

from itertools import groupby

import pytest

from outbox.errors import ConfigurationError
from outbox.record import Record
from outbox.store.held import Hold
from outbox.store.lanes import Lane
from outbox.store.owner import new_owner
from tests.conformance.lanes_suite import DEFAULT, LanesSuite, Reading, names_of, write
from tests.conformance.store_kit import StoreKit, read_all


class TestSQLite(LanesSuite):
    @pytest.fixture
    def kit(self, sqlite_kit: StoreKit) -> StoreKit:
        return sqlite_kit

    def test_shards_are_refused(self, kit: StoreKit) -> None:
        with pytest.raises(ConfigurationError, match="cannot have shards on SQLite"):
            kit.store().change_lanes([Lane("default", shards=2)])


@pytest.mark.postgresql
class TestPostgreSQL(LanesSuite):
    @pytest.fixture
    def kit(self, postgresql_kit: StoreKit) -> StoreKit:
        return postgresql_kit

    def test_shards_share_the_keys_and_each_key_stays_in_order(self, kit: StoreKit) -> None:
        # Given a lane of four shards and 400 messages of 40 keys, some without a key
        store = kit.store()
        store.change_lanes([Lane("default", shards=4)])
        wanted = [(f"k{n % 40}", None) for n in range(400)]
        write(kit, *wanted)
        with kit.transaction() as connection:
            connection.execute(
                "insert into outbox_message (topic, payload)"
                " select 't', 'x' from generate_series(1, 100)"
            )

        # When each of its streams is read, once what was before them has come to its end
        assert Reading(store, "default")() == []
        read = {name: _records(Reading(store, name)) for name in names_of(store) if ":" in name}

        # Then every message is read once, each key by one shard and in order
        assert sorted(read) == [f"default:{shard}" for shard in range(4)]
        every = [record.seq for records in read.values() for record in records]
        assert sorted(every) == sorted(set(every))
        assert len(every) == 500
        of_keys = [{record.key for record in records} - {None} for records in read.values()]
        assert sum(map(len, of_keys)) == 40
        assert all(of_keys)
        for records in read.values():
            assert [record.seq for record in records] == sorted(record.seq for record in records)

    def test_no_key_is_overtaken_when_the_number_of_shards_changes(self, kit: StoreKit) -> None:
        # Given a backlog of one key that was written under one, three and two shards
        store = kit.store()
        written = 0
        for shards in (1, 3, 2, 1):
            store.change_lanes([Lane("default", shards=shards)])
            write(kit, *((f"k{n % 7}", None) for n in range(written, written + 70)))
            written += 70
        readings: dict[str, Reading] = {}
        read: list[Record] = []

        # When the streams are read in an unfortunate order, as long as any has something
        idle = 0
        while idle < 3:
            found = []
            for name in sorted(names_of(store), reverse=True):
                if name not in readings:
                    readings[name] = Reading(store, name)
                found += _records(readings[name])
            read += found
            idle = 0 if found else idle + 1

        # Then each key comes in the order of writing, and nothing is missing or repeated
        assert len(read) == written
        by_key = sorted(read, key=lambda record: str(record.key))  # stable: keeps the order
        for _, records in groupby(by_key, key=lambda record: record.key):
            numbers = [record.seq for record in records]
            assert numbers == sorted(numbers)

    def test_a_key_that_is_stopped_is_so_for_every_shard_while_their_number_changes(
        self, kit: StoreKit
    ) -> None:
        # Given the first message of each of 20 keys held by one stream, and a change to 3 shards
        store = kit.store()
        write(kit, *((f"k{n}", None) for n in range(20)))
        reading = Reading(store, "default")
        records = _records(reading)
        store.held().hold(
            reading.lease,
            reading.lease.position,
            10.0,
            [Hold(record.seq, "dead", blocks=True) for record in records],
        )
        store.change_lanes([Lane("default", shards=3)])

        # When each stream asks which keys are stopped
        first = store.acquire("default", "default:1", new_owner(), 10.0)
        before = store.held().stopped_keys(reading.lease, 100)
        after = store.held().stopped_keys(first, 100)

        # Then none of them may send a later message of these keys, whoever had them before
        assert before == after == {("t", f"k{n}") for n in range(20)}

    def test_a_transaction_open_over_a_change_is_delivered_by_the_lanes_of_after(
        self, kit: StoreKit
    ) -> None:
        store = kit.store()
        writer = kit.writer()
        writer.execute("begin")
        writer.execute(
            "insert into outbox_message (topic, key, payload, lane)"
            " values ('t', 'late', 'x', 'urgent')"
        )
        store.change_lanes([DEFAULT, Lane("urgent")])
        writer.execute("commit")
        default, urgent = Reading(store, "default"), Reading(store, "urgent")

        assert default() == []
        assert urgent() == ["late"]


def _records(reading: Reading) -> list[Record]:
    pages = read_all(reading.reader)
    if pages:
        reading.store.save(reading.lease, pages[-1].end, 10.0)
    return [Record._make(record) for page in pages for record in page.records]
