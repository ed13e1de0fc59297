"""What looking at the schedule costs, in pages that are read: time depends on the machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from outbox.database import DatabaseUrl, connect_postgresql
from outbox.store.postgresql.scheduling import PostgreSQLSchedule
from outbox.store.postgresql.session import BY_INDEX
from outbox.store.scheduling import Point
from tests.conformance.store_kit import StoreKit

pytestmark = pytest.mark.postgresql

FILL = """
    insert into outbox_scheduled (topic, key, due_at)
    select 't', 'k' || g, clock_timestamp() + make_interval(secs => %s)
      from generate_series(1, %s) as g"""

BOUNDS = {"rows": 1000, "bytes": 1 << 22}


@pytest.fixture
def kit(postgresql_url: str) -> Iterator[StoreKit]:
    kit = StoreKit(DatabaseUrl.parse(postgresql_url))
    # What is measured is read by one index; without the others the rows are there sooner.
    writer = kit.writer()
    writer.execute("drop index outbox_scheduled_id_idx, outbox_scheduled_wait_for_idx")
    writer.execute("alter table outbox_scheduled set (autovacuum_enabled = off)")
    yield kit
    kit.close()


def schedule(kit: StoreKit) -> PostgreSQLSchedule:
    return kit.store().schedule()


def pages_read(kit: StoreKit, query: str, parameters: dict[str, int] | None = None) -> int:
    """Return how many pages a query reads, and show that it reads no table as a whole."""
    with closing(connect_postgresql(kit.url)) as connection:
        connection.execute(f"begin; {BY_INDEX}")
        row = connection.execute(f"explain (analyze, buffers, format json) {query}", parameters)
        (plan,) = row.fetchone() or ("",)
        connection.execute("rollback")
    top = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    assert "Seq Scan" not in {node["Node Type"] for node in nodes(top)}
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def test_what_is_due_later_costs_nothing(kit: StoreKit) -> None:
    # Given statistics of an empty table, and then very many messages for tomorrow
    writer = kit.writer()
    writer.execute("analyze outbox_scheduled")
    writer.execute(FILL, (86_400, 300_000))
    looking = schedule(kit)
    # Then a look reads a handful of pages
    assert pages_read(kit, looking._agenda_query(None)) <= 20
    assert pages_read(kit, looking._move_query(Point(0, 0)), BOUNDS) <= 20
    # And to move the one that is due takes a handful as well
    writer.execute(FILL, (-1, 1))
    assert pages_read(kit, looking._move_query(Point(0, 0)), BOUNDS) <= 100
    # Also with statistics of them
    writer.execute("analyze outbox_scheduled")
    assert pages_read(kit, looking._agenda_query(None)) <= 20
    assert pages_read(kit, looking._move_query(Point(0, 0)), BOUNDS) <= 100


def test_moved_messages_that_a_report_can_still_see_are_not_passed_by_every_look(
    kit: StoreKit,
) -> None:
    # Given a transaction that holds back vacuum, and 100,000 messages that were moved since
    kit.writer().execute(FILL, (-10, 100_000))
    with kit.transaction() as report:
        report.execute("set transaction isolation level repeatable read")
        report.execute("select count(*) from outbox_scheduled")
        looking = schedule(kit)
        start = looking.agenda(None).earliest
        most = 0
        while start is not None:
            most = max(most, pages_read(kit, looking._move_query(start), {**BOUNDS, "rows": 1}))
            moved = looking.move(start, 10_000, 1 << 30)
            assert moved is not None
            start = moved.end
        # Then no move was slower for those before it
        assert most <= 100
        # And a look that begins where the last one saw nothing any more reads a handful of pages,
        agenda = looking.agenda(None)
        assert agenda.earliest is None
        assert pages_read(kit, looking._agenda_query(agenda.clear_to)) <= 20
        # where one at everything reads thousands
        assert pages_read(kit, looking._agenda_query(None)) > 1_000
        # And what is scheduled now is found
        kit.writer().execute(FILL, (0, 1))
        assert looking.agenda(agenda.clear_to).earliest is not None
