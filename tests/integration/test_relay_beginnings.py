"""Where a new relay name begins, while others write: nothing is left out, and no log is scanned."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outbox.database import DatabaseUrl
from tests.conformance.store_kit import StoreKit, acquire, keys, read_all

pytestmark = [pytest.mark.postgresql]

AN_HOUR_AGO = "an hour ago"
STARTS = ("earliest", "latest", AN_HOUR_AGO)


@pytest.fixture
def kit(postgresql_url: str) -> Iterator[StoreKit]:
    kit = StoreKit(DatabaseUrl.parse(postgresql_url))
    yield kit
    kit.close()


def _create(kit: StoreKit, start: str, name: str = "new") -> Any:
    store = kit.store()
    moment = datetime.now(UTC) - timedelta(hours=1)
    store.create_relay(name, moment if start == AN_HOUR_AGO else start)
    return store


@pytest.mark.parametrize("start", STARTS)
def test_what_was_written_and_not_committed_is_delivered(kit: StoreKit, start: str) -> None:
    # Given transactions that have written before the relay name is made, with numbers below and
    # above those of what is committed, the last of them with the highest id there is
    first, last = kit.writer(), kit.writer()
    first.execute("begin")
    kit.write(first, "first")
    kit.commit("committed")
    last.execute("begin")
    kit.write(last, "last")

    # When it is made, and they end at different times
    store = _create(kit, start)
    reader = store.reader(acquire(store, "new"))
    first.execute("commit")
    found = read_all(reader)
    last.execute("commit")
    kit.commit("later")
    found += read_all(reader)

    # Then their messages are delivered, and what was committed unless it was not asked for
    expected = {"first", "last", "later"} | ({"committed"} if start != "latest" else set())
    assert set(keys(found)) == expected
    assert len(keys(found)) == len(expected)


@pytest.mark.parametrize("start", STARTS)
def test_nothing_is_left_out_while_many_write(kit: StoreKit, start: str) -> None:
    # Given writers who take their time
    stop = threading.Event()

    def work(number: int) -> None:
        writer = kit.writer()
        count = 0
        while not stop.is_set():
            count += 1
            writer.execute("begin")
            kit.write(writer, f"{number}-{count}")
            writer.execute("select pg_sleep(random() * 0.02)")
            writer.execute("commit")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    # When relay names are made meanwhile
    stores = [(name, _create(kit, start, name)) for name in map(str, range(8))]
    stop.set()
    for thread in threads:
        thread.join()

    # Then each delivers all, or all that was not committed before, each once and in order
    everything = kit.keys_in_log()
    for name, store in stores:
        found = keys(read_all(store.reader(acquire(store, name))))
        assert len(found) == len(set(found))
        skipped = [key for key in everything if key not in set(found)]
        assert start == "latest" or skipped == []
        for number in range(6):
            mine = [key for key in found if key and key.startswith(f"{number}-")]
            assert mine == [key for key in everything if key.startswith(f"{number}-")][-len(mine) :]


@pytest.mark.parametrize("start", ["latest", AN_HOUR_AGO])
def test_the_first_plans_do_not_scan_what_is_not_asked_for(kit: StoreKit, start: str) -> None:
    # Given a log that is older than what is asked for
    kit.commit(*map(str, range(50)))
    kit.age(7200)

    # When a relay name is made, then its first two plans begin above it
    store = _create(kit, start)
    rows = store.session.connection.execute(
        "select floor, target_floor, next_floor from outbox_plan where relay = 'new'"
    )
    assert list(rows) == [(50, 50, 50)]
    kit.commit("new")
    assert keys(read_all(store.reader(acquire(store, "new")))) == ["new"]
