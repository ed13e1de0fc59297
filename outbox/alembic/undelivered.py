"""Which messages would be lost with the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from outbox.alembic.place import MigrationRefused
from outbox.schema.streams import is_changing, stream

if TYPE_CHECKING:
    from outbox.database import Dialect
    from outbox.names import Names
    from outbox.schema.bridge import Bridge

#: Enough to say "many": counting millions would keep the log locked for nothing.
_ENOUGH = 1000


def count_undelivered(bridge: Bridge, dialect: Dialect, names: Names) -> str | None:
    """Return how many messages some relay name has not delivered, None if there are none.

    Those that wait for a time or a condition count too, and those that could not be sent. On
    PostgreSQL nobody can write to the log from here to the end of the transaction.
    """
    if dialect == "postgresql":
        bridge.execute(_lock(names))
    rows = bridge.execute(f"select count(*) from ({_undelivered(dialect, names)}) as m")
    count = cast("int", rows[0][0])
    return f"{count} or more" if count >= _ENOUGH else str(count or "") or None


def guard(dialect: Dialect, names: Names) -> str:
    """Return a statement that fails where messages would be lost."""
    if dialect == "sqlite":
        raise MigrationRefused(
            "whether messages would be lost cannot be asked in a printed script for SQLite; say "
            "op.drop_outbox(force=True), or run the downgrade online"
        )
    return (
        f"do $$ begin {_lock(names)}; if exists ({_undelivered(dialect, names)}) then "
        "raise exception 'messages in the log are not delivered yet and would be lost with it; let "
        "`outbox-relay run --drain` deliver them, or say op.drop_outbox(force=True)'; "
        "end if; end $$"
    )


def _lock(names: Names) -> str:
    tables = f"{names['outbox_message']}, {names['outbox_scheduled']}"
    return f"lock table {tables} in access exclusive mode"


def _undelivered(dialect: Dialect, names: Names) -> str:
    log, cursor = names["outbox_message"], names["outbox_cursor"]
    beside = " union all ".join(
        f"select 1 from {names[table]}" for table in ("outbox_scheduled", "outbox_held")
    )
    waiting = _on_sqlite(names) if dialect == "sqlite" else _on_postgresql(names)
    return f"""select 1 from {log} as m
                where not exists (select 1 from {cursor}) or {waiting}
                union all {beside} limit {_ENOUGH}"""


def _on_sqlite(names: Names) -> str:
    """Return the condition of messages that some relay name has not delivered.

    Of a lane that was removed there is no cursor once all of it is delivered.
    """
    cursor, lanes = names["outbox_cursor"], names["outbox_lane"]
    return f"""exists (
        select 1 from (select distinct relay from {cursor}) as r
          left join {cursor} as c
            on c.relay = r.relay
           and c.lane = coalesce(
                   (select l.lane from {lanes} as l
                     where l.lane = m.lane
                       and l.generation = (select max(g.generation) from {lanes} as g
                                            where g.after_seq < m.seq)), 'default')
         where c.after_seq < m.seq
            or (c.relay is null and m.seq > (select max(g.after_seq) from {lanes} as g)))"""


def _on_postgresql(names: Names) -> str:
    """Return the same. Each message is asked of the stream it belongs to; of all streams, while it
    is not certain which that is. A cursor whose plan is missing has delivered nothing."""
    cursor = names["outbox_cursor"]
    return f"""exists (
        select from (select relay, {is_changing(names, "d.relay")} as is_changing
                       from (select distinct relay from {cursor}) as d) as r
          left join {cursor} as c
            on c.relay = r.relay and (r.is_changing or c.lane = {stream(names, "m")})
          left join {names["outbox_plan"]} as p
            on p.relay = c.relay and p.lane = c.lane and p.plan_no = c.plan_no
         where p.plan_no is null
            or not (pg_visible_in_snapshot(m.xid, p.last)
                    or (pg_visible_in_snapshot(m.xid, p.target) and m.seq <= c.after_seq)))"""
