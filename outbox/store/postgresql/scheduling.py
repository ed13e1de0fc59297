"""Moving messages into the log when they are due, on PostgreSQL."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from psycopg import errors as pg

from outbox.schema.grants import WRITER_COLUMNS
from outbox.store.postgresql.session import ABANDONED, BY_INDEX
from outbox.store.scheduling import Agenda, Moved, Point

if TYPE_CHECKING:
    from outbox.names import Names
    from outbox.store.postgresql.session import Session

#: Nobody is waited for for longer than the relay's lease allows. The commit need not be durable: a
#: crash would take back both halves of the move, and what is published was made durable before.
_SETTINGS = f"""{ABANDONED}; {BY_INDEX}; set local statement_timeout = '2s';
    set local lock_timeout = '100ms'; set local synchronous_commit = off"""

#: The next time may do better.
_IN_THE_WAY = (pg.LockNotAvailable, pg.DeadlockDetected, pg.QueryCanceled)

#: The first key of the lock of whoever moves; the second is the table. Locks with two keys do not
#: meet those with one, such as those of ordering="strict".
_LOCK_CLASS = 0x6F757462

_MICROSECONDS = "(extract(epoch from {}) * 1000000)::bigint"
_FROM_MICROSECONDS = "timestamptz 'epoch' + {} * interval '1 microsecond'"

#: What is seen to be clear ends so much before now, since a transaction that has just committed may
#: have scheduled something for then.
_MARGIN = "interval '2 seconds'"


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look has found, in which snapshot, and when, by this process's clock."""

    start: Point | None
    snapshot: str
    agenda: Agenda
    at: float

    def holds(self, start: Point | None, snapshot: str) -> bool:
        """Return whether it would find the same in a snapshot, from `start` on."""
        return snapshot == self.snapshot and self.start in (None, start)

    def now(self) -> Agenda:
        """Return what the look would find now, were nothing new committed."""
        due_in_s = self.agenda.due_in_s
        if due_in_s is None:
            return self.agenda
        return replace(self.agenda, due_in_s=due_in_s - (time.monotonic() - self.at))


class PostgreSQLSchedule:
    """What waits for a time, on one connection; implements Schedule."""

    def __init__(self, session: Session, names: Names) -> None:
        self._session = session
        self._log = names["outbox_message"]
        self._table = names["outbox_scheduled"]

    def agenda(self, start: Point | None, *, anew: bool = False) -> Agenda:
        """Look for the earliest message.

        An idle relay has just asked whether any transaction has ended, for the sake of the log. If
        none has since the last look, there is nothing else to be seen here; that answer is good
        once. `anew`: look all the same.
        """
        seen, self._session.latest_snapshot = self._session.latest_snapshot, ""
        known = self._session.looked
        if known is not None and known.holds(start, seen) and not anew:
            return known.now()
        agenda, snapshot = self._look(start)
        self._session.looked = Looked(start, snapshot, agenda, time.monotonic())
        return agenda

    def _look(self, start: Point | None) -> tuple[Agenda, str]:
        with self._session.translated() as connection:
            try:
                # One round trip; numbers only, so that nothing needs to be bound.
                cursor = connection.execute(
                    f"begin isolation level read committed, read only; {BY_INDEX}; "
                    f"{self._agenda_query(start)}; commit"
                )
                while cursor.description is None:
                    cursor.nextset()
                row = cursor.fetchone()
            except BaseException:
                self._session.rollback()
                raise
        due_in_s, at_us, no, clear_us, snapshot = cast(
            "tuple[float | None, int, int, int, str]", row
        )
        earliest = None if due_in_s is None else Point(at_us, no)
        return Agenda(earliest, due_in_s, Point(clear_us, 0)), snapshot

    def _agenda_query(self, start: Point | None) -> str:
        return f"""
            with now as materialized (select clock_timestamp() as at)
            select extract(epoch from first.due_at - now.at)::float8,
                   {_MICROSECONDS.format("first.due_at")}, first.no,
                   {_MICROSECONDS.format(f"least(first.due_at, now.at) - {_MARGIN}")},
                   pg_current_snapshot()::text
              from now
              left join (select due_at, no from {self._table}
                          where wait_for is null and {_from(start)}
                          order by due_at, no limit 1) as first on true"""

    def move(self, start: Point, max_rows: int, max_bytes: int) -> Moved | None:
        """Move what is due in a transaction of its own."""
        self._session.looked = None
        with self._session.translated() as connection:
            try:
                connection.execute(f"begin isolation level read committed; {_SETTINGS}")
                # In a statement of its own: the next one must see what the mover before has done.
                (alone,) = cast(
                    "tuple[bool]",
                    connection.execute(
                        f"select pg_try_advisory_xact_lock({_LOCK_CLASS}, "
                        f"'{self._table}'::regclass::oid::int)"
                    ).fetchone(),
                )
                if not alone:
                    self._session.rollback()
                    return None
                row = connection.execute(
                    self._move_query(start), {"rows": max_rows, "bytes": max_bytes}
                ).fetchone()
                connection.execute("commit")
            except _IN_THE_WAY:
                self._session.rollback()
                return None
            except BaseException:
                self._session.rollback()
                raise
        messages, full, at_us, no = cast("tuple[int, bool, int | None, int | None]", row)
        end = None if at_us is None or no is None else Point(at_us, no + 1)
        return Moved(messages, end, full)

    def _move_query(self, start: Point) -> str:
        """Return the statement of a move.

        The clock is read once, before any row. The rows are locked first, so that none is cancelled
        in between; and the log's defaults see to it that the transaction has its id before the
        first seq is drawn.
        """
        columns = ", ".join(WRITER_COLUMNS)
        return f"""
            with due as materialized (
                select no, due_at, coalesce(octet_length(payload), 0)
                                   + coalesce(pg_column_size(headers), 0) + 200 as weight
                  from {self._table}
                 where wait_for is null and {_from(start)}
                   and due_at <= (select clock_timestamp())
                 order by due_at, no limit %(rows)s::bigint for update skip locked),
            chosen as materialized (
                select no, due_at from (
                    select no, due_at, weight, sum(weight) over (
                               order by due_at, no rows unbounded preceding) as total
                      from due) as w
                 where total - weight < %(bytes)s::bigint),
            gone as (
                delete from {self._table} as s using chosen as c where s.no = c.no returning s.*),
            moved as (
                insert into {self._log} ({columns})
                select {columns} from gone order by gone.due_at, gone.no)
            select count(*),
                   count(*) = %(rows)s::bigint or count(*) < (select count(*) from due),
                   {_MICROSECONDS.format("max(due_at)")},
                   (array_agg(no order by due_at desc, no desc))[1]
              from chosen"""


def _from(start: Point | None) -> str:
    if start is None:
        return "true"
    return f"(due_at, no) >= ({_FROM_MICROSECONDS.format(start.at_us)}, {start.no})"
