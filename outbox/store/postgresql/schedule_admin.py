"""What operators do with messages that wait, on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from outbox.store.postgresql.audit import write_audit
from outbox.store.postgresql.scheduling import PostgreSQLSchedule
from outbox.store.scheduling import (
    SCHEDULE_COUNT_LIMIT,
    ScheduledMessage,
    ScheduleFilter,
    ScheduleStatus,
)

if TYPE_CHECKING:
    from outbox.names import Names
    from outbox.store.held import Action
    from outbox.store.postgresql.session import Session

_CONDITIONS = {
    "topic": "topic = %(topic)s",
    "key": "key = %(key)s",
    "id": "id = %(id)s::uuid",
    "condition": "wait_for = %(condition)s",
    "due_before": "due_at < to_timestamp(%(due_before)s)",
    "state": "(wait_for is null) = (%(state)s = 'scheduled')",
}


class PostgreSQLScheduleAdmin(PostgreSQLSchedule):
    """Implements ScheduleAdmin, and Schedule."""

    def __init__(self, session: Session, names: Names) -> None:
        super().__init__(session, names)
        self._names = names

    def status(self) -> ScheduleStatus:
        """Return how much waits."""
        counted = (
            f"(select count(*) from (select from {self._table} where wait_for is {{}} "
            f"limit {SCHEDULE_COUNT_LIMIT + 1}) as m)"
        )
        with self._session.translated() as connection:
            row = connection.execute(
                f"select {counted.format('null')}, {counted.format('not null')}"
            ).fetchone()
        scheduled, waiting = cast("tuple[int, int]", row)
        return ScheduleStatus(scheduled, waiting, self.agenda(None).due_in_s)

    def count(self, which: ScheduleFilter, limit: int) -> int:
        """Return how many match, at most `limit`."""
        with self._session.translated() as connection:
            row = connection.execute(
                f"""select count(*) from (select from {self._table} where {_matching(which)}
                                           limit %(limit)s) as m""",
                {**which.given, "limit": limit},
            ).fetchone()
        return cast("tuple[int]", row)[0]

    def find(self, which: ScheduleFilter, limit: int) -> list[ScheduledMessage]:
        """Return those that match."""
        with self._session.translated() as connection:
            rows = connection.execute(
                f"""select no, id::text, topic, key, type,
                           case when wait_for is null then 'scheduled' else 'waiting' end,
                           extract(epoch from due_at)::float8, wait_for,
                           extract(epoch from created_at)::float8,
                           coalesce(octet_length(payload), 0)
                      from {self._table} where {_matching(which)}
                     order by due_at, no limit %(limit)s""",
                {**which.given, "limit": limit},
            ).fetchall()
        return [ScheduledMessage(*row) for row in rows]

    def cancel(self, which: ScheduleFilter, limit: int, action: Action) -> int:
        """Delete messages."""
        return self._change(
            f"delete from {self._table} as s using these where s.no = these.no",
            _matching(which),
            {**which.given, "limit": limit},
            action,
        )

    def release(self, which: ScheduleFilter, limit: int, action: Action) -> int:
        """Let messages go that wait for a condition."""
        return self._change(
            f"""update {self._table} as s
                   set wait_for = null, due_at = greatest(due_at, (select clock_timestamp()))
                  from these where s.no = these.no""",
            f"wait_for is not null and {_matching(which)}",
            {**which.given, "limit": limit},
            action,
        )

    def _change(
        self, statement: str, matching: str, values: dict[str, str | float], action: Action
    ) -> int:
        with self._session.durable() as connection:
            changed = connection.execute(
                f"""with these as materialized (
                        select no from {self._table} where {matching}
                         order by no limit %(limit)s for update skip locked)
                    {statement}""",
                values,
            ).rowcount
            if changed:
                write_audit(connection, self._names, action, changed)
        return changed


def _matching(which: ScheduleFilter) -> str:
    return " and ".join(["true", *(_CONDITIONS[name] for name in which.given)])
