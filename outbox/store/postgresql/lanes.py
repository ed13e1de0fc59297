"""Lanes on PostgreSQL: which rows belong to a stream, and how lanes are changed under way.

A change takes one snapshot. What is visible in it is delivered by the streams of before, what is
not by those of after: the journal of every old stream gets a plan that ends there, its seal, and
every new stream begins there. See docs/adr/0013-lanes.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from outbox.errors import LogInconsistent
from outbox.names import Names
from outbox.record import END
from outbox.schema.postgresql import NATIVE
from outbox.schema.streams import shard_number
from outbox.store.lanes import Lane, Selection, Topology, same_streams
from outbox.store.postgresql.beginning import bound_of_later
from outbox.store.postgresql.sequence import sequence_state

if TYPE_CHECKING:
    import psycopg

    from outbox.store.postgresql.session import Session


def condition(selection: Selection, table: str = "") -> str:
    """Return the SQL condition of a stream's rows, or empty text where it has all of them.

    Names of lanes are checked when they are declared, so they can stand in SQL.
    """
    table = f"{table}." if table else ""
    terms: list[str] = []
    if selection.lane is not None:
        terms.append(f"{table}lane = '{selection.lane}'")
    elif selection.others:
        others = ", ".join(f"'{lane}'" for lane in selection.others)
        terms.append(f"({table}lane is null or {table}lane not in ({others}))")
    if selection.shards > 1:
        terms.append(f"mod({shard_number(table)}, {selection.shards}) = {selection.shard}")
    return " and ".join(terms)


def read_topologies(connection: psycopg.Connection, names: Names) -> list[Topology]:
    """Return the lanes of every generation, the present one last."""
    rows = connection.execute(
        f"select generation, lane, priority, shards from {names['outbox_lane']}"
        " order by generation, lane"
    ).fetchall()
    generations: dict[int, list[Lane]] = {}
    for generation, lane, priority, shards in rows:
        generations.setdefault(generation, []).append(Lane(lane, priority, shards))
    if not generations:
        raise LogInconsistent(
            "there are no lanes: rows of outbox_lane were deleted. Put back the one of `default`:"
            " insert into outbox_lane (generation, lane) values (0, 'default')"
        )
    return [Topology(generation, lanes) for generation, lanes in generations.items()]


def has_sealed(
    connection: psycopg.Connection,
    names: Names,
    relay: str,
    streams: Sequence[str],
    generation: int,
) -> bool:
    """Return whether streams have delivered everything that is older than a generation."""
    row = connection.execute(
        f"""select not exists (
                select from {names["outbox_plan"]} as p
                  join {names["outbox_cursor"]} as c using (relay, lane)
                 where p.relay = %s and p.lane = any(%s::text[]) and p.generation < %s
                   and (p.plan_no, {END}) > (c.plan_no, c.after_seq))""",
        (relay, list(streams), generation),
    ).fetchone()
    return cast("tuple[bool]", row)[0]


def change(session: Session, names: Names, wanted: Sequence[Lane]) -> Topology:
    """Make these the lanes of the log, for every relay name; return what they are now.

    Writers are not waited for and do not wait. Raises LogInconsistent where a cursor was restored
    from elsewhere.
    """
    bound = bound_of_later(session, names)
    with session.durable() as connection:
        # As for every plan: before this transaction has an id.
        last_value, _ = sequence_state(connection, names)
        connection.execute(f"lock table {names['outbox_lane']} in share row exclusive mode")
        present = read_topologies(connection, names)[-1]
        if same_streams(present.lanes, wanted):
            _set_priorities(connection, names, present.generation, wanted)
            return Topology(present.generation, wanted)
        later = Topology(present.generation + 1, wanted)
        _lock_cursors(connection, names)
        _seal_and_begin(connection, names, present, later, (bound, last_value))
        return later


def _set_priorities(
    connection: psycopg.Connection, names: Names, generation: int, lanes: Sequence[Lane]
) -> None:
    for lane in lanes:
        connection.execute(
            f"update {names['outbox_lane']} set priority = %s where generation = %s and lane = %s",
            (lane.priority, generation, lane.name),
        )


def _lock_cursors(connection: psycopg.Connection, names: Names) -> None:
    """Keep every relay from saving a plan until the end: it would be of the lanes of before."""
    rows = connection.execute(
        f"""select relay, {NATIVE}
              from {names["outbox_cursor"]} order by relay, lane for update"""
    ).fetchall()
    for relay, native in rows:
        if not native:
            raise LogInconsistent(
                f"the cursor of relay {relay!r} was restored from a dump or copied: stop the relays"
                " and run `outbox-relay migrate --rebase` before lanes are changed"
            )


def _seal_and_begin(
    connection: psycopg.Connection,
    names: Names,
    present: Topology,
    later: Topology,
    bounds: tuple[int, int],
) -> None:
    """Write the seals, the new streams and the lanes. The snapshot comes after the locks."""
    (snapshot,) = cast(
        "tuple[str]", connection.execute("select pg_current_snapshot()::text").fetchone()
    )
    values = {
        "snapshot": snapshot,
        "bound": bounds[0],
        "last_value": bounds[1],
        "generation": present.generation,
        "old": list(present.streams),
        "new": [stream for stream in later.streams if stream not in present.streams],
    }
    for statement in _statements(names):
        connection.execute(statement, values)
    for lane in later.lanes.values():
        connection.execute(
            f"""insert into {names["outbox_lane"]} (generation, lane, priority, shards)
                values (%s, %s, %s, %s)""",
            (later.generation, lane.name, lane.priority, lane.shards),
        )


def _statements(names: Names) -> tuple[str, ...]:
    plan, cursor = names["outbox_plan"], names["outbox_cursor"]
    columns = (
        "relay, lane, plan_no, epoch, last, floor, target, target_floor, next_floor, generation"
    )
    newest = f"""join lateral (select * from {plan} as p
                                where p.relay = c.relay and p.lane = c.lane
                                order by p.plan_no desc limit 1) as n on true"""
    floor = "%(bound)s::bigint"
    seals = f"""
        insert into {plan} ({columns})
        select c.relay, c.lane, n.plan_no + 1, c.epoch, n.target, n.target_floor,
               %(snapshot)s::pg_snapshot, n.next_floor, %(last_value)s::bigint,
               %(generation)s::bigint
          from {cursor} as c {newest} where c.lane = any(%(old)s::text[])"""
    # A lane that was removed and is declared again may not have come to its end yet: then its
    # stream goes on, from the end of what it has still to deliver.
    resumed = f"""
        insert into {plan} ({columns})
        select c.relay, c.lane, n.plan_no + 1, c.epoch, %(snapshot)s::pg_snapshot, {floor},
               %(snapshot)s::pg_snapshot, {floor}, %(last_value)s::bigint, %(generation)s::bigint
          from {cursor} as c {newest} where c.lane = any(%(new)s::text[])"""
    # Numbers and epochs begin at the time in milliseconds, above those of an earlier stream of this
    # name, whose process may still run and whose positions consumers have seen.
    begun = f"""
        with begun as (
            insert into {cursor} (relay, lane, plan_no, after_seq, epoch, cluster_id, delivery,
                                  starts_at)
            select r.relay, s.lane, now.ms, {END}, now.ms, r.cluster_id, r.delivery, r.starts_at
              from (select distinct on (relay) relay, cluster_id, delivery, starts_at from {cursor}
                     order by relay, cluster_id nulls last) as r
             cross join unnest(%(new)s::text[]) as s (lane)
             cross join (select (extract(epoch from clock_timestamp()) * 1000)::bigint) as now (ms)
            on conflict do nothing
            returning relay, lane, plan_no, epoch)
        insert into {plan} ({columns})
        select relay, lane, plan_no, epoch, %(snapshot)s::pg_snapshot, {floor},
               %(snapshot)s::pg_snapshot, {floor}, %(last_value)s::bigint, %(generation)s::bigint
          from begun"""
    return seals, resumed, begun
