"""Messages that cannot be sent now, on SQLite: what a relay does with them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from outbox.errors import LogInconsistent
from outbox.headers import EDITED_FROM
from outbox.names import Names
from outbox.record import Position, Record
from outbox.store.base import Lease
from outbox.store.held import HeldRecord, Hold, Outlook, Place, declared_lane, places_of

_COPIED = (
    "created_at, id, topic, key, payload, type, content_type, headers, traceparent, tracestate, "
    "expires_at, key_id"
)
_RECORD = "seq, id, topic, key, payload, type, content_type, headers, traceparent, tracestate"


Opening: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]


class SQLiteHeld:
    """Implements HeldStore, on the connection of a store.

    `transaction` opens one that may write; `reading` none; `save` moves the cursor.
    """

    def __init__(
        self,
        names: Names,
        transaction: Opening,
        reading: Opening,
        save: Callable[[Lease, Position, float], None],
    ) -> None:
        self._transaction = transaction
        self._reading = reading
        self._save = save
        self._log = names["outbox_message"]
        self._held = names["outbox_held"]
        self._lanes = names["outbox_lane"]

    # Writing

    def hold(self, lease: Lease, position: Position, lease_s: float, holds: Sequence[Hold]) -> None:
        """Copy messages of the log, and move the cursor."""
        with self._moving(lease, position, lease_s) as connection:
            for hold in holds:
                copied = connection.execute(
                    f"""insert into {self._held} (relay, lane, seq, {_COPIED}, state, blocks,
                               attempts, next_attempt_at, fault, error, held_at)
                        select ?, ?, seq, {_COPIED}, ?, ?, ?, ?, ?, ?, ? from {self._log}
                         where seq = ? on conflict (relay, seq) do nothing""",
                    (*_whose(lease), *_values(hold), time.time(), hold.seq),
                ).rowcount
                if not copied:
                    self._check_copy(connection, lease, hold.seq)
            blocked = [hold.seq for hold in holds if hold.state == "blocked"]
            self._promote(connection, lease, self._places(connection, lease, blocked))

    def _check_copy(self, connection: sqlite3.Connection, lease: Lease, seq: int) -> None:
        """Raise unless what was held before is the same message: after a crash it may be."""
        same = connection.execute(
            f"""select 1 from {self._held} as h join {self._log} as m using (seq)
                 where h.relay = ? and seq = ?
                   and (h.id = m.id or exists (select 1 from json_each(h.headers)
                                                where value = json_array(?, m.id)))""",
            (lease.relay, seq, EDITED_FROM),
        ).fetchone()
        if same is None:
            raise LogInconsistent(
                f"held message {seq} has the number of another message of the log: the file was "
                "restored or its sequence was reset"
            )

    def _places(
        self, connection: sqlite3.Connection, lease: Lease, seqs: Iterable[int]
    ) -> set[Place]:
        query = f"select topic, key from {self._held} where relay = ? and seq = ?"
        return places_of(
            row for seq in seqs for row in connection.execute(query, (lease.relay, seq))
        )

    def settle(
        self,
        lease: Lease,
        position: Position,
        lease_s: float,
        delivered: Sequence[int],
        failed: Sequence[Hold],
    ) -> set[Place]:
        """Drop what was delivered, note what failed, and let the next of each key come."""
        with self._moving(lease, position, lease_s) as connection:
            touched = [*delivered, *(hold.seq for hold in failed)]
            places = self._places(connection, lease, touched)
            connection.executemany(
                f"delete from {self._held} where relay = ? and seq = ?",
                [(lease.relay, seq) for seq in delivered],
            )
            connection.executemany(
                f"""update {self._held}
                       set state = ?, blocks = ?, attempts = ?, next_attempt_at = ?, fault = ?,
                           error = ?, changed_at = ? where relay = ? and seq = ?""",
                [(*_values(hold), time.time(), lease.relay, hold.seq) for hold in failed],
            )
            return self._promote(connection, lease, places)

    def _promote(
        self, connection: sqlite3.Connection, lease: Lease, places: Iterable[Place]
    ) -> set[Place]:
        """Give each of these keys a head if it has none; return those with nothing left."""
        free = set()
        for place in places:
            if promote(connection, self._held, (*_whose(lease), *place)):
                free.add(place)
        return free

    def wake(self, lease: Lease, topic: str, limit: int) -> int:
        """Let messages that wait for a topic be due now."""
        with self._transaction() as connection:
            return connection.execute(
                f"""update {self._held} set next_attempt_at = ?, changed_at = ?, fault = null
                     where relay = ? and seq in (
                        select seq from {self._held} where {_WAITING} and topic = ?
                         order by seq limit ?)""",
                (time.time(), time.time(), lease.relay, *_whose(lease), topic, limit),
            ).rowcount

    def mend(self, lease: Lease, after: Place | None, limit: int) -> Place | None:
        """Give keys a head again that lost theirs."""
        with self._transaction() as connection:
            rows = connection.execute(
                f"""select distinct topic, key from {self._held}
                     where relay = ? and lane = ? and state = 'blocked' and (topic, key) > (?, ?)
                     order by topic, key limit ?""",
                (*_whose(lease), *(after or ("", "")), limit),
            ).fetchall()
            self._promote(connection, lease, places_of(rows))
        return (rows[-1][0], rows[-1][1]) if len(rows) == limit else None

    # Reading

    def stopped_keys(self, lease: Lease, limit: int) -> set[Place] | None:
        """Return the keys that have a head; None where there are too many."""
        with self._reading() as connection:
            rows = connection.execute(
                f"""select topic, key from {self._held}
                     where relay = ? and lane = ? and blocks and state <> 'blocked' limit ?""",
                (*_whose(lease), limit + 1),
            ).fetchall()
        return None if len(rows) > limit else places_of(rows)

    def may_be_shared(self, lease: Lease) -> bool:  # noqa: ARG002 - the seam's signature
        """Return whether lanes were ever changed."""
        with self._reading() as connection:
            (changed,) = connection.execute(f"select count(*) > 1 from {self._lanes}").fetchone()
        return bool(changed)

    def stopped_among(self, lease: Lease, places: Collection[Place]) -> set[Place]:
        """Return those of these keys that have a head."""
        with self._reading() as connection:
            return {p for p in places if has_head(connection, self._held, (*_whose(lease), *p))}

    def waiting_topics(self, lease: Lease) -> list[str]:
        """Return the topics that are waited for, going from one to the next by the index."""
        topics: list[str] = []
        query = f"select min(topic) from {self._held} where {_WAITING} and topic > ?"
        with self._reading() as connection:
            while True:
                after = topics[-1] if topics else ""
                (topic,) = connection.execute(query, (*_whose(lease), after)).fetchone()
                if topic is None:
                    return topics
                topics.append(topic)

    def outlook(self, lease: Lease) -> Outlook:
        """Return what there is to expect."""
        with self._reading() as connection:
            (anything,) = connection.execute(
                f"select exists (select 1 from {self._held} where relay = ?)", (lease.relay,)
            ).fetchone()
            (due_at,) = connection.execute(
                f"""select min(next_attempt_at) from {self._held}
                     where relay = ? and lane = ? and next_attempt_at is not null""",
                _whose(lease),
            ).fetchone()
        return Outlook(bool(anything), None if due_at is None else due_at - time.time())

    def due(self, lease: Lease, limit: int, max_bytes: int) -> list[HeldRecord]:
        """Return what is due, the longest overdue first."""
        condition = "next_attempt_at is not null and next_attempt_at <= ?"
        return self._records(
            condition, "next_attempt_at, seq", lease, (time.time(),), limit, max_bytes
        )

    def first_waiting(self, lease: Lease, topic: str) -> HeldRecord | None:
        """Return the first message that waits for its topic."""
        condition = "state = 'retrying' and next_attempt_at is null and topic = ?"
        found = self._records(condition, "seq", lease, (topic,), 1, 1)
        return found[0] if found else None

    def behind(self, lease: Lease, place: Place, limit: int, max_bytes: int) -> list[HeldRecord]:
        """Return the first of the messages that are blocked behind a head."""
        condition = "topic = ? and key = ? and state = 'blocked'"
        return self._records(condition, "seq", lease, place, limit, max_bytes)

    def _records(
        self,
        condition: str,
        order: str,
        lease: Lease,
        values: Sequence[object],
        limit: int,
        max_bytes: int,
    ) -> list[HeldRecord]:
        """Return at most `limit` messages, and no more once they weigh `max_bytes`."""
        found: list[HeldRecord] = []
        weight = 0
        with self._reading() as connection:
            for row in connection.execute(
                f"""select {_RECORD}, expires_at <= ?, attempts, ? - held_at, blocks
                      from {self._held}
                     where relay = ? and lane = ? and {condition} order by {order} limit ?""",
                (time.time(), time.time(), *_whose(lease), *values, limit),
            ):
                weight += len(row[4] or b"") + len(row[7] or "") + 200
                expired, attempts, age_s, blocks = row[10:]
                record = Record._make((*row[:10], expired, weight))
                found.append(HeldRecord(record, attempts, age_s, bool(blocks)))
                if weight >= max_bytes:
                    break
        return found

    @contextmanager
    def _moving(
        self, lease: Lease, position: Position, lease_s: float
    ) -> Iterator[sqlite3.Connection]:
        with self._transaction() as connection:
            self._save(lease, position, lease_s)
            yield connection


_WAITING = "relay = ? and lane = ? and state = 'retrying' and next_attempt_at is null"


def has_head(connection: sqlite3.Connection, held: str, values: tuple[str, str, str, str]) -> bool:
    """Return whether a key is stopped. `values`: relay, lane, topic, key."""
    row = connection.execute(
        f"""select 1 from {held} where relay = ? and lane = ? and topic = ? and key = ?
               and blocks and state <> 'blocked' limit 1""",
        values,
    ).fetchone()
    return row is not None


def promote_keys(
    connection: sqlite3.Connection, names: Names, relay: str, lane: str, places: Collection[Place]
) -> None:
    """Give keys a head that have none, in the transaction that is open."""
    for place in places:
        promote(connection, names["outbox_held"], (relay, lane, *place))


def promote(connection: sqlite3.Connection, held: str, values: tuple[str, str, str, str]) -> bool:
    """Give a key a head if it has none; return whether nothing of it is left."""
    if has_head(connection, held, values):
        return False
    promoted = connection.execute(
        f"""update {held} set state = 'retrying', next_attempt_at = ?, changed_at = ?
             where relay = ? and seq = (
                select seq from {held} where relay = ? and lane = ? and topic = ? and key = ?
                   and state = 'blocked' order by seq limit 1)""",
        (time.time(), time.time(), values[0], *values),
    ).rowcount
    return not promoted


def _whose(lease: Lease) -> tuple[str, str]:
    return lease.relay, declared_lane(lease.lane)


def _values(hold: Hold) -> tuple[object, ...]:
    due_at = None if hold.delay_s is None else time.time() + hold.delay_s
    return hold.state, hold.blocks, hold.attempts, due_at, hold.fault, hold.error
