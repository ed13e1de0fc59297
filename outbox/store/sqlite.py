"""The log on SQLite: one writer at a time, so the order of seq is the order of commits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from datetime import datetime
from typing import Literal, cast

from outbox.database import connect_sqlite
from outbox.database_faults import explained_sqlite
from outbox.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LogInconsistent,
    SchemaMissing,
)
from outbox.names import Names, check_name
from outbox.record import DeliveryMode, Mark, Position
from outbox.schema.version import require_schema
from outbox.store.base import (
    COUNT_LIMIT,
    FORGOTTEN_AFTER_S,
    BacklogState,
    Blocker,
    Lease,
    LeaseLost,
    ProcessStatus,
    RelayStatus,
    Slice,
    Stream,
    backlog_of,
    unknown_relay,
)
from outbox.store.held_admin import SQLITE, HeldActions
from outbox.store.lanes import Lane
from outbox.store.owner import is_certainly_dead
from outbox.store.pauses import Pauses
from outbox.store.sqlite_audit import write_audit
from outbox.store.sqlite_held import SQLiteHeld, promote_keys
from outbox.store.sqlite_lanes import Era, belonging, change, read_eras
from outbox.store.sqlite_pauses import SQLitePauses
from outbox.store.sqlite_reader import BATCH, SQLiteReader, newest_seq
from outbox.store.sqlite_scheduling import SQLiteSchedule
from outbox.store.trail import Trail, follow
from outbox.version import __version__

#: Messages; a deletion of so many takes a few milliseconds, for which other writers wait.
_PRUNED_AT_ONCE = 500

#: In the order of Trail's fields.
_TRAIL = "crashes = ?, handed_seq = ?, suspect_seq = ?, suspect_deaths = ?"


class SQLiteStore:
    """The log in a SQLite file; implements Store and StoreAdmin."""

    def __init__(self, path: str, names: Names) -> None:
        self._path = path
        self._names = names
        self._open: sqlite3.Connection | None = None

    def connect(self) -> None:
        """Open the connection, unless it is open, and check the version of the tables."""
        if self._open is not None:
            return
        connection = connect_sqlite(self._path)
        try:
            require_schema(lambda: self._meta(connection))
        except BaseException:
            connection.close()
            raise
        self._open = connection

    def _meta(self, connection: sqlite3.Connection) -> tuple[int, int] | None:
        meta = self._names["outbox_meta"]
        try:
            row = connection.execute(f"select version, compatible_from from {meta}").fetchone()
        except sqlite3.Error as error:
            explanation = explained_sqlite(error, self._path)
            if isinstance(explanation, SchemaMissing):
                return None
            raise explanation from error
        return cast("tuple[int, int] | None", row)

    def close(self) -> None:
        """Close the connection; never raises."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def held_admin(self) -> HeldActions:
        """Return what operators do with held messages."""
        return HeldActions(
            self._names, SQLITE, self._translated, self._transaction, write_audit, promote_keys
        )

    def held(self) -> SQLiteHeld:
        """Return what keeps messages that cannot be sent now."""
        return SQLiteHeld(self._names, self._transaction, self._translated, self.save)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated() as connection:
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise

    @contextmanager
    def _translated(self) -> Iterator[sqlite3.Connection]:
        if self._open is None:
            raise DatabaseUnavailable("not connected to the database")
        try:
            yield self._open
        except sqlite3.Error as error:
            raise explained_sqlite(error, self._path) from error

    def acquire(self, relay: str, lane: str, owner: str, lease_s: float) -> Lease | None:
        """Take the lane if it is free, its lease has run out, or its owner is known to be dead."""
        with self._transaction() as connection:
            row = connection.execute(
                f"""select owner, lease_until, after_seq, epoch, crashes, handed_seq, suspect_seq,
                           suspect_deaths, cluster_id, delivery, origin
                      from {self._names["outbox_cursor"]} where relay = ? and lane = ?""",
                (relay, lane),
            ).fetchone()
            if row is None:
                self._complain_if_unknown(relay)
                return None
            holder, lease_until, after, epoch, *left, cluster_id, delivery, origin = row
            expired = lease_until is None or lease_until < time.time()
            if not (holder is None or expired or holder == owner or is_certainly_dead(holder)):
                return None
            self._check_sequence(connection, after)
            trail = follow(Trail(*left), holder, owner)
            connection.execute(
                f"""update {self._names["outbox_cursor"]}
                       set owner = ?, epoch = ?, lease_until = ?, {_TRAIL}
                     where relay = ? and lane = ?""",
                (owner, epoch + 1, time.time() + lease_s, *astuple(trail), relay, lane),
            )
            (log_id,) = connection.execute(
                f"select log_id from {self._names['outbox_meta']}"
            ).fetchone()
        position = Position(BATCH, after)
        return Lease(relay, lane, epoch + 1, position, log_id, cluster_id, delivery, origin, trail)

    def _complain_if_unknown(self, relay: str) -> None:
        if relay not in self.relays():
            raise ConfigurationError(unknown_relay(relay))

    def _check_sequence(self, connection: sqlite3.Connection, after: int) -> None:
        row = connection.execute(
            "select seq from sqlite_sequence where name = ?",
            (self._names.prefix + "outbox_message",),
        ).fetchone()
        if after > (row[0] if row else 0):
            raise LogInconsistent(
                f"the cursor stands at message {after}, but the log has only come to "
                f"{row[0] if row else 0}: the file was restored or its sequence was reset. New "
                "messages would never be delivered. Stop the relays and run "
                "`outbox-relay migrate --rebase`"
            )

    def reader(self, lease: Lease) -> SQLiteReader:
        """Return a reader that begins at the lease's position."""
        with self._translated() as connection:
            eras = read_eras(connection, self._names)
        return SQLiteReader(self._translated, self._names, lease, eras)

    def check_mark(self, lease: Lease, mark: Mark) -> None:
        """Raise LogInconsistent if another message has the number."""
        with self._translated() as connection:
            row = connection.execute(
                f"select id from {self._names['outbox_message']} where seq = ?", (mark.seq,)
            ).fetchone()
        if row is None or row[0] != mark.token:
            raise LogInconsistent(
                f"Kafka has messages of relay {lease.relay!r} up to number {mark.seq}, which is"
                f" {'no' if row is None else 'another'} message in {self._path}: the file was"
                " replaced by an earlier copy. Stop the relays and let it begin anew: `outbox-relay"
                f" relays forget {lease.relay}`, `outbox-relay relays create {lease.relay} --from"
                " earliest`"
            )

    def adopt(
        self, lease: Lease, position: Position, delivery: DeliveryMode, lease_s: float
    ) -> Lease:
        """Go on from another position, and remember how."""
        trail = lease.trail if position == lease.position else Trail()
        self._write(
            lease,
            f"after_seq = ?, delivery = ?, lease_until = ?, {_TRAIL}",
            (position.seq, delivery, time.time() + lease_s, *astuple(trail)),
        )
        return replace(lease, position=position, delivery=delivery, trail=trail)

    def save(self, lease: Lease, position: Position, lease_s: float) -> None:
        """Record what is delivered and renew the lease."""
        self._save(lease, position, lease_s, "handed_seq = null", ())

    def suspect(self, lease: Lease, position: Position, lease_s: float, seq: int) -> None:
        """Save as well which message is handed over."""
        self._save(lease, position, lease_s, "handed_seq = ?", (seq,))

    def forgive(self, lease: Lease, position: Position, lease_s: float) -> None:
        """Save, and forget the relays that died here."""
        self._save(lease, position, lease_s, _TRAIL, astuple(Trail()))

    def _save(
        self,
        lease: Lease,
        position: Position,
        lease_s: float,
        assignments: str,
        values: tuple[object, ...],
    ) -> None:
        now = time.time()
        self._write(
            lease,
            f"after_seq = ?, lease_until = ?, moved_at = ?, {assignments}",
            (position.seq, now + lease_s, now, *values),
        )

    def acquit(self, lease: Lease, seq: int) -> None:
        """Take a message off suspicion."""
        with self._translated() as connection:
            connection.execute(
                f"""update {self._names["outbox_cursor"]}
                       set suspect_seq = null, suspect_deaths = 0
                     where relay = ? and lane = ? and suspect_seq = ?""",
                (lease.relay, lease.lane, seq),
            )

    def release(self, lease: Lease, position: Position) -> None:
        """Save the position and give the lane back at once."""
        self._write(
            lease,
            "after_seq = ?, owner = null, lease_until = null, handed_seq = null",
            (position.seq,),
        )

    def retire(self, lease: Lease) -> None:
        """Forget a stream that is none of the present lanes' and has delivered everything."""
        with self._transaction() as connection:
            present = read_eras(connection, self._names)[-1]
            if lease.lane not in present.lanes.streams:
                connection.execute(
                    f"""delete from {self._names["outbox_cursor"]}
                         where relay = ? and lane = ? and epoch = ? and after_seq >= ?""",
                    (lease.relay, lease.lane, lease.epoch, present.after_seq),
                )

    def bind_cluster(self, lease: Lease, cluster_id: str) -> None:
        """Remember the broker cluster this relay name publishes to."""
        self._write(lease, "cluster_id = ?", (cluster_id,))

    def _write(self, lease: Lease, assignments: str, values: tuple[object, ...]) -> None:
        with self._translated() as connection:
            changed = connection.execute(
                f"""update {self._names["outbox_cursor"]} set {assignments}
                     where relay = ? and lane = ? and epoch = ?""",
                (*values, lease.relay, lease.lane, lease.epoch),
            ).rowcount
        if changed != 1:
            raise LeaseLost(lease.relay)

    def schedule(self) -> SQLiteSchedule:
        """Return what waits for its time."""
        return SQLiteSchedule(self._names, self._translated, self._transaction)

    def moment(self) -> str:
        """Return nothing: to read is as cheap as anything."""
        return ""

    def horizon(self) -> str:
        """Return the highest seq there is."""
        with self._translated() as connection:
            return str(newest_seq(connection, self._names))

    def delivered(self, relay: str, horizon: str) -> bool:
        """Return whether everything up to the seq `horizon` is delivered."""
        with self._translated() as connection:
            eras = read_eras(connection, self._names)
            rows = connection.execute(
                f"select lane, after_seq from {self._names['outbox_cursor']} where relay = ?",
                (relay,),
            ).fetchall()
            # As long as lanes are changing somebody may have to wait for what is delivered.
            return all(after >= eras[-1].after_seq for _, after in rows) and not any(
                self._waits(connection, belonging(eras, stream, after), after, int(horizon))
                for stream, after in rows
            )

    def _waits(self, connection: sqlite3.Connection, ours: str, after: int, horizon: int) -> bool:
        (remains,) = connection.execute(
            f"""select exists (select 1 from {self._names["outbox_message"]}
                                where seq > ? and seq <= ? and ({ours}))""",
            (after, horizon),
        ).fetchone()
        return bool(remains)

    def heartbeat(self, relay: str, process: str, state: str) -> None:
        """Say that this process is alive and what it is doing."""
        table = self._names["outbox_process"]
        with self._transaction() as connection:
            connection.execute(
                f"""insert into {table} (relay, process, version, state) values (?, ?, ?, ?)
                    on conflict (relay, process)
                    do update set state = excluded.state, seen_at = excluded.seen_at""",
                (relay, process, __version__, state),
            )
            connection.execute(
                f"delete from {table} where relay = ? and seen_at < ?",
                (relay, time.time() - FORGOTTEN_AFTER_S),
            )

    def paused(self, relay: str) -> Pauses:
        """Return what operators have paused of a relay name."""
        return self.pauses().of(relay)

    def backlog(self) -> BacklogState:
        """Return the limit of the backlog, and the last count."""
        with self._translated() as connection:
            limit, action, messages, at = connection.execute(
                f"""select backlog_limit, backlog_action, backlog_messages, backlog_at
                      from {self._names["outbox_meta"]}"""
            ).fetchone()
        return BacklogState(limit, action, messages, None if at is None else time.time() - at)

    def count_backlog(self) -> None:
        """Note for writers how many messages wait; does nothing where there is no limit."""
        if self.backlog().limit is None:
            return
        written, messages = int(self.horizon()), backlog_of(self.status())
        with self._translated() as connection:
            connection.execute(
                f"""update {self._names["outbox_meta"]}
                       set backlog_messages = ?, backlog_seq = ?, backlog_at = ?""",
                (messages, written, time.time()),
            )

    def pauses(self) -> SQLitePauses:
        """Return what operators have paused."""
        return SQLitePauses(self._names, self._translated, self._transaction)

    def forget_process(self, relay: str, process: str) -> None:
        """Say that this process has ended."""
        with self._translated() as connection:
            connection.execute(
                f"delete from {self._names['outbox_process']} where relay = ? and process = ?",
                (relay, process),
            )

    def status(self, relay: str | None = None) -> list[RelayStatus]:
        """Return the state of every relay name, or of one."""
        with self._translated() as connection:
            rows = connection.execute(
                f"""select relay, lane, after_seq, owner, lease_until, cluster_id, delivery
                      from {self._names["outbox_cursor"]}
                     where ? is null or relay = ? order by relay, lane""",
                (relay, relay),
            ).fetchall()
            if relay is not None and not rows:
                raise ConfigurationError(unknown_relay(relay))
            eras = read_eras(connection, self._names)
            return [self._status(connection, eras, *row) for row in rows]

    def _status(
        self,
        connection: sqlite3.Connection,
        eras: Sequence[Era],
        relay: str,
        lane: str,
        after: int,
        owner: str | None,
        lease_until: float | None,
        cluster_id: str | None,
        delivery: DeliveryMode,
    ) -> RelayStatus:
        count, oldest = connection.execute(
            f"""select count(*), min(created_at) from (
                    select created_at from {self._names["outbox_message"]}
                     where seq > ? and ({belonging(eras, lane, after)})
                     order by seq limit {COUNT_LIMIT})""",
            (after,),
        ).fetchone()
        exact = count < COUNT_LIMIT
        if not exact:
            count = int(self.horizon()) - after
        processes = connection.execute(
            f"""select process, version, state, ? - seen_at from {self._names["outbox_process"]}
                 where relay = ? and seen_at >= ? order by started_at""",
            (time.time(), relay, time.time() - FORGOTTEN_AFTER_S),
        ).fetchall()
        return RelayStatus(
            relay=relay,
            lane=lane,
            batch=BATCH,
            lag_messages=count,
            lag_is_exact=exact,
            lag_seconds=None if oldest is None else max(time.time() - oldest, 0.0),
            owner=owner,
            lease_seconds=None if lease_until is None else lease_until - time.time(),
            cluster_id=cluster_id,
            processes=tuple(ProcessStatus(*row) for row in processes),
            delivery=delivery,
        )

    def blockers(self) -> list[Blocker]:
        """Return nothing: a transaction that is open here keeps other writers out, not readers."""
        return []

    def prune(self, *, dry_run: bool = False) -> list[Slice]:
        """Delete old, delivered messages, a few at a time: SQLite has one writer at a time."""
        log, cursor = self._names["outbox_message"], self._names["outbox_cursor"]
        # The oldest first and then the old ones of them, so that no look reads the whole log.
        old = f"""select seq, created_at, bytes from (
                      select seq, created_at, length(payload) as bytes from {log}
                       where seq <= (select min(after_seq) from {cursor})
                       order by seq limit {_PRUNED_AT_ONCE})
                   where created_at < ? - (select retention_s from {self._names["outbox_meta"]})"""
        with self._translated() as connection:
            count, size, newest = connection.execute(
                f"select count(*), coalesce(sum(bytes), 0), max(created_at) from ({old})",
                (time.time(),),
            ).fetchone()
            if count and not dry_run:
                connection.execute(
                    f"delete from {log} where seq in (select seq from ({old}))", (time.time(),)
                )
        age = None if newest is None else time.time() - newest
        kept = None if count else "nothing in it is delivered and older than the retention"
        return [Slice(f"the {count} oldest messages" if count else "log", size, age, kept)]

    def log_bytes(self) -> int:
        """Return the size of the file, which may hold the application's tables too."""
        with self._translated() as connection:
            (pages,) = connection.execute("pragma page_count").fetchone()
            (page_bytes,) = connection.execute("pragma page_size").fetchone()
        return cast("int", pages * page_bytes)

    def other_lanes(self, after: int) -> tuple[dict[str, int], int]:
        """Return the lanes other than `default` of the latest messages, and the next mark."""
        with self._translated() as connection:
            rows = connection.execute(
                f"""select coalesce(lane, 'default'), count(*), max(seq) from (
                        select seq, lane from {self._names["outbox_message"]}
                         where seq > ? order by seq desc limit {COUNT_LIMIT}) group by 1""",
                (after,),
            ).fetchall()
        mark = max((seq for _, _, seq in rows), default=after)
        return {lane: count for lane, count, _ in rows if lane != "default"}, mark

    def lanes(self) -> list[Lane]:
        """Return the lanes of the log."""
        with self._translated() as connection:
            return list(read_eras(connection, self._names)[-1].lanes.lanes.values())

    def change_lanes(self, lanes: Sequence[Lane]) -> None:
        """Make these the lanes of the log, for every relay name."""
        with self._transaction() as connection:
            change(connection, self._names, lanes, int(self.horizon()))

    def streams(self, relay: str) -> list[Stream]:
        """Return who holds the streams of a relay name."""
        with self._translated() as connection:
            rows = connection.execute(
                f"""select c.lane, c.owner, coalesce(c.lease_until < ?, 1), coalesce(l.priority, 0)
                      from {self._names["outbox_cursor"]} as c
                      left join {self._names["outbox_lane"]} as l
                        on l.lane = c.lane
                       and l.generation = (select max(generation)
                                             from {self._names["outbox_lane"]})
                     where c.relay = ? order by c.lane""",
                (time.time(), relay),
            ).fetchall()
        if not rows:
            raise ConfigurationError(unknown_relay(relay))
        return [
            Stream(name, owner, bool(expired), priority) for name, owner, expired, priority in rows
        ]

    def processes(self, relay: str, within_s: float) -> list[str]:
        """Return the processes of a relay name that were seen lately."""
        with self._translated() as connection:
            rows = connection.execute(
                f"""select process from {self._names["outbox_process"]}
                     where relay = ? and state <> 'waiting' and seen_at >= ?
                     order by process""",
                (relay, time.time() - within_s),
            ).fetchall()
        return [process for (process,) in rows]

    def relays(self) -> list[str]:
        """Return the relay names."""
        with self._translated() as connection:
            rows = connection.execute(
                f"select distinct relay from {self._names['outbox_cursor']} order by relay"
            ).fetchall()
        return [name for (name,) in rows]

    def create_relay(self, name: str, start: Literal["earliest", "latest"] | datetime) -> None:
        """Make a relay name."""
        check_name("relay", name)
        with self._transaction() as connection:
            if name in self.relays():
                raise ConfigurationError(f"there is a relay called {name!r} already")
            after, starts_at = self._beginning(connection, start)
            # An epoch of a relay of this name that was forgotten must not come again while its
            # process runs.
            streams = read_eras(connection, self._names)[-1].lanes.streams
            connection.executemany(
                f"""insert into {self._names["outbox_cursor"]}
                           (relay, lane, after_seq, epoch, starts_at)
                    values (?, ?, ?, ?, ?)""",
                [(name, stream, after, time.time_ns() // 10**6, starts_at) for stream in streams],
            )

    def _beginning(
        self, connection: sqlite3.Connection, start: Literal["earliest", "latest"] | datetime
    ) -> tuple[int, float | None]:
        """Return the number to begin after, and the time from which on messages are asked for."""
        if start == "earliest":
            return 0, None
        if start == "latest":
            return int(self.horizon()), time.time()
        if start.timestamp() > time.time():
            raise ConfigurationError(f"{start.isoformat()} is later than this machine's clock")
        (after,) = connection.execute(
            f"select min(seq) - 1 from {self._names['outbox_message']} where created_at >= ?",
            (start.timestamp(),),
        ).fetchone()
        return int(self.horizon()) if after is None else after, start.timestamp()

    def forget_relay(self, name: str) -> None:
        """Drop a relay name and its progress."""
        with self._transaction() as connection:
            for table in ("outbox_held", "outbox_process", "outbox_cursor"):
                deleted = connection.execute(
                    f"delete from {self._names[table]} where relay = ?", (name,)
                ).rowcount
            if not deleted:
                raise ConfigurationError(unknown_relay(name))

    def rebind_relay(self, name: str) -> None:
        """Let a relay name publish to another broker cluster from now on."""
        with self._translated() as connection:
            changed = connection.execute(
                f"update {self._names['outbox_cursor']} set cluster_id = null where relay = ?",
                (name,),
            ).rowcount
        if not changed:
            raise ConfigurationError(unknown_relay(name))
