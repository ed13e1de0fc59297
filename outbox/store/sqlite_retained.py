"""The log as it is kept in a SQLite file."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from outbox.errors import ConfigurationError
from outbox.record import Record
from outbox.store.base import unknown_relay
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
    identity,
    number_before,
    removal,
)
from outbox.store.sqlite import SQLiteStore
from outbox.store.sqlite_audit import write_audit
from outbox.store.sqlite_lanes import condition, read_eras

if TYPE_CHECKING:
    from outbox.store.held import Action
    from outbox.store.lanes import Topology


class SQLiteRetainedLog(SQLiteStore):
    """Implements RetainedLog."""

    def facts(self) -> Facts:
        """Return the log's id, its retention, and the time."""
        (row,) = self._rows(f"select log_id, retention_s from {self._names['outbox_meta']}")
        return Facts(row[0], float(row[1]), time.time())

    def reach(self, relay: str) -> Reach:
        """Return how far a relay name is now, on each of its lanes."""
        rows = self._rows(
            f"""select lane, after_seq, cluster_id, starts_at
                  from {self._names["outbox_cursor"]} where relay = ? order by lane""",
            (relay,),
        )
        if not rows:
            raise ConfigurationError(unknown_relay(relay))
        with self._translated() as connection:
            present = read_eras(connection, self._names)[-1]
        waiting = [
            f"m.seq > {after} and {condition(present.lanes, lane)}" for lane, after, *_ in rows
        ]
        if any(after < present.after_seq for _, after, *_ in rows):
            # As long as lanes are changing it is not certain whose a message is.
            waiting = [f"m.seq > {min(after for _, after, *_ in rows)}"]
        starts_at = max((row[3] for row in rows if row[3] is not None), default=None)
        cluster_id = next((row[2] for row in rows if row[2] is not None), None)
        return Reach(relay, cluster_id, (" or ".join(f"({each})" for each in waiting), starts_at))

    def entries(self, reach: Reach, after: int, limit: int) -> list[Entry]:
        """Return the next messages behind the number `after`."""
        rows = self._rows(
            f"""select m.seq, m.id, m.topic, m.key, m.payload is null, m.created_at,
                       {self._standing(reach)}, m.lane
                  from {self._names["outbox_message"]} as m
                 where m.seq > :after order by m.seq limit :limit""",
            {**_values(reach), "after": after, "limit": limit},
        )
        return [Entry(row[0], identity(row[1]), *row[2:]) for row in rows]

    def _standing(self, reach: Reach) -> str:
        """Return how the message m stands with a relay name, as SQL with a reach's values."""
        waiting, _ = reach.cursor
        return f"""
            case when m.created_at < :starts_at then {Standing.EARLIER:d}
                 when {waiting} then {Standing.WAITING:d}
                 else coalesce((select case h.state when 'expired' then {Standing.EXPIRED:d}
                                                    else {Standing.HELD:d} end
                                  from {self._names["outbox_held"]} as h
                                 where h.relay = :relay and h.seq = m.seq),
                               {Standing.DELIVERED:d}) end"""

    def matching(
        self, reach: Reach, selection: Selection, after: int, limit: int
    ) -> tuple[list[Match], int | None]:
        """Look at the next `limit` messages behind the number `after`."""
        values: dict[str, object] = {**_values(reach), "after": after, "limit": limit}
        values["now"] = time.time()
        conditions = [
            f"{self._standing(reach)} = {Standing.DELIVERED:d}",
            "(m.expires_at is null or m.expires_at > :now)",
        ]
        for name, value in selection.given.items():
            conditions.append(_CONDITIONS[name])
            values[name] = json.dumps(value) if isinstance(value, tuple) else value
        page = f"""select seq, created_at, expires_at, id, topic, key, type, lane,
                          {_WEIGHT} as weight
                     from {self._names["outbox_message"]}
                    where seq > :after order by seq limit :limit"""
        ((scanned,),) = self._rows(f"select max(seq) from ({page})", values)
        rows = self._rows(
            f"select seq, topic, weight from ({page}) as m where {' and '.join(conditions)}", values
        )
        return [Match(*row) for row in rows], scanned

    def records(self, seqs: Sequence[int]) -> list[Record]:
        """Return messages whole, in order of seq."""
        rows = self._rows(
            f"""select seq, id, topic, key, payload, type, content_type, headers, traceparent,
                       tracestate, null, 0
                  from {self._names["outbox_message"]}
                 where seq in (select value from json_each(?)) order by seq""",
            (json.dumps(list(seqs)),),
        )
        return [Record._make(row) for row in rows]

    def note(self, action: Action, messages: int) -> None:
        """Note in the audit what is done to so many messages."""
        with self._transaction() as connection:
            write_audit(connection, self._names, action, messages)

    def removals(self, relay: str, after: int, limit: int) -> tuple[list[Removal], int | None]:
        """Return what operators have removed of a relay name's messages."""
        rows = self._rows(
            f"""select a.id, a.command, a.what
                  from {self._names["outbox_audit"]} as a
                 where a.id > :after
                   and a.command in (select value from json_each(:commands))
                   and json_extract(a.what, '$.relay') = :relay
                 order by a.id limit :limit""",
            {
                "after": after,
                "commands": json.dumps(list(REMOVING_COMMANDS)),
                "relay": relay,
                "limit": limit,
            },
        )
        found = [removal(command, json.loads(what)) for _, command, what in rows]
        return found, rows[-1][0] if len(rows) == limit else None

    def topologies(self) -> list[Topology]:
        """Return the lanes there have been, the present ones last."""
        with self._translated() as connection:
            return [era.lanes for era in read_eras(connection, self._names)]

    def labels(self, seqs: Collection[int]) -> dict[int, Label]:
        """Return what the messages of these numbers are called."""
        found: dict[int, Label] = {}
        for seq in seqs:  # a file has no round trips to save
            for id_, topic, key in self._rows(
                f"select id, topic, key from {self._names['outbox_message']} where seq = ?", (seq,)
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
                f"select seq, created_at from {log} where seq > ? order by seq limit 1", (after,)
            )
            return found[0] if found else None

        return number_before(moment, lowest - 1, highest, look)

    def _rows(self, sql: str, values: Any = ()) -> list[Any]:
        with self._translated() as connection:
            return connection.execute(sql, values).fetchall()


def _values(reach: Reach) -> dict[str, object]:
    _, starts_at = reach.cursor
    return {"relay": reach.relay, "starts_at": starts_at}


_WEIGHT = "coalesce(length(payload), 0) + coalesce(length(headers), 0) + 200"

_CONDITIONS = {
    "since": "m.created_at >= :since",
    "until": "m.created_at < :until",
    "topics": "m.topic in (select value from json_each(:topics))",
    "keys": "m.key in (select value from json_each(:keys))",
    "types": "m.type in (select value from json_each(:types))",
    "ids": "m.id in (select value from json_each(:ids))",
}
