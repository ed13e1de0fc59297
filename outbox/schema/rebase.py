"""Make a log deliverable again whose stored transaction ids or numbers mean nothing any more.

Needed after dump and restore, a logical cut-over, a sequence that was set back: whenever the relay
stops and says so. Every retained message is given an id that lies before everything else, and every
cursor a new plan that begins at the first message not known to be delivered. A message counts as
delivered only if nothing speaks against it, so the price of doubt is a repeat and never a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from outbox.database import DatabaseUrl
from outbox.errors import ConfigurationError, LogInconsistent
from outbox.names import Names
from outbox.schema import postgresql
from outbox.schema.streams import (
    forget_others,
    is_changing,
    present_generation,
    present_streams,
    require_lanes,
    stream,
)
from outbox.schema.version import require_schema

if TYPE_CHECKING:
    import psycopg

    from outbox.database import PasswordCallback

#: The first ordinary transaction id. No transaction of a running server has it, and it is visible
#: in every snapshot a server takes.
_FIRST_XID = 3

#: Whether a row was written in this cluster, at the top level of its transaction. A row written
#: within a savepoint carries the id of that instead, so "no" alone does not mean "restored".
_WRITTEN_HERE = "m.xmin::text = (m.xid::text::numeric %% 4294967296)::text"


@dataclass(frozen=True, slots=True)
class Rebased:
    """How many retained messages a relay name will send, or send again, after the rebase."""

    relay: str
    lane: str
    messages: int


@dataclass(frozen=True, slots=True)
class _Cursor:
    """A cursor and its plans, as they were found. Snapshots are None where a plan is missing."""

    relay: str
    lane: str
    after_seq: int
    moved_at: object
    native: bool
    last: str | None
    target: str | None
    newest_target: str | None
    next_floor: int | None
    newest_plan: int
    ahead: bool
    is_present: bool
    is_changing: bool


@dataclass(frozen=True, slots=True)
class _Log:
    """What is known of the log as a whole, before anything is changed."""

    last_value: int
    max_seq: int
    max_held: int
    born: int
    now: int


def rebase(
    url: DatabaseUrl | str,
    names: Names | None = None,
    *,
    password_callback: PasswordCallback | None = None,
    lock_timeout: float = 30.0,
) -> list[Rebased]:
    """Repair the cursors and return what each relay name will send (again).

    One transaction, in which nobody can write messages; it waits up to `lock_timeout` seconds for
    the transactions that have written some. Only for PostgreSQL: on SQLite a copy of the file is
    the same log.
    """
    url = DatabaseUrl.parse(url) if isinstance(url, str) else url
    names = Names() if names is None else names
    if url.dialect != "postgresql":
        raise ConfigurationError("--rebase is for PostgreSQL; a copied SQLite log stays right")
    with postgresql.transaction(url, password_callback=password_callback) as connection:
        schema = postgresql.place(connection, names)
        postgresql.lock_place(connection, schema, names)
        require_schema(lambda: postgresql.read_meta(connection, schema, names, "outbox"))
        _lock(connection, names, lock_timeout)
        return _rebase(connection, names)


def _lock(connection: psycopg.Connection, names: Names, lock_timeout: float) -> None:
    """Keep writers and relays out until the end.

    Whoever holds our lock on the log knows that every transaction that wrote to it, a prepared one
    included, has ended: writers keep theirs until then. The lanes, the log, the cursors: in this
    order, as a relay does, so that the two cannot wait for each other.
    """
    postgresql.run(
        connection,
        f"set local lock_timeout = {round(lock_timeout * 1000)}; set local statement_timeout = 0; "
        "set local synchronous_commit = on",
    )
    for relation in ("outbox_lane", "outbox_message", "outbox_cursor", "outbox_plan"):
        postgresql.run(connection, f"lock table {names[relation]} in access exclusive mode")


def _rebase(connection: psycopg.Connection, names: Names) -> list[Rebased]:
    require_lanes(connection, names)
    log = _read_log(connection, names)
    cursors = _read_cursors(connection, names)
    _move_sequence(connection, names, log, cursors)
    _renumber(connection, names, log, cursors)
    floors = _floors(connection, names, log, cursors)
    _stamp(connection, names)
    forget_others(connection, names)
    for cursor, floor in floors:
        _write_cursor(connection, names, cursor, floor)
    postgresql.run(
        connection,
        f"update {names['outbox_meta']} set log_id = gen_random_uuid(), timeline = null",
    )
    return [
        Rebased(cursor.relay, cursor.lane, _count_above(connection, names, cursor.lane, floor))
        for cursor, floor in floors
    ]


def _read_log(connection: psycopg.Connection, names: Names) -> _Log:
    """Read the sequence, and the range of ids a transaction that wrote here can have had.

    `born` is the id of the transaction that made the log in this cluster, from the row of its type,
    which neither GRANT nor ANALYZE nor VACUUM rewrites.
    """
    last_value, cache, max_seq, max_held, born, now = postgresql.one(
        connection,
        f"""select case when s.is_called then s.last_value else 0 end, q.seqcache,
                   (select coalesce(max(seq), 0) from {names["outbox_message"]}),
                   (select coalesce(max(seq), 0) from {names["outbox_held"]}),
                   (n.now - (n.now - t.xmin::text::numeric + 4294967296 * 2) % 4294967296)::bigint,
                   n.now::bigint
              from {names["outbox_message_seq"]} as s, pg_sequence as q, pg_type as t,
                   (select pg_current_xact_id()::text::numeric as now) as n
             where q.seqrelid = '{names["outbox_message_seq"]}'::regclass
               and t.typrelid = '{names["outbox_message"]}'::regclass""",
    )
    if cache != 1:
        raise LogInconsistent(
            f"the sequence of the log has cache {cache}, so sessions may hold unused numbers: "
            f"run `alter sequence {names['outbox_message_seq']} cache 1`, let every writer "
            "connect anew, then rebase"
        )
    return _Log(last_value, max_seq, max_held, born, now)


def _read_cursors(connection: psycopg.Connection, names: Names) -> list[_Cursor]:
    found = postgresql.rows(
        connection,
        f"""select c.relay, c.lane, c.after_seq, c.moved_at,
                   c.xmin::text = (c.written_by::text::numeric % 4294967296)::text,
                   p.last::text, p.target::text, newest.target::text, newest.next_floor,
                   greatest(c.plan_no, (select coalesce(max(plan_no), 0)
                                          from {names["outbox_plan"]} where relay = c.relay)),
                   coalesce(pg_snapshot_xmax(newest.target)
                            > pg_snapshot_xmax(pg_current_snapshot()), false),
                   c.lane in ({present_streams(names)}), {is_changing(names, "c.relay")}
              from {names["outbox_cursor"]} as c
              left join {names["outbox_plan"]} as p using (relay, lane, plan_no)
              left join lateral (
                     select target, next_floor from {names["outbox_plan"]} as n
                      where n.relay = c.relay and n.lane = c.lane
                      order by plan_no desc limit 1) as newest on true
             order by c.relay, c.lane""",
    )
    return [_Cursor(*row) for row in found]


def _move_sequence(
    connection: psycopg.Connection, names: Names, log: _Log, cursors: list[_Cursor]
) -> None:
    """Bring the sequence to where it has been, so that new numbers lie above all floors, and above
    those of messages that are held.

    It is not rolled back with the transaction, and need not be: numbers may have gaps.
    """
    reached = max([log.max_seq, log.max_held, *(cursor.next_floor or 0 for cursor in cursors)])
    if log.last_value < reached:
        postgresql.one(
            connection, "select setval(%s::regclass, %s)", (names["outbox_message_seq"], reached)
        )


def _renumber(
    connection: psycopg.Connection, names: Names, log: _Log, cursors: list[_Cursor]
) -> None:
    """Give numbers above all others to messages that came later but were numbered lower.

    That happens while the sequence is behind, as it is during a restore with writers on. Two rows
    may then even have the same number, in different partitions, and a page that ends between them
    would lose the second. Rows that move keep their order; they all count as undelivered.
    """
    order = "created_at" if log.last_value < log.max_seq else "seq"
    postgresql.run(
        connection,
        f"""with found as materialized (
                select m.tableoid, m.ctid, m.seq, m.created_at, {_old(cursors)} as old
                  from {names["outbox_message"]} as m),
            counted as (
                select *, max(seq) filter (where old) over () as top,
                       min(seq) filter (where not old) over () as bottom,
                       row_number() over (partition by seq
                                          order by old desc, created_at, tableoid, ctid) as copy
                  from found),
            moved as (
                select tableoid, ctid, nextval('{names["outbox_message_seq"]}'::regclass) as seq
                  from (select * from counted where copy > 1 or (not old and bottom <= top)
                         order by old desc, {order}, seq, copy) as ordered)
            update {names["outbox_message"]} as m set seq = moved.seq from moved
             where m.tableoid = moved.tableoid and m.ctid = moved.ctid""",
        {
            "born": log.born,
            "now": log.now,
            "targets": [cursor.newest_target for cursor in cursors if cursor.newest_target],
        },
    )


def _old(cursors: list[_Cursor]) -> str:
    """Return the condition of rows that were in the log before whatever makes a rebase necessary.

    After a restore: the restored ones. Of rows whose origin is in doubt, those that are not younger
    than all the certain ones. Without a restore: those that a plan has seen.
    """
    if all(cursor.native for cursor in cursors):
        return f"""(m.xid = '{_FIRST_XID}'::xid8
                    or exists (select from unnest(%(targets)s::text[]::pg_snapshot[]) as t
                                where pg_visible_in_snapshot(m.xid, t)))"""
    return f"""(not {_WRITTEN_HERE}
                and ({_FOREIGN_ID} or m.created_at <= max(m.created_at) filter (
                         where not {_WRITTEN_HERE} and {_FOREIGN_ID}) over ()))"""


#: Whether an id cannot be that of a transaction that wrote to this log in this cluster.
_FOREIGN_ID = (
    """(m.xid < (%(born)s::bigint)::text::xid8 or m.xid > (%(now)s::bigint)::text::xid8)"""
)


def _floors(
    connection: psycopg.Connection, names: Names, log: _Log, cursors: list[_Cursor]
) -> list[tuple[_Cursor, int]]:
    """Return where each of the present streams begins.

    While lanes are changing, what is of a stream now may be waiting in another one. Then all of a
    relay name begin where the one begins that is behind all others.
    """
    found = [(cursor, _floor(connection, names, log, cursor)) for cursor in cursors]
    lowest: dict[str, int] = {}
    for cursor, floor in found:
        lowest[cursor.relay] = min(floor, lowest.get(cursor.relay, floor))
    return [
        (cursor, lowest[cursor.relay] if cursor.is_changing else floor)
        for cursor, floor in found
        if cursor.is_present
    ]


def _floor(connection: psycopg.Connection, names: Names, log: _Log, cursor: _Cursor) -> int:
    """Return a number such that every message up to it is certainly delivered to this relay, or
    another stream's."""
    delivered = _delivered(log, cursor)
    ours = "true" if cursor.is_changing else f"{stream(names, 'm')} = %(lane)s"
    first, top = postgresql.one(
        connection,
        f"""select min(m.seq) filter (where not ({delivered}) and {ours}),
                   coalesce(max(m.seq), 0)
              from {names["outbox_message"]} as m""",
        {
            "lane": cursor.lane,
            "last": cursor.last,
            "target": cursor.target,
            "after_seq": cursor.after_seq,
            "next_floor": cursor.next_floor,
            "moved_at": cursor.moved_at,
            "born": log.born,
            "now": log.now,
        },
    )
    return cast("int", top if first is None else first - 1)


def _delivered(log: _Log, cursor: _Cursor) -> str:
    """Return the condition of rows that are certainly delivered to this relay.

    Snapshots are compared by value, so those of a restored cursor still tell restored rows apart:
    the dump saw both at one moment. What must not be compared with them is a row from elsewhere.

    - A plan is missing, or the sequence is below where it has been: what a number or a snapshot
      says is in doubt, so nothing is delivered.
    - A restored cursor tells of restored rows alone. A row written here since, within a savepoint,
      has another xmin than its xid too. It is told apart by each of: a number above the floor that
      was read before the newest plan (unless the sequence went back meanwhile), an id this cluster
      has given out since it has the log, a time after the cursor was last moved.
    - A cursor written here tells of rows written here, and of those an earlier rebase has put
      before everything. It tells nothing if it knows ids this cluster has not come to.
    """
    if cursor.last is None or cursor.next_floor is None or log.last_value < cursor.next_floor:
        return "false"
    visible = """(pg_visible_in_snapshot(m.xid, %(last)s::pg_snapshot)
                  or (pg_visible_in_snapshot(m.xid, %(target)s::pg_snapshot)
                      and m.seq <= %(after_seq)s::bigint))"""
    if cursor.native:
        known = f"({_WRITTEN_HERE} or m.xid = '{_FIRST_XID}'::xid8)"
        return "false" if cursor.ahead else f"{known} and {visible}"
    return f"""not {_WRITTEN_HERE} and {_FOREIGN_ID} and m.seq <= %(next_floor)s::bigint
               and m.created_at <= %(moved_at)s::timestamptz and {visible}"""


def _stamp(connection: psycopg.Connection, names: Names) -> None:
    """Give every retained message an id that lies before everything.

    Not this transaction's own: a plan that has the messages before it would have to list the
    transactions that run now, else what those write later, under ids lower than ours, would seem
    delivered.
    """
    postgresql.run(
        connection,
        f"update {names['outbox_message']} set xid = '{_FIRST_XID}'::xid8 "
        f"where xid <> '{_FIRST_XID}'::xid8",
    )


def _write_cursor(
    connection: psycopg.Connection, names: Names, cursor: _Cursor, floor: int
) -> None:
    """Begin anew with one plan: the retained messages above the floor.

    Its target is the snapshot of now, in which every transaction that runs is listed, so whatever
    it writes comes later as late or fresh. While nobody can write, nobody can draw a number either:
    new ones lie above the sequence's value, which lies above every retained message.
    """
    values = {
        "relay": cursor.relay,
        "lane": cursor.lane,
        "no": cursor.newest_plan + 1,
        "floor": floor,
    }
    postgresql.run(
        connection,
        f"delete from {names['outbox_plan']} where relay = %(relay)s and lane = %(lane)s",
        values,
    )
    postgresql.run(
        connection,
        f"""update {names["outbox_cursor"]}
               set plan_no = %(no)s, after_seq = %(floor)s, epoch = epoch + 1, owner = null,
                   lease_until = null, written_by = pg_current_xact_id(),
                   moved_at = clock_timestamp(), origin = gen_random_uuid(),
                   crashes = 0, handed_seq = null, suspect_seq = null, suspect_deaths = 0
             where relay = %(relay)s and lane = %(lane)s""",
        values,
    )
    postgresql.run(
        connection,
        f"""insert into {names["outbox_plan"]}
                   (relay, lane, plan_no, epoch, last, floor, target, target_floor, next_floor,
                    generation)
            select relay, lane, plan_no, epoch, '{_FIRST_XID}:{_FIRST_XID}:', after_seq,
                   pg_current_snapshot(), after_seq,
                   (select case when is_called then last_value else 0 end
                      from {names["outbox_message_seq"]}),
                   {present_generation(names)}
              from {names["outbox_cursor"]} where relay = %(relay)s and lane = %(lane)s""",
        values,
    )


def _count_above(connection: psycopg.Connection, names: Names, lane: str, floor: int) -> int:
    (count,) = postgresql.one(
        connection,
        f"""select count(*) from {names["outbox_message"]} as m
             where m.seq > %s and {stream(names, "m")} = %s""",
        (floor, lane),
    )
    return cast("int", count)
