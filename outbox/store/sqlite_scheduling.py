"""Moving messages into the log when they are due, on SQLite."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from outbox.schema.grants import WRITER_COLUMNS
from outbox.store.scheduling import (
    SCHEDULE_COUNT_LIMIT,
    Agenda,
    Moved,
    Point,
    ScheduledMessage,
    ScheduleFilter,
    ScheduleStatus,
)
from outbox.store.sqlite_audit import write_audit

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from outbox.names import Names
    from outbox.store.held import Action

#: Seconds since 1970. Within a statement it does not change.
NOW = "((julianday('now') - 2440587.5) * 86400.0)"


class SQLiteSchedule:
    """What waits, in one file; implements Schedule and ScheduleAdmin.

    `reading` and `writing` give the connection, the latter in a transaction of its own.
    """

    def __init__(
        self,
        names: Names,
        reading: Callable[[], AbstractContextManager[sqlite3.Connection]],
        writing: Callable[[], AbstractContextManager[sqlite3.Connection]],
    ) -> None:
        self._log = names["outbox_message"]
        self._table = names["outbox_scheduled"]
        self._names = names
        self._reading = reading
        self._writing = writing

    def agenda(self, start: Point | None, *, anew: bool = False) -> Agenda:  # noqa: ARG002 - nothing is in the way here, and every look is a new one
        """Look for the earliest message."""
        with self._reading() as connection:
            now, due_at, no = connection.execute(
                f"""select {NOW}, first.due_at, first.no from (select 1)
                      left join (select due_at, no from {self._table} where wait_for is null
                                  order by due_at, no limit 1) as first"""
            ).fetchone()
        if due_at is None:
            return Agenda(None, None, _point(now, 0))
        return Agenda(_point(due_at, no), due_at - now, _point(min(due_at, now), 0))

    def move(self, start: Point, max_rows: int, max_bytes: int) -> Moved | None:  # noqa: ARG002 - as above
        """Move what is due in a transaction of its own."""
        with self._writing() as connection:
            due = connection.execute(
                f"""select no, due_at, length(coalesce(payload, '')) + length(coalesce(headers, ''))
                      from {self._table} where wait_for is null and due_at <= {NOW}
                     order by due_at, no limit ?""",
                (max_rows,),
            ).fetchall()
            chosen = _within(due, max_bytes)
            self._move(connection, [no for no, _ in chosen])
        end = _point(chosen[-1][1], chosen[-1][0] + 1) if chosen else None
        return Moved(len(chosen), end, len(chosen) == max_rows or len(chosen) < len(due))

    def _move(self, connection: sqlite3.Connection, numbers: list[int]) -> None:
        columns = ", ".join(WRITER_COLUMNS)
        these = "no in (select value from json_each(?))"
        listed = json.dumps(numbers)
        connection.execute(
            f"""insert into {self._log} ({columns})
                select {columns} from {self._table} where {these} order by due_at, no""",
            (listed,),
        )
        connection.execute(f"delete from {self._table} where {these}", (listed,))

    # For operators

    def status(self) -> ScheduleStatus:
        """Return how much waits."""
        counted = (
            f"(select count(*) from (select 1 from {self._table} where wait_for is {{}} "
            f"limit {SCHEDULE_COUNT_LIMIT + 1}))"
        )
        with self._reading() as connection:
            scheduled, waiting = connection.execute(
                f"select {counted.format('null')}, {counted.format('not null')}"
            ).fetchone()
        return ScheduleStatus(scheduled, waiting, self.agenda(None).due_in_s)

    def count(self, which: ScheduleFilter, limit: int) -> int:
        """Return how many match, at most `limit`."""
        with self._reading() as connection:
            (count,) = connection.execute(
                f"""select count(*) from (select 1 from {self._table} where {_matching(which)}
                                           limit :limit)""",
                {**which.given, "limit": limit},
            ).fetchone()
        return int(count)

    def find(self, which: ScheduleFilter, limit: int) -> list[ScheduledMessage]:
        """Return those that match."""
        with self._reading() as connection:
            rows = connection.execute(
                f"""select no, id, topic, key, type,
                           case when wait_for is null then 'scheduled' else 'waiting' end,
                           due_at, wait_for, created_at, coalesce(length(payload), 0)
                      from {self._table} where {_matching(which)}
                     order by due_at is null, due_at, no limit :limit""",
                {**which.given, "limit": limit},
            ).fetchall()
        return [ScheduledMessage(*row) for row in rows]

    def cancel(self, which: ScheduleFilter, limit: int, action: Action) -> int:
        """Delete messages."""
        return self._change(f"delete from {self._table}", "true", which, limit, action)

    def release(self, which: ScheduleFilter, limit: int, action: Action) -> int:
        """Let messages go that wait for a condition."""
        due_at = f"max(coalesce(due_at, {NOW}), {NOW})"
        statement = f"update {self._table} set wait_for = null, due_at = {due_at}"
        return self._change(statement, "wait_for is not null", which, limit, action)

    def _change(
        self, statement: str, condition: str, which: ScheduleFilter, limit: int, action: Action
    ) -> int:
        with self._writing() as connection:
            changed = connection.execute(
                f"""{statement} where no in (
                        select no from {self._table} where {condition} and {_matching(which)}
                         order by no limit :limit)""",
                {**which.given, "limit": limit},
            ).rowcount
            if changed:
                write_audit(connection, self._names, action, changed)
        return changed


_CONDITIONS = {
    "topic": "topic = :topic",
    "key": "key = :key",
    "id": "id = :id",
    "condition": "wait_for = :condition",
    "due_before": "due_at < :due_before",
    "state": "(wait_for is null) = (:state = 'scheduled')",
}


def _matching(which: ScheduleFilter) -> str:
    return " and ".join(["true", *(_CONDITIONS[name] for name in which.given)])


def _within(due: list[tuple[int, float, int]], max_bytes: int) -> list[tuple[int, float]]:
    """Return the rows up to the one that crosses the bound, as (number, time)."""
    chosen, total = [], 0
    for no, due_at, size in due:
        chosen.append((no, due_at))
        total += size + 200
        if total >= max_bytes:
            break
    return chosen


def _point(at: float, no: int) -> Point:
    return Point(math.floor(at * 1_000_000) - 1, no)
