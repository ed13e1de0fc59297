"""What only the database knows is sampled while it is wanted, and never hurts the relay."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from outbox.database import DatabaseUrl
from outbox.errors import DatabaseUnavailable
from outbox.metrics.catalogue import SAMPLE_FAILURES
from outbox.metrics.monitor import RelayMonitor
from outbox.metrics.sample import Sample
from outbox.migrations import migrate
from outbox.names import Names
from outbox.relay.sampler import Sampler
from outbox.store.base import COUNT_LIMIT
from outbox.store.held import HELD_COUNT_LIMIT
from outbox.store.opening import open_store
from tests.conformance.store_kit import StoreKit
from tests.waiting import wait_until


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreKit]:
    """Give an empty log on each database."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/log.db" if sqlite else request.getfixturevalue("postgresql_url")
    with closing(StoreKit(DatabaseUrl.parse(str(url)))) as made:
        yield made


def opener(kit: StoreKit) -> Callable[[], Any]:
    """Return what a sampler opens its store with."""
    return lambda: open_store(kit.url, kit.names)


def sampled(kit: StoreKit, monitor: RelayMonitor) -> Sample:
    """Return one sample, taken by a sampler that ends then."""
    with Sampler(opener(kit), "default", monitor):
        found = wait_until(lambda: monitor.sample, what="a sample")
        assert found is not None
        return found


def relaying() -> RelayMonitor:
    monitor = RelayMonitor("default")
    monitor.began_term("default", 1)
    return monitor


def test_it_tells_what_waits_and_how_large_the_log_is(kit: StoreKit) -> None:
    # Given an empty log
    monitor = relaying()
    before = sampled(kit, monitor)
    assert (before.pending, before.oldest_s, before.transactions) == (0, None, {})
    # When messages are written
    with closing(kit.writer()) as writer:
        for number in range(50):
            kit.write(writer, f"k{number}", payload=b"x" * 1000)
    # Then the next sample tells of them
    monitor.forget_sample()
    after = sampled(kit, monitor)
    assert (after.pending, after.pending_is_exact) == (50, True)
    assert after.oldest_s is not None
    assert 0 <= after.oldest_s < 60
    assert after.log_bytes > before.log_bytes + 40_000


def test_it_tells_what_is_held_and_what_is_paused(kit: StoreKit) -> None:
    # Given a key stopped by a message that is dead, one that was skipped, and a paused topic
    sqlite = kit.url.dialect == "sqlite"
    ago = "{} - 500" if sqlite else "to_timestamp({} - 500)"
    now = _now(sqlite=sqlite)
    with closing(kit.writer()) as writer:
        for seq, state, key, blocks in (
            (1, "dead", "a", True),
            (2, "blocked", "a", True),
            (3, "blocked", "a", True),
            (4, "expired", "b", False),
        ):
            writer.execute(
                "insert into outbox_held"
                " (relay, lane, seq, created_at, id, topic, key, state, blocks)"
                f" values ('default', 'default', {seq}, {ago.format(now)}, '{uuid4()}', 't',"
                f" '{key}', '{state}', {blocks})"
            )
        writer.execute("insert into outbox_pause (topic, actor) values ('slow', 'ada')")
        writer.execute("insert into outbox_pause (relay, actor) values ('another', 'ada')")
    # When it is sampled
    sample = sampled(kit, relaying())
    # Then
    assert sample.held.messages == {"retrying": 0, "blocked": 2, "dead": 1, "expired": 1}
    assert sample.held.stopped_keys == 1
    ages = sample.held.oldest_seconds
    assert ages.keys() == {"dead", "expired"}
    assert all(499 < age < 600 for age in ages.values())
    assert sample.pauses == {"topic": 1}
    assert 0 <= sample.oldest_pause_s < 60


def _now(*, sqlite: bool) -> str:
    seconds = "(julianday('now') - 2440587.5) * 86400.0"
    return seconds if sqlite else "extract(epoch from clock_timestamp())"


def test_however_much_is_held_a_sample_reads_a_part_of_it(kit: StoreKit) -> None:
    """The counts end at a limit, and each goes by an index; without statistics, too."""
    if kit.url.dialect == "sqlite":
        pytest.skip("it does not count what it reads")
    held = 100_000
    with closing(kit.writer()) as writer:
        # Given that one message stops one key, and the others wait behind it
        writer.execute(
            f"""insert into outbox_held
                       (relay, lane, seq, created_at, id, topic, key, state, blocks)
                select 'default', 'default', i, now(), gen_random_uuid(), 't', 'k',
                       case when i < {held} then 'blocked' else 'dead' end, true
                  from generate_series(1, {held}) as i"""
        )
        before = _rows_read(writer)
        sample = sampled(kit, relaying())
        assert sample.held.messages["blocked"] == HELD_COUNT_LIMIT + 1
        assert sample.held.messages["dead"] == 1
        read = wait_until(lambda: _rows_read(writer) - before, what="the statistics of the server")
    assert read < 3 * HELD_COUNT_LIMIT


def _rows_read(writer: Any) -> int:
    (rows,) = writer.execute(
        "select coalesce(sum(seq_tup_read), 0) + (select coalesce(sum(idx_tup_read), 0)"
        " from pg_stat_user_indexes where relname = 'outbox_held')"
        " from pg_stat_user_tables where relname = 'outbox_held'"
    ).fetchone()
    return int(rows)


def test_it_tells_how_long_a_transaction_holds_messages(kit: StoreKit) -> None:
    if not kit.has_snapshots:
        pytest.skip("here an open transaction keeps other writers out, not readers")
    with closing(kit.writer()) as writer:
        writer.execute("begin")
        kit.write(writer, "k")
        assert len(sampled(kit, relaying()).transactions["open"]) == 1
        writer.execute("rollback")


def test_lanes_other_than_default_are_counted_once_each_and_warned_of_once(
    kit: StoreKit, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = relaying()
    mark = "?" if kit.url.dialect == "sqlite" else "%s"
    insert = f"insert into outbox_message (topic, payload, lane) values ('t', {mark}, {mark})"
    samples: list[Sample] = []
    taken = monitor.sampled
    monitor.sampled = lambda sample: (samples.append(sample), taken(sample))[1]  # type: ignore[method-assign]  # to see them all
    with (
        closing(kit.writer()) as writer,
        caplog.at_level(logging.WARNING, "outbox.relay"),
        Sampler(opener(kit), "default", monitor, interval_s=0.05),
    ):
        for lane in ("fast", "fast", None, "default", "slow"):
            writer.execute(insert, (b"x", lane))
        wait_until(lambda: len(samples) > 3, what="some samples")
        seen = {reading.labels: reading.value for reading in _lanes(monitor)}
        assert seen == {("fast",): 2, ("slow",): 1}
        # And messages that come later are added, without another warning
        writer.execute(insert, (b"x", "fast"))
        wait_until(
            lambda: {r.labels: r.value for r in _lanes(monitor)}[("fast",)] == 3, what="the next"
        )
    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["fast", "slow"]


def _lanes(monitor: RelayMonitor) -> list[Any]:
    from outbox.metrics.catalogue import UNDECLARED

    return list(monitor.figures.readings(UNDECLARED))


def test_no_more_than_the_latest_messages_are_looked_at(kit: StoreKit) -> None:
    """However many there are: a sample must not read a table."""
    mark = "?" if kit.url.dialect == "sqlite" else "%s"
    with closing(kit.writer()) as writer:
        writer.execute("begin")
        values = [(b"x", "old")] * 10 + [(b"x", "new")] * COUNT_LIMIT
        with closing(writer.cursor()) as cursor:
            cursor.executemany(
                f"insert into outbox_message (topic, payload, lane) values ('t', {mark}, {mark})",
                values,
            )
        writer.execute("commit")
    store = kit.store()
    lanes, after = store.other_lanes(0)
    assert lanes == {"new": COUNT_LIMIT}
    assert store.other_lanes(after) == ({}, after)


def test_a_role_with_the_least_a_relay_needs_can_sample(postgresql_url: str) -> None:
    # Given a role that was granted what `migrate --relay-role` grants, and no more
    role = f"sampler_{uuid4().hex[:8]}"
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute(f"create role {role}")
        try:
            migrate(postgresql_url, relay_role=role)
            admin.execute("insert into outbox_message (topic, payload) values ('t', 'x')")
            url = DatabaseUrl.parse(f"{postgresql_url}?options=-crole%3D{role}")
            monitor = relaying()
            # When it samples
            with Sampler(lambda: open_store(url, Names()), "default", monitor):
                sample = wait_until(lambda: monitor.sample, what="a sample")
            # Then it is refused nothing
            assert sample is not None
            assert (sample.pending, sample.log_bytes > 0) == (1, True)
            assert monitor.figures.value(SAMPLE_FAILURES) == 0
        finally:
            admin.execute(f"drop owned by {role}")
            admin.execute(f"drop role {role}")


def test_nobody_samples_on_standby(kit: StoreKit) -> None:
    monitor = RelayMonitor("default")
    opened = threading.Event()

    def opened_store() -> Any:
        opened.set()
        return opener(kit)()

    with Sampler(opened_store, "default", monitor, interval_s=0.05):
        assert not opened.wait(0.8)
        # But who begins to relay has a sample soon, and who stops has none
        monitor.began_term("default", 1)
        wait_until(lambda: monitor.sample is not None, what="the first sample")
        monitor.stands_by()
        wait_until(lambda: monitor.sample is None, what="the end of samples")


def test_a_sample_that_fails_is_counted_and_tried_again(kit: StoreKit) -> None:
    # Given a database that fails twice, once in a way nobody thought of
    monitor, faults = relaying(), [DatabaseUnavailable("away"), ZeroDivisionError()]

    def opened_store() -> Any:
        if faults:
            raise faults.pop()
        return opener(kit)()

    # When, then
    with Sampler(opened_store, "default", monitor, interval_s=0.05):
        wait_until(lambda: monitor.sample is not None, what="a sample in the end")
    assert monitor.figures.value(SAMPLE_FAILURES) == 2


def test_a_query_that_is_never_answered_does_not_hold_up_the_end() -> None:
    asked, released = threading.Event(), threading.Event()

    def opened_store() -> Any:
        asked.set()
        released.wait(30)
        raise DatabaseUnavailable

    with Sampler(opened_store, "default", relaying()):
        assert asked.wait(10)
    assert not released.is_set()
    released.set()
