"""Give back the space of old messages: TRUNCATE of a whole slot, never a DELETE.

A slot is emptied when it is not the one that is written to, its newest message is older than the
retention, and every relay name has delivered all of it. Whether that is so is only known under the
lock: a transaction that has written to the slot and not ended holds a lock too, so whoever has the
slot for itself sees everything that was ever written to it. See docs/adr/0009-rotation.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from psycopg import errors as pg

from outbox.errors import LogInconsistent
from outbox.names import SLOTS, Names
from outbox.store.base import Slice
from outbox.store.postgresql.session import ABANDONED, BY_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from outbox.store.postgresql.session import Session

#: No statement takes longer than the relay's lease allows, whatever is in its way. Nor is a standby
#: waited for, while readers wait for us: a slot that a fail-over brings back is emptied again.
_SETTINGS = f"""{ABANDONED}; {BY_INDEX}; set local statement_timeout = '2s';
    set local synchronous_commit = local"""

#: Readers queue behind whoever waits for this lock, so it waits no longer than they may.
_LOCK_TIMEOUT = "set local lock_timeout = '20ms'"

#: The next time may do better; and no reason to stop a relay whose own work goes well.
_IN_THE_WAY = (pg.LockNotAvailable, pg.DeadlockDetected, pg.QueryCanceled)
_IN_USE = "somebody is using it"


class Rotation:
    """The slots of one log, and the emptying of them."""

    def __init__(self, session: Session, names: Names) -> None:
        self._session = session
        self._names = names

    def prune(self, *, dry_run: bool = False) -> list[Slice]:
        """Empty the slots that can be emptied; say of each why it stays, or what was given back."""
        return [self._prune(slot, dry_run=dry_run) for slot in SLOTS]

    def _prune(self, slot: int, *, dry_run: bool) -> Slice:
        with self._session.translated() as connection:
            # In a transaction of its own: of two that have looked, and keep the lock with which
            # they did, neither could have the slot for itself.
            found = self._attempt(connection, slot, self._look)
            if found is None:
                return Slice(f"slot {slot}", 0, None, _IN_USE)
            if found.kept is None and not dry_run:
                found = self._attempt(connection, slot, self._empty) or replace(found, kept=_IN_USE)
        return found

    def _attempt(
        self,
        connection: psycopg.Connection,
        slot: int,
        act: Callable[[psycopg.Connection, int], Slice],
    ) -> Slice | None:
        """Do it in a transaction; return None when somebody is in the way."""
        try:
            connection.execute(f"begin isolation level read committed; {_SETTINGS}")
            found = act(connection, slot)
            connection.execute("commit")
        except _IN_THE_WAY:
            self._session.rollback()
            return None
        except BaseException:
            self._session.rollback()
            raise
        return found

    def _empty(self, connection: psycopg.Connection, slot: int) -> Slice:
        """Take the slot for ourselves, look again, and empty it."""
        partition = self._partition(slot)
        connection.execute(_LOCK_TIMEOUT)
        connection.execute(f"lock table only {partition} in access exclusive mode")
        found = self._look(connection, slot)
        if found.kept is None:
            connection.execute(f"truncate only {partition}")
        return found

    def _look(self, connection: psycopg.Connection, slot: int) -> Slice:
        """Say how a slot is; every query reads an index from its end."""
        partition = self._partition(slot)
        row = connection.execute(
            f"""select pg_total_relation_size('{partition}'::regclass),
                       extract(epoch from clock_timestamp() - newest.created_at)::float8,
                       {self._names["outbox_slot"]}() = %s, meta.retention_s
                  from {self._names["outbox_meta"]} as meta
                  left join lateral (select created_at from {partition}
                                      order by seq desc limit 1) as newest on true""",
            (slot,),
        ).fetchone()
        size, age, current, retention_s = cast("tuple[int, float | None, bool, int]", row)
        return Slice(
            name=f"slot {slot}",
            bytes=0 if age is None else size,
            newest_age_seconds=age,
            kept=self._reason(connection, partition, age, retention_s, current=current),
        )

    def _reason(
        self,
        connection: psycopg.Connection,
        partition: str,
        age_s: float | None,
        retention_s: int,
        *,
        current: bool,
    ) -> str | None:
        if age_s is None:
            return "it is empty"
        if current:
            return "it is being written to"
        if age_s < retention_s:
            return "its messages are younger than the retention"
        if waiting := self._waiting(connection, partition):
            return f"not delivered yet by {', '.join(waiting)}"
        return None

    def _waiting(self, connection: psycopg.Connection, partition: str) -> list[str]:
        """Return the relay names that have not delivered everything in a slot."""
        rows = connection.execute(self._question(partition)).fetchall()
        if not rows:  # one was forgotten, and another may be about to take its place
            return ["anybody: there is no relay name"]
        for relay, native, _ in rows:
            if not native:
                raise LogInconsistent(
                    f"the cursor of relay {relay!r} was restored from a dump or copied, so nobody "
                    "knows what it has delivered; nothing was removed. Stop the relays and run "
                    "`outbox-relay migrate --rebase`"
                )
        return sorted({relay for relay, _, waits in rows if waits})

    def _question(self, partition: str) -> str:
        """Return the query that says of each cursor whether it has not delivered all of a slot.

        Not delivered is what is not visible in the plan's target, and what is above the cursor and
        not visible in `last`. A row is not visible in a snapshot if its transaction had not begun
        at that time, or was one of those that ran; both are looked up by the index on (xid, seq).
        """
        begun = f"exists (select from {partition} as m where m.xid >= pg_snapshot_xmax({{}}){{}})"
        ran = f"""exists (select from pg_snapshot_xip({{}}) as running (id)
                            join lateral (select from {partition} as m
                                           where m.xid = running.id{{}} limit 1) as m on true)"""
        above = " and m.seq > c.after_seq"
        kinds = [
            kind.format(snapshot, bound)
            for snapshot, bound in (("p.target", ""), ("p.last", above))
            for kind in (begun, ran)
        ]
        # First of all, since it tells at once of a plan of millions, half of them delivered: to
        # find one above the cursor by its xid would mean to go through all that are below.
        newest = f"""exists (select from (select seq, xid from {partition}
                                           order by seq desc limit 1) as m
                              where m.seq > c.after_seq
                                and not pg_visible_in_snapshot(m.xid, p.last))"""
        return f"""
            select c.relay, c.xmin::text = (c.written_by::text::numeric % 4294967296)::text,
                   p.last is null or {" or ".join((newest, *kinds))}
              from {self._names["outbox_cursor"]} as c
              left join {self._names["outbox_plan"]} as p using (relay, lane, plan_no)
             order by c.relay"""

    def _partition(self, slot: int) -> str:
        return self._names[f"outbox_message_{slot}"]
