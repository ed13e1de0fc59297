"""What operators ask of the log on PostgreSQL; nothing here counts a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import cast

import psycopg

from outbox.errors import ConfigurationError, DatabaseUnavailable
from outbox.names import Names, check_name
from outbox.record import DeliveryMode
from outbox.store.base import (
    COUNT_LIMIT,
    FORGOTTEN_AFTER_S,
    BacklogState,
    Blocker,
    ProcessStatus,
    RelayStatus,
    Slice,
    Stream,
    backlog_of,
    unknown_relay,
)
from outbox.store.held_admin import POSTGRESQL, HeldActions
from outbox.store.lanes import Lane, Topology
from outbox.store.pauses import Pauses
from outbox.store.postgresql.audit import write_audit
from outbox.store.postgresql.beginning import Start, beginning, bound_of_later
from outbox.store.postgresql.held import promote_keys
from outbox.store.postgresql.lanes import change, has_sealed, read_topologies
from outbox.store.postgresql.pauses import PostgreSQLPauses
from outbox.store.postgresql.rotation import Rotation
from outbox.store.postgresql.session import BY_INDEX, Session
from outbox.store.postgresql.undelivered import since, undelivered
from outbox.version import __version__

#: To remove a file of many gigabytes may take a server as long, in seconds.
_REMOVING_S = 60.0


class PostgreSQLAdmin:
    """Implements StoreAdmin, and the parts of Store that ask what is delivered and who runs."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """Return the open session, or raise DatabaseUnavailable."""
        if self._session is None:
            raise DatabaseUnavailable("not connected to the database")
        return self._session

    def close(self) -> None:
        """Close the connection; never raises."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def held_admin(self) -> HeldActions:
        """Return what operators do with held messages."""
        return HeldActions(
            self._names,
            POSTGRESQL,
            self._by_index,
            self._durable_by_index,
            write_audit,
            promote_keys,
        )

    @contextmanager
    def _by_index(self) -> Iterator[psycopg.Connection]:
        """Yield the connection in a transaction that stops at a limit: a bitmap is made first."""
        with self.session.translated() as connection, connection.transaction():
            connection.execute(BY_INDEX)
            yield connection

    @contextmanager
    def _durable_by_index(self) -> Iterator[psycopg.Connection]:
        """Yield the connection in a transaction that is durable: statistics may be old."""
        with self.session.durable() as connection:
            connection.execute(BY_INDEX)
            yield connection

    # What is delivered

    def horizon(self) -> str:
        """Return the snapshot of now."""
        return cast("str", self._one("select pg_current_snapshot()::text"))

    def delivered(self, relay: str, horizon: str) -> bool:
        """Return whether everything visible in the snapshot `horizon` is delivered."""
        with self.session.translated() as connection, connection.transaction():
            # Of one moment: the cursors move and delivered plans go while we look.
            connection.execute(f"set transaction isolation level repeatable read; {BY_INDEX}")
            topologies = read_topologies(connection, self._names)
            streams = self._streams(connection, relay)
            # As long as lanes are changing somebody may have to wait for what is delivered.
            if not has_sealed(
                connection, self._names, relay, list(streams), topologies[-1].generation
            ):
                return False
            return not any(
                self._waits(connection, since(generation, topologies), relay, stream, horizon)
                for stream, generation in streams.items()
            )

    def _streams(self, connection: psycopg.Connection, relay: str) -> dict[str, int | None]:
        """Return the streams, and under which lanes each of them has come to where it is."""
        rows = connection.execute(
            f"""select lane, generation from {self._names["outbox_cursor"]}
                  left join {self._names["outbox_plan"]} using (relay, lane, plan_no)
                 where relay = %s order by lane""",
            (relay,),
        ).fetchall()
        return dict(rows)

    def _waits(
        self,
        connection: psycopg.Connection,
        topologies: Sequence[Topology],
        relay: str,
        stream: str,
        horizon: str,
    ) -> bool:
        row = connection.execute(
            f"select exists (select from ({undelivered(self._names, 1, topologies, stream)}) as m)",
            {"relay": relay, "lane": stream, "horizon": horizon},
        ).fetchone()
        return cast("tuple[bool]", row)[0]

    # Who runs

    def heartbeat(self, relay: str, process: str, state: str) -> None:
        """Say that this process is alive and what it is doing."""
        table = self._names["outbox_process"]
        with self.session.translated() as connection:
            connection.execute(
                f"""insert into {table} as p (relay, process, version, state)
                    values (%s, %s, %s, %s)
                    on conflict (relay, process)
                    do update set state = excluded.state, seen_at = clock_timestamp()""",
                (relay, process, __version__, state),
            )
            connection.execute(
                f"""delete from {table}
                     where relay = %s
                       and seen_at < clock_timestamp() - make_interval(secs => %s)""",
                (relay, FORGOTTEN_AFTER_S),
            )

    def paused(self, relay: str) -> Pauses:
        """Return what operators have paused of a relay name."""
        return self.pauses().of(relay)

    def backlog(self) -> BacklogState:
        """Return the limit of the backlog, and the last count."""
        with self.session.translated() as connection:
            row = connection.execute(
                f"""select backlog_limit, backlog_action, backlog_messages,
                           extract(epoch from clock_timestamp() - backlog_at)::float8
                      from {self._names["outbox_meta"]}"""
            ).fetchone()
        return BacklogState(*cast("tuple[int | None, str | None, int, float | None]", row))

    def count_backlog(self) -> None:
        """Note for writers how many messages wait; does nothing where there is no limit."""
        if self.backlog().limit is None:
            return
        # Before the count, so that nothing written meanwhile is forgotten.
        sequence = self._names["outbox_message_seq"]
        written = self._one(f"select coalesce(pg_sequence_last_value('{sequence}'::regclass), 0)")
        messages = backlog_of(self.status())
        with self.session.translated() as connection:
            connection.execute(
                f"""update {self._names["outbox_meta"]}
                       set backlog_messages = %s, backlog_seq = %s, backlog_at = clock_timestamp()
                """,
                (messages, written),
            )

    def pauses(self) -> PostgreSQLPauses:
        """Return what operators have paused."""
        return PostgreSQLPauses(self.session, self._names)

    def forget_process(self, relay: str, process: str) -> None:
        """Say that this process has ended."""
        with self.session.translated() as connection:
            connection.execute(
                f"delete from {self._names['outbox_process']} where relay = %s and process = %s",
                (relay, process),
            )

    # Status

    def status(self, relay: str | None = None) -> list[RelayStatus]:
        """Return the state of every relay name, or of one."""
        with self.session.translated() as connection:
            rows = connection.execute(
                f"""select generation, relay, lane, plan_no, owner, cluster_id, delivery,
                           extract(epoch from lease_until - clock_timestamp())::float8
                      from {self._names["outbox_cursor"]}
                      left join {self._names["outbox_plan"]} using (relay, lane, plan_no)
                     where %(relay)s::text is null or relay = %(relay)s order by relay, lane""",
                {"relay": relay},
            ).fetchall()
            if relay is not None and not rows:
                raise ConfigurationError(unknown_relay(relay))
            topologies = read_topologies(connection, self._names)
            return [
                self._status(connection, since(generation, topologies), *row)
                for generation, *row in rows
            ]

    def _status(
        self,
        connection: psycopg.Connection,
        topologies: Sequence[Topology],
        relay: str,
        lane: str,
        plan_no: int,
        owner: str | None,
        cluster_id: str | None,
        delivery: DeliveryMode,
        lease_s: float | None,
    ) -> RelayStatus:
        messages, exact, seconds = self._lag(connection, topologies, relay, lane)
        processes = connection.execute(
            f"""select process, version, state,
                       extract(epoch from clock_timestamp() - seen_at)::float8
                  from {self._names["outbox_process"]}
                 where relay = %s and seen_at >= clock_timestamp() - make_interval(secs => %s)
                 order by started_at""",
            (relay, FORGOTTEN_AFTER_S),
        ).fetchall()
        return RelayStatus(
            relay=relay,
            lane=lane,
            batch=plan_no,
            lag_messages=messages,
            lag_is_exact=exact,
            lag_seconds=seconds,
            owner=owner,
            lease_seconds=lease_s,
            cluster_id=cluster_id,
            processes=tuple(ProcessStatus(*row) for row in processes),
            delivery=delivery,
        )

    def _lag(
        self,
        connection: psycopg.Connection,
        topologies: Sequence[Topology],
        relay: str,
        lane: str,
    ) -> tuple[int, bool, float | None]:
        with connection.transaction():
            connection.execute(BY_INDEX)
            row = connection.execute(
                f"""select count(*), min(m.seq),
                           extract(epoch from clock_timestamp() - min(created_at))::float8
                      from ({undelivered(self._names, COUNT_LIMIT, topologies, lane)}) as m""",
                {"relay": relay, "lane": lane, "horizon": None},
            ).fetchone()
        count, oldest, seconds = cast("tuple[int, int | None, float | None]", row)
        if count < COUNT_LIMIT or oldest is None:
            return count, True, seconds
        last_value = cast(
            "int", self._one(f"select last_value from {self._names['outbox_message_seq']}")
        )
        return max(count, last_value - oldest + 1), False, seconds

    def blockers(self) -> list[Blocker]:
        """Return the transactions that have written to the log and not ended, oldest first.

        Whoever inserts into a table holds a lock on it until the end of the transaction, also when
        it is prepared.
        """
        with self.session.translated() as connection:
            rows = connection.execute(
                """
                select distinct on (l.virtualtransaction)
                       case when l.pid is null then 'prepared' else 'open' end,
                       coalesce(p.gid, concat_ws(' ', 'pid', l.pid, a.usename, a.application_name,
                                                 a.client_addr)),
                       extract(epoch from clock_timestamp()
                               - coalesce(p.prepared, a.xact_start))::float8
                  from pg_locks as l
                  left join pg_stat_activity as a on a.pid = l.pid
                  -- A prepared transaction keeps the virtual id of its session, and has one of its
                  -- own after a restart of the server; the lock on its real id tells which it is.
                  left join lateral (
                    select p.gid, p.prepared
                      from pg_locks as x
                      join pg_prepared_xacts as p on p.transaction = x.transactionid
                     where l.pid is null and x.pid is null and x.locktype = 'transactionid'
                       and x.virtualtransaction = l.virtualtransaction) as p on true
                 where l.relation = %s::regclass and l.mode = 'RowExclusiveLock' and l.granted
                   and l.database = (select oid from pg_database where datname = current_database())
                """,
                (self._names["outbox_message"],),
            ).fetchall()
        found = [Blocker(kind, who, max(age or 0.0, 0.0)) for kind, who, age in rows]
        return sorted(found, key=lambda blocker: -blocker.age_seconds)

    # What is old

    def prune(self, *, dry_run: bool = False) -> list[Slice]:
        """Empty the slots that hold nothing but old, delivered messages."""
        with self.session.expecting_long(_REMOVING_S):
            return Rotation(self.session, self._names).prune(dry_run=dry_run)

    # What is measured

    def log_bytes(self) -> int:
        """Return the size of all partitions with their indexes and what is stored apart."""
        return cast(
            "int",
            self._one(
                f"""select coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint
                      from pg_inherits where inhparent = '{self._names["outbox_message"]}'::regclass
                """
            ),
        )

    def other_lanes(self, after: int) -> tuple[dict[str, int], int]:
        """Return the lanes other than `default` of the latest messages, and the next mark."""
        with self.session.translated() as connection, connection.transaction():
            connection.execute(BY_INDEX)
            rows = connection.execute(
                f"""with latest as materialized (
                        select seq, lane from {self._names["outbox_message"]}
                         where seq > %s::bigint order by seq desc limit {COUNT_LIMIT})
                    select coalesce(lane, 'default'), count(*), max(seq) from latest group by 1""",
                (after,),
            ).fetchall()
        mark = max((seq for _, _, seq in rows), default=after)
        return {lane: count for lane, count, _ in rows if lane != "default"}, mark

    # Lanes

    def lanes(self) -> list[Lane]:
        """Return the lanes of the log."""
        with self.session.translated() as connection:
            return list(read_topologies(connection, self._names)[-1].lanes.values())

    def change_lanes(self, lanes: Sequence[Lane]) -> None:
        """Make these the lanes of the log, for every relay name."""
        change(self.session, self._names, lanes)

    def streams(self, relay: str) -> list[Stream]:
        """Return who holds the streams of a relay name."""
        with self.session.translated() as connection:
            rows = connection.execute(
                f"""select c.lane, c.owner, coalesce(c.lease_until < clock_timestamp(), true),
                           coalesce(l.priority, 0)
                      from {self._names["outbox_cursor"]} as c
                      left join {self._names["outbox_lane"]} as l
                        on l.lane = split_part(c.lane, ':', 1)
                       and l.generation = (select max(generation)
                                             from {self._names["outbox_lane"]})
                     where c.relay = %s order by c.lane""",
                (relay,),
            ).fetchall()
        if not rows:
            raise ConfigurationError(unknown_relay(relay))
        return [Stream(*row) for row in rows]

    def processes(self, relay: str, within_s: float) -> list[str]:
        """Return the processes of a relay name that were seen lately."""
        with self.session.translated() as connection:
            rows = connection.execute(
                f"""select process from {self._names["outbox_process"]}
                     where relay = %s and state <> 'waiting'
                       and seen_at >= clock_timestamp() - make_interval(secs => %s)
                     order by process""",
                (relay, within_s),
            ).fetchall()
        return [process for (process,) in rows]

    # Relay names

    def relays(self) -> list[str]:
        """Return the relay names."""
        with self.session.translated() as connection:
            rows = connection.execute(
                f"select distinct relay from {self._names['outbox_cursor']} order by relay"
            ).fetchall()
        return [name for (name,) in rows]

    def create_relay(self, name: str, start: Start) -> None:
        """Make a relay name."""
        check_name("relay", name)
        bound = bound_of_later(self.session, self._names)
        # The numbers begin at the time in milliseconds: a relay of this name may have been
        # forgotten, whose epoch must not come again while its process runs, nor its positions as
        # those of other messages.
        with self.session.durable() as connection:
            # Lanes must not change until all streams of the present ones are there.
            connection.execute(
                f"lock table {self._names['outbox_lane']} in share row exclusive mode"
            )
            lanes = read_topologies(connection, self._names)[-1]
            first = beginning(connection, self._names, start, bound)
            try:
                connection.execute(
                    f"""insert into {self._names["outbox_cursor"]}
                               (relay, lane, plan_no, epoch, starts_at)
                        select %s, stream, now, now, %s
                          from unnest(%s::text[]) as streams (stream),
                               (select (extract(epoch from clock_timestamp()) * 1000)::bigint)
                               as clock (now)""",
                    (name, first.starts_at, list(lanes.streams)),
                )
            except psycopg.errors.UniqueViolation as error:
                raise ConfigurationError(f"there is a relay called {name!r} already") from error
            connection.execute(
                f"""insert into {self._names["outbox_plan"]}
                       (relay, lane, plan_no, epoch, last, floor, target, target_floor, next_floor,
                        generation)
                    select relay, lane, plan_no, epoch, %(last)s::pg_snapshot, %(floor)s::bigint,
                           %(target)s::pg_snapshot, %(target_floor)s::bigint,
                           %(next_floor)s::bigint, %(generation)s::bigint
                      from {self._names["outbox_cursor"]} where relay = %(relay)s""",
                {"relay": name, "generation": lanes.generation, **asdict(first)},
            )

    def forget_relay(self, name: str) -> None:
        """Drop a relay name and its progress."""
        with self.session.durable() as connection:
            for table in ("outbox_held", "outbox_plan", "outbox_process", "outbox_cursor"):
                deleted = connection.execute(
                    f"delete from {self._names[table]} where relay = %s", (name,)
                ).rowcount
            if not deleted:
                raise ConfigurationError(unknown_relay(name))

    def rebind_relay(self, name: str) -> None:
        """Let a relay name publish to another broker cluster from now on."""
        with self.session.durable() as connection:
            changed = connection.execute(
                f"""update {self._names["outbox_cursor"]}
                       set cluster_id = null, written_by = pg_current_xact_id()
                     where relay = %s""",
                (name,),
            ).rowcount
            if not changed:
                raise ConfigurationError(unknown_relay(name))

    def _one(self, sql: str) -> object:
        with self.session.translated() as connection:
            row = connection.execute(sql).fetchone()
        return row[0] if row else None
