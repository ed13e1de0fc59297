"""Reading the log by the difference of two snapshots, planned before it is published.

The protocol, and why each of its steps is where it is, is explained in docs/adr/0002-cursor.md.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from operator import itemgetter
from typing import cast

import psycopg
from psycopg import errors as pg

from outbox.errors import DatabaseUnavailable
from outbox.names import Names
from outbox.record import Mark, Page, Position, Record
from outbox.store.base import Lease, LeaseLost
from outbox.store.lanes import Topology
from outbox.store.postgresql.lanes import END, condition, has_sealed, read_topologies
from outbox.store.postgresql.sequence import LAST_VALUE, check_sequence
from outbox.store.postgresql.session import ABANDONED, BY_INDEX, BY_INDEX_AS_QUERY, Session
from outbox.store.postgresql.snapshot import Plan, Snapshot

#: Save an empty plan when the sequence is this far above the floor: an old floor makes every poll
#: scan what came since (350,000 rows took 45 ms).
FLOOR_DISTANCE = 10_000

#: Save one also when messages of other streams alone have come since, every so many seconds.
OTHERS_PASSED_S = 60.0

_COLUMNS = (
    "seq, id::text, topic, key, payload, type, content_type, headers::text as headers, "
    "traceparent, tracestate"
)
_SELECTED = "seq, id, topic, key, payload, type, content_type, headers, traceparent, tracestate"
#: So many pages are bounded in bytes by the database after one that had a heavy message in it.
BOUNDED_PAGES = 16

#: What a message weighs, in bytes. octet_length does not fetch a payload that is stored apart.
_WEIGHT = "coalesce(octet_length(payload), 0) + coalesce(pg_column_size(headers), 0) + 200"

_total = itemgetter(-1)

_HEAVY = f"{_WEIGHT} > %(heavy)s::bigint"
#: Of a heavy message only its weight, as the total, which is 0 for all others.
_LIGHT_COLUMNS = (
    f"seq, id::text, topic, key, case when not ({_HEAVY}) then payload end, type, content_type, "
    f"case when not ({_HEAVY}) then headers::text end, traceparent, tracestate, "
    f"case when {_HEAVY} then {_WEIGHT} else 0 end"
)


class PostgreSQLReader:
    """Reads one lane during one term. Forget it with the connection."""

    def __init__(
        self,
        session: Session,
        names: Names,
        lease: Lease,
        plans: Sequence[Plan],
        topologies: Sequence[Topology],
    ) -> None:
        """`plans`: those saved and not known to be delivered, oldest first; at least one.

        `topologies`: the lanes of every generation, the present one last.
        """
        self._session = session
        self._names = names
        self._lease = lease
        self._lanes = StreamLanes(names, lease.lane, topologies)
        self._plan = plans[0]
        self._sql = self._lanes.statements(self._plan.generation)
        self._saved = list(plans[1:])
        self._after = lease.position.seq
        self._done = self._is_told = self._after == END
        self._planned_at = time.monotonic()
        self._asked: _Answer | None = None
        # Ids that ran at the current target, have ended since, and left no messages: no need to
        # ask for them again at every poll. True as long as this connection lives.
        self._fruitless: set[int] = set()
        self._bounded_pages = 0

    def read(self, max_rows: int, max_bytes: int) -> Page | None:
        """Return the next page: of the current plan, of a saved one, or of a new one.

        Of a plan of many pages the next one is asked for at once, so that the database finds it
        while the caller publishes.
        """
        try:
            with self._session.translated() as connection:
                page = self._read(connection, max_rows, max_bytes)
            self._is_told = self._is_told or (page is not None and page.end.seq == END)
            if not self._done:
                self._ask_ahead(max_rows, max_bytes)
        except BaseException:
            self._session.rollback()
            raise
        return page

    @property
    def ended(self) -> bool:
        """Return whether the stream is none of the log's any more, and nothing of it is left."""
        return self._has_ended and self._is_told

    @property
    def _has_ended(self) -> bool:
        return self._done and not self._saved and not self._lanes.goes_on

    def _read(self, connection: psycopg.Connection, max_rows: int, max_bytes: int) -> Page | None:
        while True:
            if not self._done:
                rest = self._read_on(connection, max_rows, max_bytes)
                if rest.records:
                    return rest
            if self._next_generation != self._plan.generation or self._has_ended:
                if not self._is_told:
                    return self._all_of_it()
                if self._has_ended or not self._may_go_on(connection):
                    return None
            if self._saved:
                self._begin(self._saved.pop(0))
                continue
            known = self._lanes.generation
            page = self._read_new(connection, max_rows, max_bytes)
            if page is not None or self._lanes.generation == known:
                return page

    @property
    def _next_generation(self) -> int:
        return self._saved[0].generation if self._saved else self._lanes.generation

    def _all_of_it(self) -> Page:
        """Return an empty page: that the batch is complete is what other streams wait for."""
        self._after = END
        return Page(self._plan.no, [], Position(self._plan.no, END))

    def _may_go_on(self, connection: psycopg.Connection) -> bool:
        """Return whether the streams that this one must not overtake have come far enough."""
        streams = self._lanes.predecessors(self._next_generation)
        return not streams or has_sealed(
            connection, self._names, self._lease.relay, streams, self._next_generation
        )

    def _begin(self, plan: Plan) -> None:
        self._plan, self._after, self._done, self._is_told = plan, 0, False, False
        self._sql = self._lanes.statements(plan.generation)
        self._fruitless.clear()
        self._planned_at = time.monotonic()

    def _read_on(self, connection: psycopg.Connection, max_rows: int, max_bytes: int) -> Page:
        """Read on in a plan that is saved."""
        asked, self._asked = self._asked, None
        ask = partial(self._ask_on, connection, max_rows, max_bytes)
        return self._took(*self._answered(ask, asked))

    def _ask_ahead(self, max_rows: int, max_bytes: int) -> None:
        with self._session.sending_ahead() as connection:
            self._asked = self._ask_on(connection, max_rows, max_bytes)

    def _ask_on(self, connection: psycopg.Connection, max_rows: int, max_bytes: int) -> _Answer:
        connection.execute("begin isolation level read committed")
        connection.execute(BY_INDEX_AS_QUERY)
        late = self._plan.target.ended_since(self._plan.last)
        answer = self._ask(connection, self._plan, late, self._after, max_rows, max_bytes)
        connection.execute("rollback")
        return answer

    def _read_new(
        self, connection: psycopg.Connection, max_rows: int, max_bytes: int
    ) -> Page | None:
        """Make a plan, read its first page, save the plan; in one transaction, in this order."""
        sequence_value, snapshot, generation = self._look(connection)
        if generation != self._lanes.generation:
            self._session.rollback()
            self._learn(connection)
            return None
        plan = self._plan.following(sequence_value, snapshot, generation)
        self._sql = self._lanes.statements(generation)
        late = [xid for xid in snapshot.ended_since(plan.last) if xid not in self._fruitless]
        records: list[Record] = []
        exhausted = True
        if snapshot != plan.last:
            ask = partial(self._ask, connection, plan, late, 0, max_rows, max_bytes)
            records, exhausted = self._answered(ask)
        if not records and not self._is_worth_saving(plan, sequence_value):
            self._fruitless.update(late)
            self._session.rollback()
            return None
        try:
            saved = self._saved_as(connection, plan)
        except pg.UniqueViolation as error:
            self._session.rollback()
            if not self._learn(connection):
                raise LeaseLost(self._lease.relay) from error
            return None
        self._begin(saved)
        return self._took(records, exhausted)

    def _is_worth_saving(self, plan: Plan, sequence_value: int) -> bool:
        """Return whether an empty plan should be saved all the same.

        The messages of other streams are behind this one only once a plan of its own has passed
        them, and until then they cannot be removed.
        """
        passed = sequence_value - plan.floor
        if passed > FLOOR_DISTANCE:
            return True
        overdue = time.monotonic() - self._planned_at > OTHERS_PASSED_S
        return passed > 0 and overdue and not self._lanes.has_everything

    def _learn(self, connection: psycopg.Connection) -> bool:
        """Take in a change of lanes: the plans that it wrote, after which others come.

        Return whether there were any; if not, the one who wrote them is another relay.
        """
        self._lanes = StreamLanes(
            self._names, self._lease.lane, read_topologies(connection, self._names)
        )
        known = (self._saved or [self._plan])[-1].no
        written = read_plans(
            connection, self._names, self._lease.relay, self._lease.lane, known + 1
        )
        self._saved += written
        return bool(written) and self._lanes.generation > self._plan.generation

    def _took(self, records: list[Record], exhausted: bool) -> Page:
        if records:
            self._after = records[-1][0]
        if exhausted:
            self._after = END
        self._done = exhausted
        plan = self._plan
        mark = Mark(self._lease.log_id, plan.no, plan.token, self._after)
        return Page(plan.no, records, Position(plan.no, self._after), mark.text)

    def _answered(
        self, ask: Callable[[], _Answer], asked: _Answer | None = None
    ) -> tuple[list[Record], bool]:
        """Return messages, none only if there are none, and whether that is all of the plan.

        Where the first is a heavy one it has to be asked for again, with the bound.
        """
        answer = asked or ask()
        records, exhausted = answer.page()
        if answer.met_heavy(records, exhausted):
            self._bounded_pages = BOUNDED_PAGES
        elif self._bounded_pages:
            self._bounded_pages -= 1
        return (records, exhausted) if records or exhausted else ask().page()

    def _look(self, connection: psycopg.Connection) -> tuple[int, Snapshot, int]:
        """Begin the plan's transaction: first the sequence, then the snapshot.

        Nothing before may have given the transaction an id, so no other write belongs in here. A
        standby's snapshots do not list what runs, and a session outlives its server's promotion:
        hence the check for recovery in a statement before the snapshot.
        """
        cursor = connection.execute(self._sql.look)
        while cursor.description is None:
            cursor.nextset()
        last_value, cache, in_recovery = cast("tuple[int, int, bool]", cursor.fetchone())
        cursor.nextset()
        snapshot, generation = cast("tuple[str, int]", cursor.fetchone())
        if in_recovery:
            raise DatabaseUnavailable("the database is a standby; waiting for it to be the primary")
        check_sequence(last_value, cache, self._plan)
        return last_value, Snapshot.parse(snapshot), generation

    def _ask(
        self,
        connection: psycopg.Connection,
        plan: Plan,
        late: list[int],
        after: int,
        max_rows: int,
        max_bytes: int,
    ) -> _Answer:
        """Ask for the fresh messages of a plan, and for the late ones where there can be any."""
        light = not late and not self._bounded_pages
        fresh = connection.cursor(binary=True)
        fresh.execute(
            self._sql.light if light else self._sql.fresh,
            {
                "after": max(after, plan.floor),
                "before": f"{plan.last.xmax}:{plan.last.xmax}:",
                "target": str(plan.target),
                "rows": max_rows,
                "bytes": max_bytes,
                # So many of these are never more than the bound.
                "heavy": max_bytes // max_rows,
            },
        )
        cursors = [fresh]
        if late:
            cursors.append(connection.cursor(binary=True))
            cursors[1].execute(
                self._sql.late,
                {"ids": list(map(str, late)), "after": after, "rows": max_rows, "bytes": max_bytes},
            )
        return _Answer(cursors, max_rows, max_bytes, light)

    def _saved_as(self, connection: psycopg.Connection, plan: Plan) -> Plan:
        """Save the plan under our epoch, durably; only then may its messages be sent.

        The plan before it must be there as we know it: behind a pooler a fail-over to a server that
        is behind goes unnoticed, and there the ids in our snapshots may be given out again.
        """
        row = connection.execute(self._sql.save, _parameters(self._lease, plan)).fetchone()
        if row is None:
            raise LeaseLost(self._lease.relay)
        self._session.commit()
        return replace(plan, token=cast("tuple[str]", row)[0])


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was asked of the database, and the bounds it was asked with."""

    cursors: list[psycopg.Cursor]
    max_rows: int
    max_bytes: int
    light: bool

    def page(self) -> tuple[list[Record], bool]:
        """Return fresh and late messages, merged by seq, and whether that is all of the plan."""
        parts = [cast("list[Record]", cursor.fetchall()) for cursor in self.cursors]
        if self.light:
            return before_heavy(parts[0], self.max_rows)
        return merge(parts, self.max_rows, self.max_bytes)

    def met_heavy(self, records: list[Record], exhausted: bool) -> bool:
        """Return whether this page ends early, before a heavy message."""
        return self.light and not exhausted and len(records) < self.max_rows


class StreamLanes:
    """What the lanes of the log mean for one stream, generation by generation."""

    def __init__(self, names: Names, stream: str, topologies: Sequence[Topology]) -> None:
        self._names = names
        self._stream = stream
        self._topologies = {topology.generation: topology for topology in topologies}
        self._present = topologies[-1]
        self._statements: dict[int, Statements] = {}

    @property
    def generation(self) -> int:
        """Return the present generation."""
        return self._present.generation

    @property
    def goes_on(self) -> bool:
        """Return whether the stream is one of the present lanes."""
        return self._stream in self._present.streams

    @property
    def has_everything(self) -> bool:
        """Return whether every message of the log belongs to this stream now."""
        return self.goes_on and self._present.selection(self._stream).is_everything

    def predecessors(self, generation: int) -> tuple[str, ...]:
        """Return the streams that must have come to a generation before this one goes into it."""
        earlier = self._topologies.get(generation - 1)
        if earlier is None:
            return ()
        return self._topologies[generation].predecessors(earlier, self._stream)

    def statements(self, generation: int) -> Statements:
        """Return the SQL that reads what belongs to the stream in a generation.

        A plan in which a stream begins is of a generation that does not know it, and is empty.
        """
        if generation not in self._statements:
            topology = self._topologies[generation]
            known = self._stream in topology.streams
            rows = condition(topology.selection(self._stream)) if known else "false"
            self._statements[generation] = Statements(self._names, rows)
        return self._statements[generation]


class Statements:
    """The SQL of a reader, rendered once."""

    def __init__(self, names: Names, condition: str = "") -> None:
        """`condition`: of the rows of a stream; empty where it has all of them."""
        log = names["outbox_message"]
        ours = f"and {condition}" if condition else ""
        sequence = names["outbox_message_seq"]
        self.look = f"""
            begin isolation level read committed;
            set local synchronous_commit = on;
            {ABANDONED};
            {BY_INDEX};
            select {LAST_VALUE}, seqcache, pg_is_in_recovery()
              from pg_sequence where seqrelid = '{sequence}'::regclass;
            select pg_current_snapshot()::text,
                   (select max(generation) from {names["outbox_lane"]})"""
        # "Not visible in xmax:xmax:" is xid >= xmax, written so that no index can take it and the
        # planner is left with the one on seq.
        fresh = f"""
              from {log}
             where seq > %(after)s::bigint
               and not pg_visible_in_snapshot(xid, %(before)s::pg_snapshot)
               and pg_visible_in_snapshot(xid, %(target)s::pg_snapshot) {ours}
             order by seq limit %(rows)s::bigint"""
        self.fresh = self._bounded(f"select {_COLUMNS}, {_WEIGHT} as weight {fresh}")
        # The running total of the bound costs the database more than the reading does. As long as
        # messages are so light that a page of them cannot exceed the bound, it is not asked for.
        self.light = f"select {_LIGHT_COLUMNS} {fresh}"
        # Compared as rows, so that only the index on (xid, seq) fits: an equality on xid and an
        # order by seq would let the planner walk the whole log by seq.
        self.late = self._bounded(
            f"""select m.* from unnest(%(ids)s::text[]::xid8[]) as late (id)
                 cross join lateral (
                    select {_COLUMNS}, {_WEIGHT} as weight from {log}
                     where (xid, seq) > (late.id, %(after)s::bigint)
                       and (xid, seq) <= (late.id, {END}) {ours}
                     order by xid, seq limit %(rows)s::bigint) as m
                 order by seq limit %(rows)s::bigint"""
        )
        self.save = f"""
            insert into {names["outbox_plan"]}
                   (relay, lane, plan_no, epoch, last, floor, target, target_floor, next_floor,
                    generation)
            select relay, lane, %(no)s::bigint, epoch, %(last)s::pg_snapshot, %(floor)s::bigint,
                   %(target)s::pg_snapshot, %(target_floor)s::bigint, %(next_floor)s::bigint,
                   %(generation)s::bigint
              from {names["outbox_cursor"]}
             where relay = %(relay)s and lane = %(lane)s and epoch = %(epoch)s::bigint
               and exists (select from {names["outbox_plan"]} as p
                            where p.relay = %(relay)s and p.lane = %(lane)s
                              and p.plan_no = %(no)s::bigint - 1
                              and p.target::text = %(last)s::pg_snapshot::text)
               for update
            returning token::text"""

    @staticmethod
    def _bounded(select: str) -> str:
        """Bound a selection by weight as well: the row that crosses the bound is the last."""
        return f"""
            select {_SELECTED}, total from (
                select m.*, sum(weight) over (order by seq rows unbounded preceding) as total
                  from ({select}) as m) as w
             where total - weight < %(bytes)s::bigint order by seq"""


def merge(
    parts: Sequence[list[Record]], max_rows: int, max_bytes: int
) -> tuple[list[Record], bool]:
    """Merge selections, each in order of seq and cut at the bounds, into one page.

    A selection that was cut says nothing about what follows its last row, so the page ends at the
    lowest such row. Returns the page, and whether nothing was cut. Rows end with their `total`.

    >>> merge([[(1, "a", 9), (4, "d", 18)], [(2, "b", 9)]], 2, 100)
    ([(1, 'a', 9), (2, 'b', 9)], False)
    """
    ends = [rows[-1][0] for rows in parts if _is_cut(rows, max_rows, max_bytes)]
    if len(parts) == 1:  # by far the most frequent; nothing is copied
        return parts[0], not ends
    merged = list(heapq.merge(*parts, key=itemgetter(0)))
    page = [row for row in merged if not ends or row[0] <= min(ends)][:max_rows]
    return page, not ends and len(page) == len(merged)


def before_heavy(rows: list[Record], max_rows: int) -> tuple[list[Record], bool]:
    """Cut a selection without a bound in bytes before its first heavy row: that one has a total.

    Returns the page, and whether nothing was cut.

    >>> before_heavy([(1, "a", 0), (2, None, 9000), (3, "c", 0)], 5)
    ([(1, 'a', 0)], False)
    """
    if not any(map(_total, rows)):
        return rows, len(rows) < max_rows
    return list(takewhile(lambda row: not row[-1], rows)), False


def _is_cut(rows: list[Record], max_rows: int, max_bytes: int) -> bool:
    return bool(rows) and (len(rows) >= max_rows or rows[-1][-1] >= max_bytes)


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


def _parameters(lease: Lease, plan: Plan) -> dict[str, object]:
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
