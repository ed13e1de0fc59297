"""Messages that cannot be sent now, on PostgreSQL: what a relay does with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import psycopg

from outbox.errors import LogInconsistent
from outbox.headers import EDITED_FROM
from outbox.names import Names
from outbox.record import Position, Record
from outbox.schema.streams import is_changing, shard_number
from outbox.store.base import Lease
from outbox.store.held import HeldRecord, Hold, Outlook, Place, declared_lane, places_of, shard_of
from outbox.store.postgresql.session import BY_INDEX, Session

_COPIED = (
    "created_at, id, topic, key, payload, type, content_type, headers, traceparent, tracestate, "
    "expires_at, key_id"
)
_RECORD = (
    "seq, id::text, topic, key, payload, type, content_type, headers::text, traceparent, tracestate"
)
_WEIGHT = "coalesce(octet_length(payload), 0) + coalesce(pg_column_size(headers), 0) + 200"

#: What both the indexes and the queries say of a message that stops its key.
HEAD = "blocks and state <> 'blocked'"


class Owner(Protocol):
    """The store that the cursor belongs to."""

    @property
    def session(self) -> Session:
        """The open session."""

    def save(self, lease: Lease, position: Position, lease_s: float) -> None:
        """Move the cursor."""


class PostgreSQLHeld:
    """Implements HeldStore, on the connection of a store."""

    def __init__(self, store: Owner, names: Names) -> None:
        self._store = store
        self._names = names
        self._held = names["outbox_held"]
        # Each stream has its own keys, by the number of shards that there are now.
        shards = f"""coalesce((select shards from {names["outbox_lane"]} where lane = %(lane)s
                                order by generation desc limit 1), 1)"""
        self._ours = f"""relay = %(relay)s and lane = %(lane)s
            and case when %(shard)s::int is null then {shards} = 1
                     else {shards} > 1 and {shard_number()} %% {shards} = %(shard)s::int end"""
        # While that number changes nobody tries them again: a stream of before may be about to hold
        # more messages of the same keys, and would not see that the one before them has gone.
        self._mine = f"""{self._ours}
            and not {is_changing(names, "%(relay)s", "%(lane)s")}"""

    # Writing

    def hold(self, lease: Lease, position: Position, lease_s: float, holds: Sequence[Hold]) -> None:
        """Copy messages of the log, and move the cursor."""
        with self._moving(lease, position, lease_s) as connection:
            values = {**_whose(lease), **_columns(holds)}
            copied = connection.execute(self._copy(), values).rowcount
            if copied < len(holds):
                self._check_copies(connection, values, len(holds))
            blocked = [hold.seq for hold in holds if hold.state == "blocked"]
            if blocked:
                self._promote(connection, lease, self._places(connection, lease, blocked))

    def _copy(self) -> str:
        return f"""
            insert into {self._held} (relay, lane, seq, {_COPIED}, state, blocks, attempts,
                                      next_attempt_at, fault, error)
            select %(relay)s, %(lane)s, m.seq, {", ".join("m." + c for c in _COPIED.split(", "))},
                   h.state, h.blocks, h.attempts,
                   clock_timestamp() + make_interval(secs => h.delay_s), h.fault, h.error
              from {_UNNESTED}
             cross join lateral (
                select * from {self._names["outbox_message"]} as l
                 where l.seq = h.seq offset 0) as m
                on conflict (relay, seq) do nothing"""

    def _check_copies(
        self, connection: psycopg.Connection, values: dict[str, object], count: int
    ) -> None:
        """Raise unless what was held before is the same messages: after a crash it may be."""
        row = connection.execute(
            f"""select count(*) from {self._held} as h
                 cross join lateral (
                    select id from {self._names["outbox_message"]} as m
                     where m.seq = h.seq offset 0) as m
                 where h.relay = %(relay)s and h.seq = any(%(seq)s::bigint[])
                   and (h.id = m.id
                        or h.headers @> jsonb_build_array(
                               jsonb_build_array(%(edited_from)s::text, m.id::text)))""",
            {**values, "edited_from": EDITED_FROM},
        ).fetchone()
        if row != (count,):
            raise LogInconsistent(
                "a held message has the number of another message of the log: the sequence was "
                "reset. Stop the relays and run `outbox-relay migrate --rebase`"
            )

    def _places(
        self, connection: psycopg.Connection, lease: Lease, seqs: Sequence[int]
    ) -> set[Place]:
        return places_of(
            connection.execute(
                f"select distinct topic, key from {self._held} where relay = %s and seq = any(%s)",
                (lease.relay, list(seqs)),
            ).fetchall()
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
            gone = connection.execute(
                f"""delete from {self._held} where relay = %s and seq = any(%s::bigint[])
                    returning topic, key""",
                (lease.relay, list(delivered)),
            ).fetchall()
            places = places_of(gone)
            if failed:
                places |= self._note_failures(connection, lease, failed)
            return self._promote(connection, lease, places)

    def _note_failures(
        self, connection: psycopg.Connection, lease: Lease, failed: Sequence[Hold]
    ) -> set[Place]:
        rows = connection.execute(
            f"""update {self._held} as held
                   set state = h.state, blocks = h.blocks, attempts = h.attempts, fault = h.fault,
                       next_attempt_at = clock_timestamp() + make_interval(secs => h.delay_s),
                       error = h.error, changed_at = clock_timestamp()
                  from {_UNNESTED}
                 where held.relay = %(relay)s and held.seq = h.seq
                returning held.topic, held.key""",
            {**_whose(lease), **_columns(failed)},
        ).fetchall()
        return places_of(rows)

    def _promote(
        self, connection: psycopg.Connection, lease: Lease, places: Collection[Place]
    ) -> set[Place]:
        """Give each of these keys a head if it has none; return those with nothing left."""
        if not places:
            return set()
        values = {**_whose(lease), **_pairs(places)}
        connection.execute(promotion(self._held), values)
        rows = connection.execute(
            f"select k.topic, k.key from {PAIRS} where {_headless(self._held)}",
            values,
        ).fetchall()
        return places_of(rows)

    def wake(self, lease: Lease, topic: str, limit: int) -> int:
        """Let messages that wait for a topic be due now."""
        with self._reading() as connection:
            return connection.execute(
                f"""update {self._held} as h
                       set next_attempt_at = clock_timestamp(), fault = null,
                           changed_at = clock_timestamp()
                      from (select seq from {self._held}
                             where {self._ours} and {_WAITING} and topic = %(topic)s
                             order by seq limit %(limit)s) as w
                     where h.relay = %(relay)s and h.seq = w.seq
                       and (h.state || '') = 'retrying' and h.next_attempt_at is null""",
                {**_whose(lease), "topic": topic, "limit": limit},
            ).rowcount

    def mend(self, lease: Lease, after: Place | None, limit: int) -> Place | None:
        """Give keys a head again that lost theirs, going from key to key by the index."""
        step = f"""select topic, key from {self._held} as h
                    where h.relay = %(relay)s and h.lane = %(lane)s and h.state = 'blocked'"""
        above = "and (h.topic, h.key) > ({})"
        topic, key = after or ("", "")
        with self._reading() as connection:
            rows = connection.execute(
                f"""with recursive k as (
                        ({step} {above.format("%(topic)s::text, %(key)s::text")}
                         order by topic, key limit 1)
                        union all
                        select n.* from k cross join lateral (
                            {step} {above.format("k.topic, k.key")}
                             order by topic, key limit 1) as n)
                    select topic, key from k limit %(limit)s""",
                {**_whose(lease), "topic": topic, "key": key, "limit": limit},
            ).fetchall()
            self._promote(connection, lease, places_of(rows))
        return (rows[-1][0], rows[-1][1]) if len(rows) == limit else None

    # Reading

    def stopped_keys(self, lease: Lease, limit: int) -> set[Place] | None:
        """Return the keys that have a head; None where there are too many."""
        # Of the whole lane: while the number of its shards changes, a stream still reads messages
        # of keys that are another's already.
        rows = self._rows(
            f"""select topic, key from {self._held}
                 where relay = %(relay)s and lane = %(lane)s and {HEAD} limit %(limit)s""",
            lease,
            limit=limit + 1,
        )
        return None if len(rows) > limit else places_of(rows)

    def may_be_shared(self, lease: Lease) -> bool:
        """Return whether other streams may hold messages of this one's keys, or may have."""
        if shard_of(lease.lane) is not None:
            return True
        sql = f"select coalesce(max(generation), 0) > 0 from {self._names['outbox_lane']}"
        ((changed,),) = self._rows(sql, lease)
        return cast("bool", changed)

    def stopped_among(self, lease: Lease, places: Collection[Place]) -> set[Place]:
        """Return those of these keys that have a head."""
        rows = self._rows(
            f"""select k.topic, k.key from {PAIRS} cross join lateral (
                    select from {self._held} as h
                     where h.relay = %(relay)s and h.lane = %(lane)s and h.topic = k.topic
                       and h.key = k.key and {HEAD} limit 1) as found""",
            lease,
            **_pairs(places),
        )
        return places_of(rows)

    def waiting_topics(self, lease: Lease) -> list[str]:
        """Return the topics that are waited for, going from one to the next by the index."""
        step = f"select topic from {self._held} where {self._ours} and {_WAITING}"
        rows = self._rows(
            f"""with recursive t as (
                    ({step} order by topic limit 1)
                    union all
                    select n.topic from t cross join lateral (
                        {step} and topic > t.topic order by topic limit 1) as n)
                select topic from t""",
            lease,
        )
        return [topic for (topic,) in rows]

    def outlook(self, lease: Lease) -> Outlook:
        """Return what there is to expect."""
        ((anything, seconds),) = self._rows(
            f"""select exists (select from {self._held} where relay = %(relay)s),
                       (select extract(epoch from next_attempt_at - clock_timestamp())::float8
                          from {self._held}
                         where {self._mine} and next_attempt_at is not null
                         order by next_attempt_at limit 1)""",
            lease,
        )
        return Outlook(anything, seconds)

    def due(self, lease: Lease, limit: int, max_bytes: int) -> list[HeldRecord]:
        """Return what is due, the longest overdue first."""
        return self._records(
            "next_attempt_at <= clock_timestamp()", "next_attempt_at, seq", lease, limit, max_bytes
        )

    def first_waiting(self, lease: Lease, topic: str) -> HeldRecord | None:
        """Return the first message that waits for its topic."""
        found = self._records(f"{_WAITING} and topic = %(topic)s", "seq", lease, 1, 1, topic=topic)
        return found[0] if found else None

    def behind(self, lease: Lease, place: Place, limit: int, max_bytes: int) -> list[HeldRecord]:
        """Return the first of the messages that are blocked behind a head."""
        condition = "topic = %(topic)s and key = %(key)s and state = 'blocked'"
        return self._records(
            condition, "seq", lease, limit, max_bytes, topic=place[0], key=place[1]
        )

    def _records(
        self,
        condition: str,
        order: str,
        lease: Lease,
        limit: int,
        max_bytes: int,
        **values: object,
    ) -> list[HeldRecord]:
        """Return at most `limit` messages, and no more once they weigh `max_bytes`."""
        rows = self._rows(
            f"""select {_RECORD}, expires_at <= statement_timestamp(), total, attempts,
                       extract(epoch from clock_timestamp() - held_at)::float8, blocks
                  from (select h.*, sum({_WEIGHT}) over (order by {order}
                                                         rows unbounded preceding) as total
                          from (select * from {self._held}
                                 where {self._mine} and {condition}
                                 order by {order} limit %(limit)s) as h) as w
                 where total - ({_WEIGHT}) < %(bytes)s order by {order}""",
            lease,
            limit=limit,
            bytes=max_bytes,
            **values,
        )
        return [HeldRecord(Record._make(row[:12]), *row[12:]) for row in rows]

    def _rows(self, sql: str, lease: Lease, **values: object) -> list[Any]:
        with self._reading() as connection:
            return connection.execute(sql, {**_whose(lease), **values}).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[psycopg.Connection]:
        """Yield the connection in a transaction that goes by index, whatever statistics say."""
        with self._store.session.translated() as connection, connection.transaction():
            connection.execute(BY_INDEX)
            yield connection

    @contextmanager
    def _moving(
        self, lease: Lease, position: Position, lease_s: float
    ) -> Iterator[psycopg.Connection]:
        """Yield the connection in a durable transaction that has moved the cursor.

        The lock on the cursor's row comes first: operators take it before they free a key.
        """
        with self._store.session.durable() as connection:
            connection.execute(BY_INDEX)
            self._store.save(lease, position, lease_s)
            yield connection


_WAITING = "state = 'retrying' and next_attempt_at is null"

#: Topics and keys, as k.
PAIRS = "unnest(%(topics)s::text[], %(keys)s::text[]) as k (topic, key)"

_TYPES = {
    "seq": "bigint",
    "state": "text",
    "blocks": "boolean",
    "attempts": "integer",
    "delay_s": "float8",
    "fault": "text",
    "error": "text",
}
_UNNESTED = (
    f"unnest({', '.join(f'%({name})s::{kind}[]' for name, kind in _TYPES.items())}) "
    f"as h ({', '.join(_TYPES)})"
)


def promote_keys(
    connection: psycopg.Connection, names: Names, relay: str, lane: str, places: Collection[Place]
) -> None:
    """Give keys a head that have none, in the transaction that is open."""
    values = {"relay": relay, "lane": lane, **_pairs(places)}
    connection.execute(promotion(names["outbox_held"]), values)


def promotion(held: str) -> str:
    """Return what gives keys a head that have none: the first of their blocked messages.

    The state is compared so that only the primary key fits: without statistics the planner would
    take the index of blocked messages, and walk through all of them.
    """
    return f"""
        update {held} as h
           set state = 'retrying', next_attempt_at = clock_timestamp(),
               changed_at = clock_timestamp()
          from {PAIRS}
         cross join lateral (
            select seq from {held} as b
             where b.relay = %(relay)s and b.lane = %(lane)s and b.topic = k.topic
               and b.key = k.key and b.state = 'blocked' order by seq limit 1) as n
         where h.relay = %(relay)s and h.seq = n.seq and (h.state || '') = 'blocked'
           and {_headless(held)}"""


def _headless(held: str) -> str:
    """Return the condition of keys without a head: looked up by index for each of them."""
    return f"""(select true from {held} as x
                 where x.relay = %(relay)s and x.lane = %(lane)s and x.topic = k.topic
                   and x.key = k.key and x.blocks and x.state <> 'blocked' limit 1) is null"""


def _whose(lease: Lease) -> dict[str, object]:
    lane = declared_lane(lease.lane)
    return {"relay": lease.relay, "lane": lane, "shard": shard_of(lease.lane)}


def _columns(holds: Sequence[Hold]) -> dict[str, object]:
    return {name: [getattr(hold, name) for hold in holds] for name in _TYPES}


def _pairs(places: Collection[Place]) -> dict[str, object]:
    listed = cast("list[Place]", list(places))
    return {"topics": [topic for topic, _ in listed], "keys": [key for _, key in listed]}
