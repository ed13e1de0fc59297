"""Leases and cursors on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, cast

import psycopg

from outbox.database import DatabaseUrl, connect_postgresql
from outbox.errors import ConfigurationError, DatabaseUnavailable, LogInconsistent
from outbox.names import Names
from outbox.record import END, DeliveryMode, Mark, Position
from outbox.schema.version import require_schema
from outbox.store.base import Lease, LeaseLost, unknown_relay
from outbox.store.owner import is_certainly_dead
from outbox.store.postgresql.admin import PostgreSQLAdmin
from outbox.store.postgresql.held import PostgreSQLHeld
from outbox.store.postgresql.journal import read_plans
from outbox.store.postgresql.lanes import read_topologies
from outbox.store.postgresql.patience import ImpatientConnection, Patience
from outbox.store.postgresql.reader import PostgreSQLReader
from outbox.store.postgresql.schedule_admin import PostgreSQLScheduleAdmin
from outbox.store.postgresql.sequence import check_sequence, sequence_state
from outbox.store.postgresql.session import Preparation, Session
from outbox.store.postgresql.snapshot import Plan
from outbox.store.trail import Trail, follow

#: Delivered plans are deleted this many at a time, so that the journal stays small and the deletes
#: are few.
PRUNE_AFTER = 500

#: By the names of Trail's fields.
_TRAIL = (
    "crashes = %(crashes)s, handed_seq = %(handed)s, suspect_seq = %(suspect)s, "
    "suspect_deaths = %(deaths)s"
)


class PostgreSQLStore(PostgreSQLAdmin):
    """The log on PostgreSQL; implements Store and StoreAdmin."""

    def __init__(
        self,
        url: DatabaseUrl,
        names: Names,
        *,
        password_callback: Callable[[], str] | None = None,
        connect_timeout_s: float = 10.0,
        silence_s: float | None = None,
    ) -> None:
        """`silence_s`: how long the server may take to say anything; None is for ever."""
        super().__init__(names)
        self._url = url
        self._password_callback = password_callback
        self._connect_timeout_s = connect_timeout_s
        self._patience = None if silence_s is None else Patience(silence_s)
        self._preparation = Preparation()
        self._pruned_to = 0
        self._taken_at = 0

    def held(self) -> PostgreSQLHeld:
        """Return what keeps messages that cannot be sent now."""
        return PostgreSQLHeld(self, self._names)

    def connect(self) -> None:
        """Open the connection, unless it is open, and check the version of the tables."""
        if self._session is not None and not self._session.connection.closed:
            return
        connection = cast(
            "ImpatientConnection",
            connect_postgresql(
                self._url,
                password_callback=self._password_callback,
                connect_timeout=self._connect_timeout_s,
                kind=ImpatientConnection,
            ),
        )
        connection.patience = self._patience
        session = Session(connection)
        try:
            session.prepare_if_possible(self._preparation)
            require_schema(lambda: self._meta(session))
        except BaseException:
            session.close()
            raise
        self._session = session

    def _meta(self, session: Session) -> tuple[int, int] | None:
        meta = self._names["outbox_meta"]
        with session.translated() as connection:
            (exists,) = cast(
                "tuple[bool]",
                connection.execute("select to_regclass(%s) is not null", (meta,)).fetchone(),
            )
            if not exists:
                return None
            row = connection.execute(f"select version, compatible_from from {meta}").fetchone()
            return cast("tuple[int, int] | None", row)

    def acquire(self, relay: str, lane: str, owner: str, lease_s: float) -> Lease | None:
        """Take the lane if it is free, its lease has run out, or its owner is known to be dead."""
        if not self._is_free(relay, lane, owner):
            return None
        with self.session.durable() as connection:
            self._refuse_standby(connection)
            # Before this transaction has an id, so that it bounds what comes after it.
            sequence_value, cache = sequence_state(connection, self._names)
            if not self._take(connection, relay, lane, owner, lease_s):
                return None
            self._check_log(connection, relay, lane, sequence_value, cache)
            self._taken_at = sequence_value
            log_id = self._incarnation(connection)
            return self._lease(connection, relay, lane, log_id)

    def _is_free(self, relay: str, lane: str, owner: str) -> bool:
        """Look without a lock, so that a relay on standby costs next to nothing."""
        with self.session.translated() as connection:
            row = connection.execute(
                f"""select owner, coalesce(lease_until < clock_timestamp(), true)
                      from {self._names["outbox_cursor"]} where relay = %s and lane = %s""",
                (relay, lane),
            ).fetchone()
        if row is None:
            return self._has_gone(relay)
        holder, expired = cast("tuple[str | None, bool]", row)
        return holder is None or expired or holder == owner or is_certainly_dead(holder)

    def _has_gone(self, relay: str) -> bool:
        """Return False for a stream that is none any more; complain of an unknown relay name."""
        if relay not in self.relays():
            raise ConfigurationError(unknown_relay(relay))
        return False

    def _refuse_standby(self, connection: psycopg.Connection) -> None:
        (standby,) = cast(
            "tuple[bool]", connection.execute("select pg_is_in_recovery()").fetchone()
        )
        if standby:
            raise DatabaseUnavailable("the database is a standby; waiting for it to be the primary")

    def _take(
        self, connection: psycopg.Connection, relay: str, lane: str, owner: str, lease_s: float
    ) -> bool:
        """Lock the cursor's row, look again, and begin a new epoch."""
        cursor = self._names["outbox_cursor"]
        row = connection.execute(
            f"""select owner, coalesce(lease_until < clock_timestamp(), true),
                       xmin::text = (written_by::text::numeric %% 4294967296)::text,
                       crashes, handed_seq, suspect_seq, suspect_deaths
                  from {cursor} where relay = %s and lane = %s for update""",
            (relay, lane),
        ).fetchone()
        if row is None:
            return self._has_gone(relay)
        holder, expired, native, *left = cast("tuple[str | None, bool, bool, Any]", row)
        if not native:
            raise LogInconsistent(
                f"the cursor of relay {relay!r} was restored from a dump or copied: the transaction"
                " ids in it mean nothing in this database. Stop the relays and run"
                " `outbox-relay migrate --rebase`"
            )
        if not (holder is None or expired or holder == owner or is_certainly_dead(holder)):
            return False
        trail = follow(Trail(*left), holder, owner)
        values = {"owner": owner, "lease_s": lease_s, "relay": relay, "lane": lane}
        connection.execute(
            f"""update {cursor}
                   set owner = %(owner)s, epoch = epoch + 1, written_by = pg_current_xact_id(),
                       lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
                       {_TRAIL}
                 where relay = %(relay)s and lane = %(lane)s""",
            {**values, **asdict(trail)},
        )
        return True

    def _check_log(
        self,
        connection: psycopg.Connection,
        relay: str,
        lane: str,
        sequence_value: int,
        cache: int,
    ) -> None:
        """Raise LogInconsistent if the cursor is ahead of its database."""
        latest = self._plans(connection, relay, lane)[-1]
        check_sequence(sequence_value, cache, latest)
        row = connection.execute(
            "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        ).fetchone()
        (xmax,) = cast("tuple[int]", row)
        if latest.target.xmax > xmax:
            raise LogInconsistent(
                f"the cursor of relay {relay!r} knows transaction {latest.target.xmax - 1}, but"
                f" this database has only come to {xmax - 1}: it went back in time. Stop the"
                " relays and run `outbox-relay migrate --rebase`"
            )

    def _incarnation(self, connection: psycopg.Connection) -> str:
        """Return the log's id; a new one when the server runs on another timeline.

        After a fail-over or a restore to a point in time, positions may be given out a second time,
        to other messages; under a new id consumers cannot take them for the old ones.
        """
        meta = self._names["outbox_meta"]
        connection.execute(
            f"""update {meta} as meta
                   set timeline = now.timeline,
                       log_id = case when meta.timeline is null then log_id
                                     else gen_random_uuid() end
                  from (select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline)
                       as now
                 where meta.timeline is distinct from now.timeline"""
        )
        row = connection.execute(f"select log_id::text from {meta}").fetchone()
        return cast("tuple[str]", row)[0]

    def _lease(self, connection: psycopg.Connection, relay: str, lane: str, log_id: str) -> Lease:
        row = connection.execute(
            f"""select epoch, plan_no, after_seq, cluster_id, delivery, origin::text, crashes,
                       handed_seq, suspect_seq, suspect_deaths
                  from {self._names["outbox_cursor"]} where relay = %s and lane = %s""",
            (relay, lane),
        ).fetchone()
        epoch, plan_no, after_seq, cluster_id, delivery, origin, *left = cast(
            "tuple[int, int, int, Any, Any, Any, Any]", row
        )
        self._pruned_to = 0
        position, trail = Position(plan_no, after_seq), Trail(*left)
        return Lease(relay, lane, epoch, position, log_id, cluster_id, delivery, origin, trail)

    def _plans(self, connection: psycopg.Connection, relay: str, lane: str) -> list[Plan]:
        """Return the plans not known to be delivered; the cursor's own is the first."""
        row = connection.execute(
            f"select plan_no from {self._names['outbox_cursor']} where relay = %s and lane = %s",
            (relay, lane),
        ).fetchone()
        (plan_no,) = cast("tuple[int]", row or (0,))
        plans = read_plans(connection, self._names, relay, lane, plan_no)
        if not plans:
            raise LogInconsistent(
                f"the cursor of relay {relay!r} has no plan: rows of outbox_plan were deleted. Stop"
                " the relays and run `outbox-relay migrate --rebase`"
            )
        return plans

    def moment(self) -> str:
        """Return a text that changes when any transaction ends."""
        with self.session.translated():
            return self.session.moment()

    def reader(self, lease: Lease) -> PostgreSQLReader:
        """Return a reader that begins at the lease's position."""
        with self.session.translated() as connection:
            topologies = read_topologies(connection, self._names)
            plans = self._plans(connection, lease.relay, lease.lane)
        # Taking the lease was a write like the saving of a plan: the sequence was read, then the
        # transaction took an id and committed. So that value bounds what is fresh to any snapshot
        # taken since, and the first idle poll after a large backlog need not scan it once more.
        plans[-1] = replace(plans[-1], next_floor=max(plans[-1].next_floor, self._taken_at))
        return PostgreSQLReader(self.session, self._names, lease, plans, topologies)

    def check_mark(self, lease: Lease, mark: Mark) -> None:
        """Raise LogInconsistent if no such plan is in the journal."""
        with self.session.translated() as connection:
            row = connection.execute(
                f"""select from {self._names["outbox_plan"]}
                     where relay = %s and lane = %s and plan_no = %s and token::text = %s""",
                (lease.relay, lease.lane, mark.batch, mark.token),
            ).fetchone()
        if row is None:
            raise LogInconsistent(
                f"Kafka has messages of relay {lease.relay!r} up to batch {mark.batch}, which this"
                f" database, at batch {lease.position.batch}, has never planned: it went back in"
                " time. Stop the relays and run `outbox-relay migrate --rebase`"
            )

    def adopt(
        self, lease: Lease, position: Position, delivery: DeliveryMode, lease_s: float
    ) -> Lease:
        """Go on from another position, and remember how."""
        trail = lease.trail if position == lease.position else Trail()
        values = {**position._asdict(), "delivery": delivery, "lease_s": lease_s}
        with self.session.durable():
            self._write(
                lease,
                f"""plan_no = %(batch)s, after_seq = %(seq)s, delivery = %(delivery)s, {_TRAIL},
                   lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)""",
                {**values, **asdict(trail)},
            )
        return replace(lease, position=position, delivery=delivery, trail=trail)

    def save(self, lease: Lease, position: Position, lease_s: float) -> None:
        """Record what is delivered and renew the lease."""
        self._save(lease, position, lease_s, "handed_seq = null", {})

    def suspect(self, lease: Lease, position: Position, lease_s: float, seq: int) -> None:
        """Save as well which message is handed over."""
        self._save(lease, position, lease_s, "handed_seq = %(handed)s", {"handed": seq})

    def forgive(self, lease: Lease, position: Position, lease_s: float) -> None:
        """Save, and forget the relays that died here."""
        self._save(lease, position, lease_s, _TRAIL, asdict(Trail()))

    def acquit(self, lease: Lease, seq: int) -> None:
        """Take a message off suspicion."""
        with self.session.translated() as connection:
            connection.execute(
                f"""update {self._names["outbox_cursor"]}
                       set suspect_seq = null, suspect_deaths = 0, written_by = pg_current_xact_id()
                     where relay = %s and lane = %s and suspect_seq = %s""",
                (lease.relay, lease.lane, seq),
            )

    def _save(
        self,
        lease: Lease,
        position: Position,
        lease_s: float,
        assignments: str,
        values: dict[str, object],
    ) -> None:
        self._write(
            lease,
            f"""plan_no = %(batch)s, after_seq = %(seq)s, moved_at = clock_timestamp(),
               lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
               {assignments}""",
            {"batch": position.batch, "seq": position.seq, "lease_s": lease_s, **values},
        )
        if position.batch - self._pruned_to >= PRUNE_AFTER:
            self._prune(lease, position.batch)

    def release(self, lease: Lease, position: Position) -> None:
        """Save the position and give the lane back at once."""
        self._write(
            lease,
            """plan_no = %(batch)s, after_seq = %(seq)s, moved_at = clock_timestamp(),
               owner = null, lease_until = null, handed_seq = null""",
            {"batch": position.batch, "seq": position.seq},
        )

    def retire(self, lease: Lease) -> None:
        """Forget a stream that is none of the present lanes' and has delivered everything."""
        with self.session.durable() as connection:
            streams = read_topologies(connection, self._names)[-1].streams
            deleted = connection.execute(
                f"""delete from {self._names["outbox_cursor"]} as c
                     where relay = %(relay)s and lane = %(lane)s and epoch = %(epoch)s
                       and lane <> all(%(streams)s::text[]) and after_seq = {END}
                       and not exists (select from {self._names["outbox_plan"]} as p
                                        where p.relay = c.relay and p.lane = c.lane
                                          and p.plan_no > c.plan_no)""",
                {
                    "relay": lease.relay,
                    "lane": lease.lane,
                    "epoch": lease.epoch,
                    "streams": list(streams),
                },
            ).rowcount
            if deleted:
                connection.execute(
                    f"delete from {self._names['outbox_plan']} where relay = %s and lane = %s",
                    (lease.relay, lease.lane),
                )

    def bind_cluster(self, lease: Lease, cluster_id: str) -> None:
        """Remember the broker cluster this relay name publishes to."""
        self._write(lease, "cluster_id = %(cluster_id)s", {"cluster_id": cluster_id})

    def schedule(self) -> PostgreSQLScheduleAdmin:
        """Return what waits for its time or a condition."""
        return PostgreSQLScheduleAdmin(self.session, self._names)

    def _write(self, lease: Lease, assignments: str, values: dict[str, object]) -> None:
        """Change the cursor while the epoch is ours."""
        with self.session.translated() as connection:
            changed = connection.execute(
                f"""update {self._names["outbox_cursor"]}
                       set {assignments}, written_by = pg_current_xact_id()
                     where relay = %(relay)s and lane = %(lane)s and epoch = %(epoch)s""",
                {"relay": lease.relay, "lane": lease.lane, "epoch": lease.epoch, **values},
                prepare=self.session.prepares,
            ).rowcount
        if changed != 1:
            raise LeaseLost(lease.relay)

    def _prune(self, lease: Lease, batch: int) -> None:
        """Delete delivered plans. The lower bound keeps the scan off entries deleted before, which
        a long transaction elsewhere may hold in the index."""
        with self.session.translated() as connection:
            connection.execute(
                f"""delete from {self._names["outbox_plan"]}
                     where relay = %s and lane = %s and plan_no >= %s and plan_no < %s""",
                (lease.relay, lease.lane, self._pruned_to, batch),
            )
        self._pruned_to = batch
