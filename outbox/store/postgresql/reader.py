"""Reading the log by the difference of two snapshots, planned before it is published.

The protocol, and why each of its steps is where it is, is explained in docs/adr/0002-cursor.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from operator import itemgetter
from typing import cast

import psycopg
from psycopg import errors as pg

from outbox.errors import DatabaseUnavailable, LogInconsistent
from outbox.names import Names
from outbox.record import Mark, Page, Position, Record
from outbox.store.base import Lease, LeaseLost
from outbox.store.postgresql.session import ABANDONED, BY_INDEX, BY_INDEX_AS_QUERY, Session
from outbox.store.postgresql.snapshot import Plan, Snapshot

#: Save an empty plan when polls that found nothing have scanned this many numbers above the floor:
#: an old floor makes each of them scan what came since (350,000 rows took 45 ms).
FLOOR_DISTANCE = 10_000

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

#: The last number drawn, of the sequence in `pg_sequence`. Not `select last_value`: every 32
#: numbers nextval writes a value 32 higher into the row for a moment, for the WAL, and a plain
#: select sees it, since it takes no lock on the page. As a floor that loses messages. The function
#: takes the lock.
LAST_VALUE = "coalesce(pg_sequence_last_value(seqrelid), 0)"

_HEAVY = f"{_WEIGHT} > %(heavy)s::bigint"
#: Of a heavy message only its weight, as the total, which is 0 for all others.
_LIGHT_COLUMNS = (
    f"seq, id::text, topic, key, case when not ({_HEAVY}) then payload end, type, content_type, "
    f"case when not ({_HEAVY}) then headers::text end, traceparent, tracestate, "
    f"case when {_HEAVY} then {_WEIGHT} else 0 end"
)


class PostgreSQLReader:
    """Reads one lane during one term. Forget it with the connection."""

    def __init__(self, session: Session, names: Names, lease: Lease, plans: Sequence[Plan]) -> None:
        """`plans`: those saved and not known to be delivered, oldest first; at least one."""
        self._session = session
        self._sql = Statements(names)
        self._lease = lease
        self._plan = plans[0]
        self._saved = list(plans[1:])
        self._after = lease.position.seq
        self._done = False
        self._asked: _Answer | None = None
        # Ids that ran at the current target, have ended since, and left no messages: no need to
        # ask for them again at every poll. True as long as this connection lives.
        self._fruitless: set[int] = set()
        self._bounded_pages = 0
        # The last snapshot in which there was nothing new, and what finding that out has cost.
        self._nothing_at: Snapshot | None = None
        self._scanned = 0

    def read(self, max_rows: int, max_bytes: int) -> Page | None:
        """Return the next page: of the current plan, of a saved one, or of a new one.

        Of a plan of many pages the next one is asked for at once, so that the database finds it
        while the caller publishes.
        """
        try:
            with self._session.translated() as connection:
                page = self._read(connection, max_rows, max_bytes)
            if not self._done:
                self._ask_ahead(max_rows, max_bytes)
        except BaseException:
            self._session.rollback()
            raise
        return page

    def _read(self, connection: psycopg.Connection, max_rows: int, max_bytes: int) -> Page | None:
        while True:
            if not self._done:
                page = self._read_on(connection, max_rows, max_bytes)
                if page.records:
                    return page
            if not self._saved:
                return self._read_new(connection, max_rows, max_bytes)
            self._begin(self._saved.pop(0))

    def _begin(self, plan: Plan) -> None:
        self._plan, self._after, self._done = plan, 0, False
        self._fruitless.clear()
        self._nothing_at, self._scanned = None, 0

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
        if self._nothing_at is not None and self._is_still(connection, self._nothing_at):
            return None
        sequence_value, snapshot = self._look(connection)
        plan = self._plan.following(sequence_value, snapshot)
        late = [xid for xid in snapshot.ended_since(plan.last) if xid not in self._fruitless]
        records: list[Record] = []
        exhausted = True
        if snapshot != plan.last:
            ask = partial(self._ask, connection, plan, late, 0, max_rows, max_bytes)
            records, exhausted = self._answered(ask)
        if not records and not self._is_far(sequence_value - plan.floor):
            self._fruitless.update(late)
            self._session.rollback()
            self._nothing_at = snapshot
            return None
        self._begin(self._saved_as(connection, plan))
        return self._took(records, exhausted)

    def _took(self, records: list[Record], exhausted: bool) -> Page:
        if records:
            self._after = records[-1][0]
        self._done = exhausted
        plan = self._plan
        mark = Mark(self._lease.log_id, plan.no, plan.token, self._after)
        return Page(plan.no, records, Position(plan.no, self._after), mark.text)

    def _is_still(self, connection: psycopg.Connection, snapshot: Snapshot) -> bool:
        """Return whether no transaction has ended since a snapshot: an idle relay's one question.

        On a standby the answer is no, so that the next question finds out.
        """
        row = connection.execute(
            "select case when pg_is_in_recovery() then '' else pg_current_snapshot()::text end"
        ).fetchone()
        return cast("tuple[str]", row)[0] == str(snapshot)

    def _is_far(self, distance: int) -> bool:
        """Return whether the floor is so far below that polls cost more than an empty plan."""
        self._scanned += distance
        return self._scanned > FLOOR_DISTANCE

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

    def _look(self, connection: psycopg.Connection) -> tuple[int, Snapshot]:
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
        (snapshot,) = cast("tuple[str]", cursor.fetchone())
        if in_recovery:
            raise DatabaseUnavailable("the database is a standby; waiting for it to be the primary")
        check_sequence(last_value, cache, self._plan)
        return last_value, Snapshot.parse(snapshot)

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
        try:
            row = connection.execute(self._sql.save, _parameters(self._lease, plan)).fetchone()
        except pg.UniqueViolation as error:
            raise LeaseLost(self._lease.relay) from error
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


class Statements:
    """The SQL of a reader, rendered once."""

    def __init__(self, names: Names) -> None:
        log = names["outbox_message"]
        sequence = names["outbox_message_seq"]
        self.look = f"""
            begin isolation level read committed;
            set local synchronous_commit = on;
            {ABANDONED};
            {BY_INDEX};
            select {LAST_VALUE}, seqcache, pg_is_in_recovery()
              from pg_sequence where seqrelid = '{sequence}'::regclass;
            select pg_current_snapshot()::text"""
        # "Not visible in xmax:xmax:" is xid >= xmax, written so that no index can take it and the
        # planner is left with the one on seq.
        fresh = f"""
              from {log}
             where seq > %(after)s::bigint
               and not pg_visible_in_snapshot(xid, %(before)s::pg_snapshot)
               and pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
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
                       and (xid, seq) <= (late.id, {2**63 - 1})
                     order by xid, seq limit %(rows)s::bigint) as m
                 order by seq limit %(rows)s::bigint"""
        )
        self.save = f"""
            insert into {names["outbox_plan"]}
                   (relay, lane, plan_no, epoch, last, floor, target, target_floor, next_floor)
            select relay, lane, %(no)s::bigint, epoch, %(last)s::pg_snapshot, %(floor)s::bigint,
                   %(target)s::pg_snapshot, %(target_floor)s::bigint, %(next_floor)s::bigint
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


def check_sequence(last_value: int, cache: int, plan: Plan) -> None:
    """Raise LogInconsistent if the sequence cannot be the one the plan was made with."""
    if cache != 1:
        raise LogInconsistent(
            f"the sequence of the log has cache {cache}, so the order of its numbers means "
            "nothing; set it to 1: alter sequence … cache 1"
        )
    if last_value < max(plan.floor, plan.target_floor, plan.next_floor):
        raise LogInconsistent(
            f"the sequence of the log stands at {last_value}, below {plan.next_floor} where it has "
            "been: it was reset, or the database went back in time. New messages would never be "
            "delivered. Stop the relays and run `outbox-relay migrate --rebase`"
        )


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
    }
