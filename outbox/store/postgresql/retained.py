"""The log as it is kept on PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, cast

from outbox.errors import ConfigurationError, LogInconsistent
from outbox.record import Record
from outbox.store.base import unknown_relay
from outbox.store.postgresql.audit import write_audit
from outbox.store.postgresql.lanes import condition, has_sealed, read_topologies
from outbox.store.postgresql.session import BY_INDEX
from outbox.store.postgresql.store import PostgreSQLStore
from outbox.store.retained import (
    REMOVING_COMMANDS,
    Entry,
    Facts,
    Label,
    Match,
    Reach,
    Removal,
    Selection,
    Standing,
    number_before,
    removal,
)

if TYPE_CHECKING:
    from outbox.store.held import Action
    from outbox.store.lanes import Topology


_WEIGHT = "coalesce(octet_length(payload), 0) + coalesce(pg_column_size(headers), 0) + 200"

_NOT_EXPIRED = "(m.expires_at is null or m.expires_at > clock_timestamp())"

_CONDITIONS = {
    "since": "m.created_at >= to_timestamp(%(since)s)",
    "until": "m.created_at < to_timestamp(%(until)s)",
    "topics": "m.topic = any(%(topics)s::text[])",
    "keys": "m.key = any(%(keys)s::text[])",
    "types": "m.type = any(%(types)s::text[])",
    "ids": "m.id = any(%(ids)s::uuid[])",
}


#: What is known of a stream, as values of its conditions.
_REACHED = ("done", "last", "target", "sealed")


class PostgreSQLRetainedLog(PostgreSQLStore):
    """Implements RetainedLog."""

    def facts(self) -> Facts:
        """Return the log's id, its retention, and the time."""
        with self.session.translated() as connection:
            row = connection.execute(
                f"""select log_id::text, retention_s::float8,
                           extract(epoch from clock_timestamp())::float8
                      from {self._names["outbox_meta"]}"""
            ).fetchone()
        return Facts(*cast("tuple[str, float, float]", row))

    def reach(self, relay: str) -> Reach:
        """Return how far a relay name is now, on each of its streams."""
        with self.session.translated() as connection, connection.transaction():
            # One moment for all of them: lanes may be about to change.
            connection.execute("set transaction isolation level repeatable read")
            rows = connection.execute(self._reach_sql(), (relay,)).fetchall()
            if not rows:
                raise ConfigurationError(unknown_relay(relay))
            topologies = read_topologies(connection, self._names)
            names = [row[0] for row in rows]
            settled = has_sealed(connection, self._names, relay, names, topologies[-1].generation)
        if not all(row[-1] for row in rows):
            raise LogInconsistent(
                f"the cursor of relay {relay!r} was restored from a dump or copied, so nobody knows"
                " what it has delivered. Run `outbox-relay migrate --rebase`"
            )
        waiting = [
            _waiting(number, topologies, name if settled else None)
            for number, name in enumerate(names)
        ]
        values = {
            f"{column}_{number}": value
            for number, row in enumerate(rows)
            for column, value in zip(_REACHED, row[3:7], strict=True)
        }
        starts_at = max((row[2] for row in rows if row[2] is not None), default=None)
        cluster_id = next((row[1] for row in rows if row[1] is not None), None)
        return Reach(relay, cluster_id, (waiting, {**values, "starts_at": starts_at}))

    def _reach_sql(self) -> str:
        return f"""
            select c.lane, c.cluster_id, c.starts_at, c.after_seq, p.last::text, p.target::text,
                   (select s.target::text from {self._names["outbox_plan"]} as s
                     where s.relay = c.relay and s.lane = c.lane
                     order by s.plan_no desc limit 1),
                   c.xmin::text = (c.written_by::text::numeric %% 4294967296)::text
                     and p.last is not null
              from {self._names["outbox_cursor"]} as c
              left join {self._names["outbox_plan"]} as p using (relay, lane, plan_no)
             where c.relay = %s order by c.lane"""

    def entries(self, reach: Reach, after: int, limit: int) -> list[Entry]:
        """Return the next messages behind the number `after`."""
        with self.session.translated() as connection, connection.transaction():
            connection.execute(BY_INDEX)
            with connection.cursor(binary=True) as cursor:
                waiting, values = reach.cursor
                cursor.execute(
                    f"""select m.seq, uuid_send(m.id), m.topic, m.key, m.payload is null,
                               extract(epoch from m.created_at)::float8,
                               {self._standing(waiting)}, m.lane
                          from {self._names["outbox_message"]} as m
                         where m.seq > %(after)s::bigint order by m.seq limit %(limit)s::bigint""",
                    {"relay": reach.relay, "after": after, "limit": limit, **values},
                )
                return [Entry._make(row) for row in cursor]

    def _standing(self, waiting: Sequence[str]) -> str:
        """Return how the message m stands with a relay name, as SQL with a reach's values.

        It waits if any stream has it still to deliver.
        """
        held = f"""select case h.state when 'expired' then {Standing.EXPIRED:d}
                                       else {Standing.HELD:d} end
                     from {self._names["outbox_held"]} as h
                    where h.relay = %(relay)s and h.seq = m.seq"""
        return f"""
            case when m.created_at < %(starts_at)s::timestamptz then {Standing.EARLIER:d}
                 when {" or ".join(waiting)} then {Standing.WAITING:d}
                 else coalesce(({held}), {Standing.DELIVERED:d}) end"""

    def matching(
        self, reach: Reach, selection: Selection, after: int, limit: int
    ) -> tuple[list[Match], int | None]:
        """Look at the next `limit` messages behind the number `after`."""
        waiting, reached = reach.cursor
        conditions = [f"{self._standing(waiting)} = {Standing.DELIVERED:d}"]
        conditions += [_NOT_EXPIRED, *(_CONDITIONS[name] for name in selection.given)]
        values = {"relay": reach.relay, "after": after, "limit": limit, **reached}
        values |= {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in selection.given.items()
        }
        with self.session.translated() as connection, connection.transaction():
            connection.execute(BY_INDEX)
            rows = connection.execute(
                f"""with m as materialized (
                        select seq, xid, created_at, expires_at, id, topic, key, type, lane,
                               {_WEIGHT} as weight
                          from {self._names["outbox_message"]}
                         where seq > %(after)s::bigint order by seq limit %(limit)s::bigint)
                    select seq, topic, weight from m where {" and ".join(conditions)}
                    union all select max(seq), null, null from m order by 1, 2 nulls last""",
                values,
            ).fetchall()
        return [Match(*row) for row in rows if row[1] is not None], rows[-1][0]

    def records(self, seqs: Sequence[int]) -> list[Record]:
        """Return messages whole, in order of seq."""
        with self.session.translated() as connection, connection.transaction():
            connection.execute(BY_INDEX)
            with connection.cursor(binary=True) as cursor:
                cursor.execute(
                    f"""select seq, id::text, topic, key, payload, type, content_type,
                               headers::text, traceparent, tracestate, null, 0
                          from {self._names["outbox_message"]} where seq = any(%s::bigint[])
                         order by seq""",
                    (list(seqs),),
                )
                return [Record._make(row) for row in cursor]

    def note(self, action: Action, messages: int) -> None:
        """Note in the audit what is done to so many messages."""
        with self.session.durable() as connection:
            write_audit(connection, self._names, action, messages)

    def removals(self, relay: str, after: int, limit: int) -> tuple[list[Removal], int | None]:
        """Return what operators have removed of a relay name's messages."""
        with self.session.translated() as connection:
            rows = connection.execute(
                f"""select a.id, a.command, a.what from {self._names["outbox_audit"]} as a
                     where a.id > %(after)s and a.command = any(%(commands)s)
                       and a.what ->> 'relay' = %(relay)s
                     order by a.id limit %(limit)s""",
                {
                    "after": after,
                    "commands": list(REMOVING_COMMANDS),
                    "relay": relay,
                    "limit": limit,
                },
            ).fetchall()
        found = [removal(command, what) for _, command, what in rows]
        return found, rows[-1][0] if len(rows) == limit else None

    def topologies(self) -> list[Topology]:
        """Return the lanes there have been, the present ones last."""
        with self.session.translated() as connection:
            return read_topologies(connection, self._names)

    def labels(self, seqs: Collection[int]) -> dict[int, Label]:
        """Return what the messages of these numbers are called."""
        with self.session.translated() as connection, connection.transaction():
            connection.execute(BY_INDEX)
            with connection.cursor(binary=True) as cursor:
                cursor.execute(
                    f"""select seq, uuid_send(id), topic, key
                          from {self._names["outbox_message"]} where seq = any(%s::bigint[])""",
                    (list(seqs),),
                )
                return {seq: Label(*rest) for seq, *rest in cursor}

    def first_since(self, moment: float) -> int:
        """Return a number that all messages written at `moment` or later are above."""
        log = self._names["outbox_message"]
        with self.session.translated() as connection, connection.transaction():
            connection.execute(BY_INDEX)
            row = connection.execute(
                f"""select coalesce((select seq from {log} order by seq limit 1), 1) - 1,
                           coalesce((select seq from {log} order by seq desc limit 1), 0)"""
            ).fetchone()
            lowest, highest = cast("tuple[int, int]", row)

            def look(after: int) -> tuple[int, float] | None:
                found = connection.execute(
                    f"""select seq, extract(epoch from created_at)::float8 from {log}
                         where seq > %s::bigint order by seq limit 1""",
                    (after,),
                ).fetchone()
                return cast("tuple[int, float] | None", found)

            return number_before(moment, lowest, highest, look)


def _waiting(number: int, topologies: Sequence[Topology], stream: str | None) -> str:
    """Return the condition of what a stream has still to deliver of the message m.

    `stream` None: as long as lanes are changing it is not certain whose a message is, so it waits
    for all of them.
    """
    terms = [
        f"""not (pg_visible_in_snapshot(m.xid, %(last_{number})s::pg_snapshot)
                 or (m.seq <= %(done_{number})s::bigint
                     and pg_visible_in_snapshot(m.xid, %(target_{number})s::pg_snapshot)))"""
    ]
    if stream is not None:
        terms.append(_belongs(number, topologies, stream))
    return f"({' and '.join(terms)})"


def _belongs(number: int, topologies: Sequence[Topology], stream: str) -> str:
    """Return the condition of the rows that are a stream's; of a former one what is in its seal."""
    known = next((each for each in reversed(topologies) if stream in each.streams), None)
    if known is None:
        return "false"
    rows = condition(known.selection(stream), "m") or "true"
    if known is topologies[-1]:
        return rows
    return f"{rows} and pg_visible_in_snapshot(m.xid, %(sealed_{number})s::pg_snapshot)"
