"""Reading the log by the difference of two snapshots, planned before it is published.

The protocol, and why each of its steps is where it is, is explained in docs/adr/0002-cursor.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import psycopg
from psycopg import errors as pg

from outbox.errors import DatabaseUnavailable
from outbox.names import Names
from outbox.record import END, Mark, Page, Position, Record
from outbox.store.base import Lease, LeaseLost
from outbox.store.lanes import Topology
from outbox.store.postgresql.held_lanes import take_over_held
from outbox.store.postgresql.journal import plan_parameters, read_plans
from outbox.store.postgresql.lanes import has_sealed, read_topologies
from outbox.store.postgresql.merging import before_heavy, merge
from outbox.store.postgresql.sequence import check_sequence
from outbox.store.postgresql.session import (
    BY_INDEX_AS_QUERY,
    PREPARED_BY_INDEX_AS_QUERY,
    Session,
    text,
)
from outbox.store.postgresql.snapshot import Plan, Snapshot
from outbox.store.postgresql.statements import SEQUENCE, SNAPSHOT, StreamLanes

#: Save an empty plan when polls that found nothing have scanned this many numbers above the floor:
#: an old floor makes each of them scan what came since (350,000 rows took 45 ms).
FLOOR_DISTANCE = 10_000

#: Save one also when messages of other streams alone have come since, every so many seconds.
OTHERS_PASSED_S = 60.0
#: So many pages are bounded in bytes by the database after one that had a heavy message in it.
BOUNDED_PAGES = 16


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
            self._is_told = self._is_told or (page is not None and page.end.seq == END)
            if not self._done:
                self._ask_ahead(max_rows, max_bytes)
        except BaseException:
            self._session.rollback()
            raise
        return page

    def receive(self) -> None:
        """Take in what the server has sent of the page that was asked for ahead."""
        if self._asked is not None:
            self._session.receive_some()

    @property
    def ended(self) -> bool:
        """Return whether the stream is none of the log's any more, and nothing of it is left."""
        return self._has_ended and self._is_told

    @property
    def nothing_at(self) -> str | None:
        """Return the moment in which there was nothing to read, None if there was."""
        return None if self._nothing_at is None else str(self._nothing_at)

    @property
    def lanes_changed(self) -> bool:
        """Return whether lanes were ever changed: others may have held messages of our keys."""
        return self._lanes.generation > 0

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
        later = self._next_generation
        streams = self._lanes.predecessors(later)
        if not streams:
            return True
        if not has_sealed(connection, self._names, self._lease.relay, streams, later):
            return False
        take_over_held(connection, self._names, self._lease, *self._lanes.around(later))
        return True

    def _begin(self, plan: Plan) -> None:
        self._plan, self._after, self._done, self._is_told = plan, 0, False, False
        self._sql = self._lanes.statements(plan.generation)
        self._fruitless.clear()
        self._planned_at = time.monotonic()
        self._nothing_at, self._scanned = None, 0

    def _read_on(self, connection: psycopg.Connection, max_rows: int, max_bytes: int) -> Page:
        """Read on in a plan that is saved."""
        asked, self._asked = self._asked, None
        ask = partial(self._ask_now, connection, max_rows, max_bytes)
        return self._took(*self._answered(ask, asked))

    def _ask_now(self, connection: psycopg.Connection, max_rows: int, max_bytes: int) -> _Answer:
        with connection.pipeline():
            return self._ask_on(connection, max_rows, max_bytes)

    def _ask_ahead(self, max_rows: int, max_bytes: int) -> None:
        with self._session.sending_ahead() as connection:
            self._asked = self._ask_on(connection, max_rows, max_bytes)

    def _ask_on(self, connection: psycopg.Connection, max_rows: int, max_bytes: int) -> _Answer:
        # Within a pipeline these are one transaction, without a word to begin or to end it.
        prepares = self._session.prepares
        connection.execute(
            PREPARED_BY_INDEX_AS_QUERY if prepares else BY_INDEX_AS_QUERY, prepare=prepares
        )
        late = self._plan.target.ended_since(self._plan.last)
        return self._ask(connection, self._plan, late, self._after, max_rows, max_bytes)

    def _read_new(
        self, connection: psycopg.Connection, max_rows: int, max_bytes: int
    ) -> Page | None:
        """Make a plan, read its first page, save the plan; in one transaction, in this order."""
        # An idle relay's one question.
        if self._nothing_at is not None and self._session.moment() == self.nothing_at:
            return None
        sequence_value, snapshot, generation = self._look()
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
            self._nothing_at = snapshot
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
        self._scanned += passed
        if self._scanned > FLOOR_DISTANCE:
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

    def _look(self) -> tuple[int, Snapshot, int]:
        """Begin the plan's transaction: first the sequence, then the snapshot.

        Nothing before may have given the transaction an id, so no other write belongs in here. A
        standby's snapshots do not list what runs, and a session outlives its server's promotion:
        hence the check for recovery in a statement before the snapshot.
        """
        *_, sequence, present = self._session.results_of(self._look_query())
        snapshot, generation = text(present), int(text(present, 1))
        if text(sequence, 2) == "t":
            raise DatabaseUnavailable("the database is a standby; waiting for it to be the primary")
        last_value, cache = int(text(sequence)), int(text(sequence, 1))
        check_sequence(last_value, cache, self._plan)
        self._session.latest_snapshot = snapshot
        return last_value, Snapshot.parse(snapshot), generation

    def _look_query(self) -> str:
        if not self._session.prepares:
            return self._sql.look
        self._session.define(SEQUENCE, self._sql.sequence)
        self._session.define(SNAPSHOT, self._sql.snapshot)
        return self._sql.prepared_look

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
        light, prepare = not late and not self._bounded_pages, self._session.prepares
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
            prepare=prepare,
        )
        cursors = [fresh]
        if late:
            cursors.append(connection.cursor(binary=True))
            cursors[1].execute(
                self._sql.late,
                {"ids": list(map(str, late)), "after": after, "rows": max_rows, "bytes": max_bytes},
                prepare=prepare,
            )
        return _Answer(cursors, max_rows, max_bytes, light)

    def _saved_as(self, connection: psycopg.Connection, plan: Plan) -> Plan:
        """Save the plan under our epoch, durably; only then may its messages be sent.

        The plan before it must be there as we know it: behind a pooler a fail-over to a server that
        is behind goes unnoticed, and there the ids in our snapshots may be given out again.
        """
        row = connection.execute(
            self._sql.save, plan_parameters(self._lease, plan), prepare=self._session.prepares
        ).fetchone()
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
