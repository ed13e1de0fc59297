"""How PostgreSQL would run the relay's reads: explained, not run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, cast

import psycopg

from outbox.names import Names
from outbox.store.diagnosis import Scan
from outbox.store.postgresql.session import BY_INDEX
from outbox.store.postgresql.statements import Statements

_SORTS = ("Sort", "Incremental Sort")


def scans(connection: psycopg.Connection, names: Names) -> list[Scan]:
    """Return the scans of the log in the relay's reads, with its very SQL and settings.

    Planned for these values, as where nothing can be prepared: that is the plan which statistics
    could mislead. Needs a transaction. A sort within the read by number is one of them: that index
    is in order.
    """
    connection.execute(BY_INDEX)
    row = connection.execute("select pg_current_snapshot()::text").fetchone()
    (snapshot,) = cast("tuple[str]", row)
    statements, page = Statements(names), {"after": 0, "rows": 1_000, "bytes": 1 << 24}
    fresh = {"before": "3:3:", "target": snapshot, **page}
    late = {"ids": ["3"], **page}
    return [
        *_scans("fresh", _explain(connection, statements.fresh, fresh)),
        *_scans("late", _explain(connection, statements.late, late)),
    ]


def _explain(connection: psycopg.Connection, sql: str, values: dict[str, object]) -> dict[str, Any]:
    row = connection.execute(f"explain (format json) {sql}", values).fetchone()
    (plan,) = cast("tuple[Any]", row)
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return cast("dict[str, Any]", plan[0]["Plan"])


def _scans(query: Literal["fresh", "late"], plan: dict[str, Any]) -> Iterator[Scan]:
    for node in _nodes(plan):
        kind = str(node["Node Type"])
        if "Relation Name" in node:
            yield Scan(query, kind, node["Relation Name"], str(node.get("Index Cond", "")))
        elif query == "fresh" and kind in _SORTS:
            yield Scan(query, kind, "", "")


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
