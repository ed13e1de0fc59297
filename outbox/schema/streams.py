"""Which stream of a relay name a message on PostgreSQL belongs to, in SQL that needs no values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.errors import LogInconsistent
from outbox.names import Names
from outbox.record import END
from outbox.schema import postgresql

if TYPE_CHECKING:
    import psycopg


def shard_number(table: str = "") -> str:
    """Return the SQL of the number that decides to which shard a message belongs.

    Without a key there is no order to keep: such messages are dealt out in turn.
    """
    number = (
        f"case when {table}key is null then {table}seq else hashtextextended({table}key, 0) end"
    )
    return f"(({number}) & {END})"


def stream(names: Names, table: str) -> str:
    """Return an SQL expression of the stream that a row belongs to under the present lanes."""
    return f"""(
        select case when l.shards = 1 then l.lane
                    else l.lane || ':' || mod({shard_number(f"{table}.")}, l.shards) end
          from {names["outbox_lane"]} as l
         where l.generation = {present_generation(names)}
           and (l.lane = {table}.lane or l.lane = 'default')
         order by l.lane = 'default' limit 1)"""


def present_generation(names: Names) -> str:
    """Return an SQL expression of the number of the present lanes."""
    return f"(select max(generation) from {names['outbox_lane']})"


def present_streams(names: Names) -> str:
    """Return an SQL query of the names of the present streams."""
    return f"""
        select case when l.shards = 1 then l.lane else l.lane || ':' || shard end
          from {names["outbox_lane"]} as l, generate_series(0, l.shards - 1) as shard
         where l.generation = {present_generation(names)}"""


def is_changing(names: Names, relay: str, lane: str | None = None) -> str:
    """Return an SQL condition: a stream has not delivered what is of earlier lanes.

    Until then it is not certain whose a message is. A plan that is missing is not certain either.
    `relay`, `lane`: SQL expressions of the relay name, and of the only lane to look at.
    """
    only = "" if lane is None else f"and split_part(k.lane, ':', 1) = {lane}"
    return f"""exists (
        select from {names["outbox_cursor"]} as k
          left join {names["outbox_plan"]} as j using (relay, lane)
         where k.relay = {relay} {only}
           and (j.plan_no is null
                or (j.generation < {present_generation(names)}
                    and (j.plan_no, {END}) > (k.plan_no, k.after_seq))))"""


def move_held(names: Names, lane: str, rows: str) -> str:
    """Return an SQL statement that lets held messages be of another lane.

    Only one message stops a key: where two would, the later one waits behind the other.
    `rows`: a condition of the rows, `h`.
    """
    held = names["outbox_held"]
    second = f"""(h.blocks and h.state <> 'blocked' and exists (
        select from {held} as x
         where x.relay = h.relay and x.lane = '{lane}' and x.topic = h.topic and x.key = h.key
           and x.blocks and x.state <> 'blocked'))"""
    return f"""
        update {held} as h
           set lane = '{lane}', changed_at = clock_timestamp(),
               state = case when {second} then 'blocked' else h.state end,
               next_attempt_at = case when {second} then null else h.next_attempt_at end
         where {rows}"""


def require_lanes(connection: psycopg.Connection, names: Names) -> None:
    """Raise LogInconsistent if rows of lanes were deleted: then no stream would be left."""
    (known,) = postgresql.one(
        connection,
        f"""select exists (select from {names["outbox_lane"]}
                            where lane = 'default' and generation = {present_generation(names)})""",
    )
    if not known:
        raise LogInconsistent(
            "there is no lane `default`: rows of outbox_lane were deleted. Put it back: insert into"
            " outbox_lane (generation, lane) values (0, 'default')"
        )


def forget_others(connection: psycopg.Connection, names: Names) -> None:
    """Delete the cursors and plans of streams that are none of the present lanes', whose held
    messages go by `default`."""
    present = f"""select lane from {names["outbox_lane"]}
                   where generation = {present_generation(names)}"""
    gone = postgresql.rows(
        connection,
        f"select distinct lane from {names['outbox_held']} where lane not in ({present})",
    )
    for (lane,) in gone:
        postgresql.run(connection, move_held(names, "default", f"h.lane = '{lane}'"))
    for table in ("outbox_plan", "outbox_cursor"):
        postgresql.run(
            connection,
            f"delete from {names[table]} where lane not in ({present_streams(names)})",
        )
