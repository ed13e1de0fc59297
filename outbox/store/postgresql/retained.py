"""The log as it is kept on PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from outbox.errors import ConfigurationError, LogInconsistent
from outbox.store.base import unknown_relay
from outbox.store.postgresql.session import BY_INDEX
from outbox.store.postgresql.store import PostgreSQLStore
from outbox.store.retained import Entry, Facts, Label, Reach, Standing, number_before


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
        """Return how far a relay name is now."""
        with self.session.translated() as connection:
            rows = connection.execute(
                f"""select c.cluster_id, c.starts_at, c.after_seq, p.last::text, p.target::text,
                           c.xmin::text = (c.written_by::text::numeric %% 4294967296)::text
                             and p.last is not null
                      from {self._names["outbox_cursor"]} as c
                      left join {self._names["outbox_plan"]} as p using (relay, lane, plan_no)
                     where c.relay = %s order by c.lane""",
                (relay,),
            ).fetchall()
        if not rows:
            raise ConfigurationError(unknown_relay(relay))
        cluster_id, starts_at, after_seq, last, target, native = rows[0]
        if not native:
            raise LogInconsistent(
                f"the cursor of relay {relay!r} was restored from a dump or copied, so nobody knows"
                " what it has delivered. Run `outbox-relay migrate --rebase`"
            )
        cursor = {"last": last, "target": target, "done": after_seq, "starts_at": starts_at}
        return Reach(relay, cluster_id, cursor)

    def entries(self, reach: Reach, after: int, limit: int) -> list[Entry]:
        """Return the next messages behind the number `after`."""
        with self.session.translated() as connection, connection.transaction():
            connection.execute(BY_INDEX)
            with connection.cursor(binary=True) as cursor:
                cursor.execute(
                    self._entries_sql(),
                    {"relay": reach.relay, "after": after, "limit": limit, **reach.cursor},
                )
                return [Entry._make(row) for row in cursor]

    def _entries_sql(self) -> str:
        held = f"""exists (select from {self._names["outbox_held"]} as h
                            where h.relay = %(relay)s and h.seq = m.seq)"""
        delivered = """pg_visible_in_snapshot(m.xid, %(last)s::pg_snapshot)
                       or (m.seq <= %(done)s::bigint
                           and pg_visible_in_snapshot(m.xid, %(target)s::pg_snapshot))"""
        return f"""
            select m.seq, uuid_send(m.id), m.topic, m.key, m.payload is null,
                   extract(epoch from m.created_at)::float8,
                   case when m.created_at < %(starts_at)s::timestamptz then {Standing.EARLIER:d}
                        when not ({delivered}) then {Standing.WAITING:d}
                        when {held} then {Standing.HELD:d}
                        else {Standing.DELIVERED:d} end
              from {self._names["outbox_message"]} as m
             where m.seq > %(after)s::bigint order by m.seq limit %(limit)s::bigint"""

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
