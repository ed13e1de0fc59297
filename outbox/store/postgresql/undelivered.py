"""Which messages a stream of a relay has not delivered, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from outbox.names import Names
from outbox.record import END
from outbox.store.lanes import Topology
from outbox.store.postgresql.lanes import condition


def undelivered(names: Names, limit: int, topologies: Sequence[Topology], stream: str) -> str:
    """Return a query of messages a stream has not delivered, `limit` of each of four kinds.

    What is fresh or late in the cursor's own plan, above its position; and what is fresh or
    late after that plan. Each kind is read by an index, from where the cursor stands.
    `topologies`: the lanes since those under which the cursor has come to where it is.
    """
    log = names["outbox_message"]
    visible = f"""(%(horizon)s::text is null
                  or pg_visible_in_snapshot(m.xid, %(horizon)s::text::pg_snapshot))
                  {_belonging(topologies, stream)}"""
    in_target = "pg_visible_in_snapshot(m.xid, c.target)"
    fresh = "c", "m.seq"
    # One id at a time and compared as rows, as the reader does: only (xid, seq) fits that.
    late = "c cross join lateral pg_snapshot_xip(c.{}) as late (id)", "m.xid, m.seq"
    ids = f"(m.xid, m.seq) > (late.id, {{}}) and (m.xid, m.seq) <= (late.id, {END})"
    kinds = (
        (
            *fresh,
            f"""m.seq > greatest(c.after_seq, c.floor)
                and m.xid >= pg_snapshot_xmax(c.last) and {in_target}""",
        ),
        (late[0].format("last"), late[1], f"{ids.format('c.after_seq')} and {in_target}"),
        (*fresh, "m.seq > c.target_floor and m.xid >= pg_snapshot_xmax(c.target)"),
        (late[0].format("target"), late[1], ids.format(0)),
    )
    seals = "".join(
        f""", (select target from {names["outbox_plan"]} as s
                where s.relay = c.relay and s.lane = c.lane
                  and s.generation = {lanes.generation}
                order by s.plan_no desc limit 1) as sealed_{lanes.generation}"""
        for lanes in topologies[:-1]
    )
    union = " union all ".join(
        f"""(select m.seq, m.created_at from {source} cross join lateral (
                select m.seq, m.created_at from {log} as m
                 where {kind} and {visible} order by {order} limit {limit}) as m
              limit {limit})"""
        for source, order, kind in kinds
    )
    return f"""
        with c as materialized (
            select p.last, p.floor, p.target, p.target_floor, c.after_seq {seals}
              from {names["outbox_cursor"]} as c
              join {names["outbox_plan"]} as p using (relay, lane, plan_no)
             where c.relay = %(relay)s and c.lane = %(lane)s)
        {union}"""


def since(generation: int | None, topologies: Sequence[Topology]) -> list[Topology]:
    """Return the lanes of a generation and later ones; all of them where it is not known."""
    return [each for each in topologies if generation is None or each.generation >= generation]


def _belonging(topologies: Sequence[Topology], stream: str) -> str:
    """Return the condition of the rows that are a stream's, to be added to others.

    Under the lanes of each generation it has other rows, and each ends at the stream's seal.
    """
    terms = [
        " and ".join(filter(None, _limits(topologies, place, stream))) or "true"
        for place, lanes in enumerate(topologies)
        if stream in lanes.streams
    ]
    if terms == ["true"]:
        return ""
    return f"and ({' or '.join(f'({term})' for term in terms) or 'false'})"


def _limits(topologies: Sequence[Topology], place: int, stream: str) -> Iterator[str]:
    lanes = topologies[place]
    yield condition(lanes.selection(stream), "m")
    if place:
        before = topologies[place - 1].generation
        # A seal that is gone from the journal has been passed meanwhile: in doubt a row counts.
        yield f"not coalesce(pg_visible_in_snapshot(m.xid, c.sealed_{before}), false)"
    if lanes is not topologies[-1]:
        yield f"pg_visible_in_snapshot(m.xid, c.sealed_{lanes.generation})"
