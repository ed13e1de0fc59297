"""Reading one lane of the log on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

from outbox.names import Names
from outbox.record import Mark, Page, Position, Record
from outbox.store.base import Lease
from outbox.store.sqlite_lanes import Era, condition, have_come_to, read_eras, take_over_held

if TYPE_CHECKING:
    import sqlite3

#: There are no batches here: seq alone never goes back, and a position is complete without them.
BATCH = 0

#: So many messages of other lanes let a cursor move without one of its own.
_PASS_OTHERS_AFTER = 1_000

_FOR_EVER = 2**63 - 1


def newest_seq(connection: sqlite3.Connection, names: Names) -> int:
    """Return the highest seq there is, 0 if there is none."""
    row = connection.execute(f"select coalesce(max(seq), 0) from {names['outbox_message']}")
    return cast("tuple[int]", row.fetchone())[0]


class SQLiteReader:
    """Reads one lane during one term."""

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[sqlite3.Connection]],
        names: Names,
        lease: Lease,
        eras: Sequence[Era],
    ) -> None:
        self._opened = opened
        self._names = names
        self._lease = lease
        self._eras = eras
        self._after = lease.position.seq
        self._sql = f"""
            select seq, id, topic, key, payload, type, content_type, headers, traceparent,
                   tracestate, expires_at <= (julianday('now') - 2440587.5) * 86400.0
              from {names["outbox_message"]} where seq > ? and seq <= ? and {{}}
             order by seq limit ?"""

    @property
    def ended(self) -> bool:
        """Return whether the stream is none of the log's any more, and nothing of it is left."""
        present = self._eras[-1]
        return self._after >= present.after_seq and self._lease.lane not in present.lanes.streams

    @property
    def nothing_at(self) -> None:
        """Return None: to read is as cheap as anything."""
        return

    @property
    def lanes_changed(self) -> bool:
        """Return whether lanes were ever changed: others may have held messages of our keys."""
        return len(self._eras) > 1

    def receive(self) -> None:
        """Do nothing: nothing is asked for ahead."""

    def read(self, max_rows: int, max_bytes: int) -> Page | None:
        """Return the next page, or None."""
        with self._opened() as connection:
            self._eras = read_eras(connection, self._names)
            era, last = self._era()
            if self.ended or not self._may_begin(connection, era):
                return None
            newest = min(last, newest_seq(connection, self._names))
            records = self._records(connection, era, newest, max_rows, max_bytes)
        if records:
            self._after = records[-1][0]
            mark = Mark(self._lease.log_id, BATCH, records[-1].id, self._after)
            return Page(BATCH, records, mark.position, mark.text)
        if newest == last or newest - self._after >= _PASS_OTHERS_AFTER:
            # Messages of other lanes are behind this one once its cursor has passed them.
            self._after = newest
        else:
            return None
        return Page(BATCH, records, Position(BATCH, self._after))

    def _era(self) -> tuple[Era, int]:
        """Return the lanes that hold at the position, and the last message for which they do."""
        era, last = self._eras[0], _FOR_EVER
        for later in self._eras[1:]:
            if later.after_seq > self._after:
                return era, later.after_seq
            era = later
        return era, last

    def _may_begin(self, connection: sqlite3.Connection, era: Era) -> bool:
        """Return whether the streams have come so far that this one must not overtake."""
        number = self._eras.index(era)
        if number == 0 or self._after > era.after_seq:
            return True
        earlier = self._eras[number - 1].lanes
        streams = era.lanes.predecessors(earlier, self._lease.lane)
        if not streams:
            return True
        if not have_come_to(connection, self._names, self._lease.relay, streams, era.after_seq):
            return False
        take_over_held(connection, self._names, self._lease, earlier, era.lanes)
        return True

    def _records(
        self, connection: sqlite3.Connection, era: Era, last: int, max_rows: int, max_bytes: int
    ) -> list[Record]:
        records: list[Record] = []
        weight = 0
        ours = condition(era.lanes, self._lease.lane)
        for row in connection.execute(self._sql.format(ours), (self._after, last, max_rows)):
            weight += len(row[4] or b"") + len(row[7] or "") + 200
            records.append(Record._make((*row, weight)))
            if weight >= max_bytes:
                break
        return records
