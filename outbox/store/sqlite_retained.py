"""The log as it is kept in a SQLite file."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from outbox.errors import ConfigurationError
from outbox.store.base import unknown_relay
from outbox.store.retained import (
    Entry,
    Facts,
    Label,
    Reach,
    Standing,
    identity,
    number_before,
)
from outbox.store.sqlite import SQLiteStore


class SQLiteRetainedLog(SQLiteStore):
    """Implements RetainedLog."""

    def facts(self) -> Facts:
        """Return the log's id, its retention, and the time."""
        (row,) = self._rows(f"select log_id, retention_s from {self._names['outbox_meta']}")
        return Facts(row[0], float(row[1]), time.time())

    def reach(self, relay: str) -> Reach:
        """Return how far a relay name is now."""
        rows = self._rows(
            f"""select cluster_id, after_seq, starts_at
                  from {self._names["outbox_cursor"]} where relay = ?""",
            relay,
        )
        if not rows:
            raise ConfigurationError(unknown_relay(relay))
        return Reach(relay, rows[0][0], rows[0][1:])

    def entries(self, reach: Reach, after: int, limit: int) -> list[Entry]:
        """Return the next messages behind the number `after`."""
        done, starts_at = reach.cursor
        rows = self._rows(
            f"""select m.seq, m.id, m.topic, m.key, m.payload is null, m.created_at,
                       case when m.created_at < ? then {Standing.EARLIER:d}
                            when m.seq > ? then {Standing.WAITING:d}
                            when exists (select 1 from {self._names["outbox_held"]} as h
                                          where h.relay = ? and h.seq = m.seq)
                            then {Standing.HELD:d} else {Standing.DELIVERED:d} end
                  from {self._names["outbox_message"]} as m
                 where m.seq > ? order by m.seq limit ?""",
            starts_at,
            done,
            reach.relay,
            after,
            limit,
        )
        return [Entry(row[0], identity(row[1]), *row[2:]) for row in rows]

    def labels(self, seqs: Collection[int]) -> dict[int, Label]:
        """Return what the messages of these numbers are called."""
        found: dict[int, Label] = {}
        for seq in seqs:  # a file has no round trips to save
            for id_, topic, key in self._rows(
                f"select id, topic, key from {self._names['outbox_message']} where seq = ?", seq
            ):
                found[seq] = Label(identity(id_), topic, key)
        return found

    def first_since(self, moment: float) -> int:
        """Return a number that all messages written at `moment` or later are above."""
        log = self._names["outbox_message"]
        ((lowest, highest),) = self._rows(f"select min(seq), max(seq) from {log}")
        if lowest is None:
            return 0

        def look(after: int) -> tuple[int, float] | None:
            found = self._rows(
                f"select seq, created_at from {log} where seq > ? order by seq limit 1", after
            )
            return found[0] if found else None

        return number_before(moment, lowest - 1, highest, look)

    def _rows(self, sql: str, *values: object) -> list[Any]:
        with self._translated() as connection:
            return connection.execute(sql, values).fetchall()
