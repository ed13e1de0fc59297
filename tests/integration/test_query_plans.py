"""The hot reads use the index they are meant for, whatever the planner believes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.sql import Literal

from outbox.names import Names
from outbox.store.postgresql.session import BY_INDEX, PREPARED_BY_INDEX
from outbox.store.postgresql.statements import Statements
from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import StoreKit

pytestmark = pytest.mark.postgresql

FILL = """
    insert into outbox_message (topic, key, payload)
    select 't', 'k' || g, convert_to(repeat('x', 200), 'UTF8') from generate_series(1, %s) as g"""


@pytest.fixture
def kit(postgresql_kit: StoreKit) -> StoreKit:  # noqa: F811
    return postgresql_kit


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


Explain = Callable[[Any, str, dict[str, object]], dict[str, Any]]

EXPLAIN = "explain (analyze, buffers, format json)"


def explain_at_once(connection: Any, sql: str, parameters: dict[str, object]) -> Any:
    """Plan the query with the values, as for a reader behind a pooler."""
    connection.execute(f"begin; {BY_INDEX}", prepare=False)
    return connection.execute(f"{EXPLAIN} {sql}", parameters).fetchone()


def explain_prepared(connection: Any, sql: str, parameters: dict[str, object]) -> Any:
    """Plan the query for any values, as for a reader that prepares it."""
    hot = numbered(sql, parameters)
    connection.execute("deallocate all")
    connection.execute(f"begin; {PREPARED_BY_INDEX}; prepare hot as {hot}", prepare=False)
    values = listed(connection, sql, parameters)
    return connection.execute(f"{EXPLAIN} execute hot ({values})", prepare=False).fetchone()


def used(sql: str, parameters: dict[str, object]) -> list[str]:
    return [name for name in parameters if f"%({name})s" in sql]


def numbered(sql: str, parameters: dict[str, object]) -> str:
    names = enumerate(used(sql, parameters), 1)
    return sql % {name: f"${number}" for number, name in names}


def listed(connection: Any, sql: str, parameters: dict[str, object]) -> str:
    names = used(sql, parameters)
    return ", ".join(Literal(parameters[name]).as_string(connection) for name in names)


def explained(row: Any) -> dict[str, Any]:
    plan = json.loads(row[0]) if isinstance(row[0], str) else row[0]
    return plan[0]["Plan"]


@pytest.fixture(params=[explain_at_once, explain_prepared])
def explain(request: pytest.FixtureRequest) -> Explain:
    """Give what runs a query as the reader does and returns its plan, with buffers and times."""

    def run(connection: Any, sql: str, parameters: dict[str, object]) -> dict[str, Any]:
        try:
            return explained(request.param(connection, sql, parameters))
        finally:
            connection.execute("rollback")

    return run


@pytest.fixture(params=["light", "fresh"])
def explain_fresh(
    request: pytest.FixtureRequest, explain: Explain
) -> Callable[..., dict[str, Any]]:
    """How fresh messages are read: without a bound in bytes, and with it."""
    sql = getattr(Statements(Names()), request.param)
    bounds = {"rows": 1000, "bytes": 1 << 24, "heavy": (1 << 24) // 1000}

    def run(connection: Any, after: int) -> dict[str, Any]:
        (target,) = connection.execute("select pg_current_snapshot()::text").fetchone()
        parameters = {"after": after, "before": "3:3:", "target": target, **bounds}
        return explain(connection, sql, parameters)

    return run


@pytest.fixture
def explain_late(explain: Explain) -> Callable[..., dict[str, Any]]:
    """How late messages are read."""

    def run(connection: Any, ids: list[str], after: int = 0) -> dict[str, Any]:
        parameters: dict[str, object] = {"ids": ids, "after": after, "rows": 1000}
        return explain(connection, Statements(Names()).late, {**parameters, "bytes": 1 << 24})

    return run


def assert_reads_by(plan: dict[str, Any], index: str, *, sorts: bool) -> None:
    kinds = {node["Node Type"] for node in nodes(plan)}
    scanned = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    assert not kinds & {"Seq Scan", "Bitmap Heap Scan"}, kinds
    if not sorts:
        assert not kinds & {"Sort", "Incremental Sort"}, kinds
    assert scanned, kinds
    assert all(name.endswith(index) for name in scanned), scanned


def read_rows(plan: dict[str, Any]) -> int:
    """Return how many rows were looked at in tables, those filtered out included."""
    return sum(
        int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in nodes(plan)
        if "Relation Name" in node
    )


def test_fresh_with_statistics_of_an_empty_log(
    kit: StoreKit, explain_fresh: Callable[..., dict[str, Any]]
) -> None:
    connection = kit.writer()
    connection.execute("analyze outbox_message")
    connection.execute("alter table outbox_message_0 set (autovacuum_enabled = off)")
    connection.execute(FILL, (50_000,))

    plan = explain_fresh(connection, after=40_000)

    assert_reads_by(plan, "_pkey", sorts=False)
    assert read_rows(plan) <= 1_100


def test_fresh_with_a_backlog_far_beyond_the_statistics(
    kit: StoreKit, explain_fresh: Callable[..., dict[str, Any]]
) -> None:
    connection = kit.writer()
    connection.execute(FILL, (500,))
    connection.execute("analyze outbox_message")
    connection.execute(FILL, (100_000,))

    plan = explain_fresh(connection, after=500)

    assert_reads_by(plan, "_pkey", sorts=False)
    assert read_rows(plan) <= 1_100


@pytest.mark.parametrize("query", ["light", "fresh"])
def test_fresh_with_a_plan_made_for_an_empty_log(kit: StoreKit, query: str) -> None:
    """A prepared statement keeps the plan of its first use until statistics are taken again."""
    connection = kit.writer()
    bounds: dict[str, object] = {"rows": 1000, "bytes": 1 << 24, "heavy": (1 << 24) // 1000}
    # A target in which everything is visible that will be written here.
    values = {"after": 40_000, "before": "3:3:", "target": "1000000:1000000:", **bounds}
    sql = getattr(Statements(Names()), query)
    connection.execute(f"begin; {PREPARED_BY_INDEX}; prepare hot as {numbered(sql, values)}")
    hot = f"{EXPLAIN} execute hot ({listed(connection, sql, values)})"
    connection.execute(hot)
    connection.execute("commit")
    connection.execute(FILL, (50_000,))

    connection.execute(f"begin; {PREPARED_BY_INDEX}")
    plan = explained(connection.execute(hot).fetchone())
    connection.execute("rollback")

    assert_reads_by(plan, "_pkey", sorts=False)
    assert read_rows(plan) <= 1_100


def test_fresh_when_most_of_the_log_is_delivered(
    kit: StoreKit, explain_fresh: Callable[..., dict[str, Any]]
) -> None:
    connection = kit.writer()
    connection.execute(FILL, (50_000,))
    connection.execute("vacuum analyze outbox_message")

    plan = explain_fresh(connection, after=50_000)

    assert_reads_by(plan, "_pkey", sorts=False)
    assert read_rows(plan) <= 10


def test_late_with_a_thousand_ids(
    kit: StoreKit, explain_late: Callable[..., dict[str, Any]]
) -> None:
    connection = kit.writer()
    connection.execute("analyze outbox_message")
    connection.execute(FILL, (50_000,))
    (base,) = connection.execute("select max(xid::text::bigint) from outbox_message").fetchone()
    ids = [str(base + 1 + number) for number in range(1_000)]

    plan = explain_late(connection, ids)

    assert_reads_by(plan, "xid_seq_idx", sorts=True)
    assert read_rows(plan) <= 10


def test_late_within_one_large_transaction(
    kit: StoreKit, explain_late: Callable[..., dict[str, Any]]
) -> None:
    """A late transaction of many messages is read page by page, not as a whole for each page."""
    connection = kit.writer()
    connection.execute(FILL, (50_000,))
    (xid, middle) = connection.execute(
        "select xid::text, max(seq) - 5000 from outbox_message group by xid"
    ).fetchone()

    plan = explain_late(connection, [xid], after=middle)

    assert_reads_by(plan, "xid_seq_idx", sorts=True)
    assert read_rows(plan) <= 5_100
