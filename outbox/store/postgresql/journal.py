"""The journal of plans: what each batch consists of, saved before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.names import Names
from outbox.store.base import Lease
from outbox.store.postgresql.snapshot import Plan, Snapshot

if TYPE_CHECKING:
    import psycopg


def read_plans(
    connection: psycopg.Connection, names: Names, relay: str, lane: str, first: int
) -> list[Plan]:
    """Return the plans of a lane from number `first` on, oldest first."""
    rows = connection.execute(
        f"""select plan_no, last::text, floor, target::text, target_floor, next_floor, generation,
                   token::text
              from {names["outbox_plan"]}
             where relay = %s and lane = %s and plan_no >= %s order by plan_no""",
        (relay, lane, first),
    ).fetchall()
    return [
        Plan(no, Snapshot.parse(last), floor, Snapshot.parse(target), *more)
        for no, last, floor, target, *more in rows
    ]


def plan_parameters(lease: Lease, plan: Plan) -> dict[str, object]:
    return {
        "relay": lease.relay,
        "lane": lease.lane,
        "epoch": lease.epoch,
        "no": plan.no,
        "last": str(plan.last),
        "floor": plan.floor,
        "target": str(plan.target),
        "target_floor": plan.target_floor,
        "next_floor": plan.next_floor,
        "generation": plan.generation,
    }
