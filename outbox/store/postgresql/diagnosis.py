"""What `doctor` asks of PostgreSQL: read-only, bounded in time, and never a whole table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg import errors as pg

from outbox.database import DatabaseUrl, connect_postgresql
from outbox.errors import OutboxError, SchemaMissing
from outbox.names import RELATIONS, Names
from outbox.schema.check import Finding, check_postgresql
from outbox.schema.version import Component
from outbox.store.base import Blocker, RelayStatus
from outbox.store.diagnosis import (
    SAMPLE,
    Cursor,
    LaneUse,
    NotLearned,
    Replication,
    Right,
    Scan,
    Sequence,
    Server,
    Setting,
    Skew,
    Slot,
    Table,
    TopicUse,
    Transaction,
    Transactions,
)
from outbox.store.held import HeldOverview
from outbox.store.lanes import Topology
from outbox.store.pauses import Pause
from outbox.store.postgresql.admin import PostgreSQLAdmin
from outbox.store.postgresql.lanes import read_topologies
from outbox.store.postgresql.patience import ImpatientConnection
from outbox.store.postgresql.plans import scans
from outbox.store.postgresql.schedule_admin import PostgreSQLScheduleAdmin
from outbox.store.postgresql.sequence import LAST_VALUE
from outbox.store.postgresql.session import BY_INDEX, Session
from outbox.store.postgresql.undelivered import since, undelivered
from outbox.store.scheduling import ScheduleStatus

#: How every look begins. `set local`, since a pooler would hand on anything else to strangers.
_BEGIN = """begin isolation level read committed {};
    set local statement_timeout = '5s'; set local lock_timeout = '1s';
    set local idle_in_transaction_session_timeout = '30s'"""

#: How often the clocks are compared; the quickest answer tells most.
_COMPARISONS = 5

#: What a message weighs as it is sent, but for the headers that the relay adds.
_WEIGHT = """coalesce(octet_length(m.key), 0) + coalesce(octet_length(m.payload), 0)
             + coalesce(octet_length(m.headers::text), 0) + coalesce(octet_length(m.type), 0)
             + coalesce(octet_length(m.content_type), 0)"""


class PostgreSQLDiagnosis(PostgreSQLAdmin):
    """Implements Diagnosis, and what can be asked of PostgreSQL only."""

    def __init__(
        self,
        url: DatabaseUrl,
        names: Names,
        *,
        password_callback: Callable[[], str] | None = None,
    ) -> None:
        super().__init__(names)
        self._url = url
        self._password_callback = password_callback

    def connect(self) -> None:
        """Open the connection, unless it is open; the tables need not exist."""
        if self._session is None or self._session.connection.closed:
            connection = connect_postgresql(
                self._url, password_callback=self._password_callback, kind=ImpatientConnection
            )
            self._session = Session(cast("ImpatientConnection", connection))

    @contextmanager
    def _looking(self, access: str = "read only") -> Iterator[psycopg.Connection]:
        """Yield the connection in a transaction that leaves nothing and takes no time."""
        self.connect()
        try:
            with self.session.translated() as connection:
                connection.execute(_BEGIN.format(access))
                yield connection
        except OutboxError as error:
            if isinstance(error.__cause__, pg.QueryCanceled | pg.LockNotAvailable):
                raise NotLearned(f"given up, to spare the database: {error.__cause__}") from error
            raise
        finally:
            self.session.rollback()

    def _rows(self, sql: str, values: object = None) -> list[tuple[Any, ...]]:
        with self._looking() as connection:
            return connection.execute(sql, cast("Any", values)).fetchall()

    # The server

    def server(self) -> Server:
        """Return what the server is."""
        ((version, number, standby, read_only, pid),) = self._rows(
            """select current_setting('server_version'),
                      current_setting('server_version_num')::int, pg_is_in_recovery(),
                      current_setting('default_transaction_read_only') = 'on', pg_backend_pid()"""
        )
        reason = "default_transaction_read_only is on" if read_only else None
        return Server(
            product="PostgreSQL",
            version=str(version).split()[0],
            number=number,
            writable="it is a standby" if standby else reason,
            # A pooler tells its clients a process id of its own making.
            pooled=pid != self.session.connection.info.backend_pid,
        )

    def clock(self) -> Skew:
        """Compare the clocks."""
        with self._looking() as connection:
            return min((_skew(connection) for _ in range(_COMPARISONS)), key=_uncertainty)

    def settings(self, *names: str) -> list[Setting]:
        """Return settings as this session has them, and as roles and databases are given them."""
        here = self._rows(
            """select name, setting, 'this session' from pg_settings where name = any(%(names)s)
                order by name""",
            {"names": list(names)},
        )
        given = self._rows(
            """select split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1),
                      concat_ws(' ', 'role ' || quote_ident(r.rolname),
                                case when s.setdatabase <> 0 then 'in this database' end)
                 from pg_db_role_setting as s
                 join pg_roles as r on r.oid = s.setrole and r.rolname <> current_user
                cross join lateral unnest(s.setconfig) as entry
                where s.setdatabase in (0, (select oid from pg_database
                                             where datname = current_database()))
                  and split_part(entry, '=', 1) = any(%(names)s)
                order by r.rolname, entry""",
            {"names": list(names)},
        )
        return [Setting(*row) for row in here + given]

    def transactions(self) -> Transactions:
        """Return the transactions that hold back vacuum, or messages, or both; oldest first."""
        rows = self._rows(
            """select 'open', concat_ws(' ', 'pid', pid, usename, application_name, client_addr,
                                        'in database', datname, '(' || state || ')'),
                      extract(epoch from clock_timestamp() - xact_start)::float8
                 from pg_stat_activity
                where xact_start is not null and backend_type = 'client backend'
                  and pid <> pg_backend_pid()
                  and (backend_xmin is not null or backend_xid is not null)
               union all
               select 'prepared', quote_literal(gid) || ' of ' || owner || ' in database '
                                  || database,
                      extract(epoch from clock_timestamp() - prepared)::float8
                 from pg_prepared_xacts
                order by 3 desc"""
        )
        ((complete,),) = self._rows(
            "select pg_has_role(current_user, 'pg_read_all_stats', 'usage')"
        )
        return Transactions(tuple(Transaction(*row) for row in rows), complete)

    def slots(self) -> list[Slot]:
        """Return the replication slots."""
        rows = self._rows(
            """select slot_name::text, active,
                      greatest(pg_wal_lsn_diff(case when pg_is_in_recovery()
                                                    then pg_last_wal_replay_lsn()
                                                    else pg_current_wal_lsn() end,
                                               restart_lsn), 0)::bigint,
                      xmin is not null or catalog_xmin is not null, coalesce(wal_status, '')
                 from pg_replication_slots order by slot_name"""
        )
        return [
            Slot(name, active, kept or 0, holds, state) for name, active, kept, holds, state in rows
        ]

    def replication(self) -> Replication:
        """Return the standbys."""
        ((names,),) = self._rows("select current_setting('synchronous_standby_names')")
        rows = self._rows("select coalesce(sync_state, 'unknown') from pg_stat_replication")
        return Replication(names, tuple(sorted(state for (state,) in rows)))

    def has_role(self, role: str) -> bool:
        """Return whether there is such a role."""
        return bool(self._rows("select from pg_roles where rolname = %s", (role,)))

    def missing_rights(self, role: str | None, rights: list[Right]) -> list[Right]:
        """Return the rights that a role lacks; None: the role of this session."""
        role = role or str(self._rows("select current_user")[0][0])
        with self._looking() as connection:
            return [right for right in rights if not _has(connection, role, right)]

    # The tables

    def has(self, relation: str) -> bool:
        """Return whether there is a table of ours, by its plain name."""
        ((found,),) = self._rows("select to_regclass(%s) is not null", (self._names[relation],))
        return bool(found)

    def drift(self, component: Component) -> list[Finding]:
        """Return how the tables differ from what they should be.

        The comparison makes temporary tables, and takes them back with everything else.
        """
        with self._looking("read write") as connection:
            return check_postgresql(connection, self._names, only=component)

    def schema(self) -> str:
        """Return the schema that the log is in."""
        ((schema,),) = self._rows(
            """select n.nspname::text from pg_class as c join pg_namespace as n
                   on n.oid = c.relnamespace where c.oid = %s::regclass""",
            (self._names["outbox_message"],),
        )
        return str(schema)

    def sequence(self) -> Sequence:
        """Return where the numbers of messages come from."""
        (row,) = self._rows(
            f"""select {LAST_VALUE},
                       coalesce((select max(seq) from {self._names["outbox_message"]}), 0),
                       seqcache, seqincrement, seqcycle
                  from pg_sequence where seqrelid = %s::regclass""",
            (self._names["outbox_message_seq"],),
        )
        return Sequence(*row)

    def cursors(self) -> list[Cursor]:
        """Return what the relay names remember."""
        rows = self._rows(
            f"""select c.relay, c.lane,
                       c.xmin::text <> (c.written_by::text::numeric % 4294967296)::text,
                       p.bound is not null, coalesce(p.bound, 0),
                       coalesce(p.xmax - pg_snapshot_xmax(pg_current_snapshot())::text::bigint, 0),
                       extract(epoch from clock_timestamp() - c.moved_at)::float8,
                       extract(epoch from c.lease_until - clock_timestamp())::float8,
                       c.owner, c.cluster_id
                  from {self._names["outbox_cursor"]} as c
                 cross join lateral (
                    select max(greatest(floor, target_floor, next_floor)) as bound,
                           max(pg_snapshot_xmax(target)::text::bigint) as xmax
                      from {self._names["outbox_plan"]} as p
                     where p.relay = c.relay and p.lane = c.lane and p.plan_no >= c.plan_no) as p
                 order by c.relay, c.lane"""
        )
        return [Cursor(*row) for row in rows]

    def topics(self) -> list[TopicUse]:
        """Return the topics of recent and waiting messages."""
        found: dict[str, TopicUse] = {}
        with self._looking() as connection:
            connection.execute(BY_INDEX)
            topologies = read_topologies(connection, self._names)
            for lane in self._cursors(connection):
                for row in connection.execute(*self._sample(topologies, *lane)).fetchall():
                    use = TopicUse(*row)
                    before = found.get(use.topic)
                    found[use.topic] = max(use, before, key=_importance) if before else use
        return sorted(found.values(), key=lambda use: use.topic)

    def _cursors(self, connection: psycopg.Connection) -> list[tuple[str, str, int | None]]:
        return connection.execute(
            f"""select relay, lane, generation from {self._names["outbox_cursor"]}
                  left join {self._names["outbox_plan"]} using (relay, lane, plan_no)"""
        ).fetchall()

    def _sample(
        self, topologies: list[Topology], relay: str, lane: str, generation: int | None
    ) -> tuple[str, dict[str, object]]:
        log = self._names["outbox_message"]
        waiting = undelivered(self._names, SAMPLE, since(generation, topologies), lane)
        sql = f"""
            select topic, count(*), count(*) filter (where waits), max(weight),
                   ((array_agg(id order by weight desc))[1])::text,
                   count(*) filter (where key is null)
              from (select m.topic, m.key, m.id, {_WEIGHT} as weight, true as waits
                      from ({waiting}) as u join {log} as m using (seq)
                    union all
                    select * from (select m.topic, m.key, m.id, {_WEIGHT}, false
                                     from {log} as m order by m.seq desc limit {SAMPLE}) as recent
                   ) as sample
             group by topic"""
        return sql, {"relay": relay, "lane": lane, "horizon": None}

    def progress(self) -> list[RelayStatus]:
        """Return how far every relay name is."""
        with self._looking():
            return self.status()

    def lane_use(self) -> LaneUse:
        """Return the lanes, and which of them messages name."""
        with self._looking():
            return LaneUse(tuple(self.lanes()), self.other_lanes(0)[0])

    def held_of(self, relays: Iterable[str]) -> dict[str, HeldOverview]:
        """Return what is held of each of these relay names."""
        with self._looking():
            return {relay: self.held_admin().overview(relay) for relay in relays}

    def waits(self) -> ScheduleStatus:
        """Return how much is scheduled, and when the first of it is due."""
        with self._looking():
            return PostgreSQLScheduleAdmin(self.session, self._names).status()

    def pauses_in_force(self) -> tuple[list[Pause], float]:
        """Return every pause, and the time now."""
        with self._looking():
            return self.pauses().in_force(), time.time()

    def holders(self) -> list[Blocker]:
        """Return the transactions that hold messages."""
        with self._looking():
            return self.blockers()

    def subscriptions(self) -> list[str]:
        """Return the logical subscriptions that write into the log."""
        rows = self._rows(
            """select distinct s.subname::text
                 from pg_subscription as s join pg_subscription_rel as r on r.srsubid = s.oid
                where r.srrelid in (select relid from pg_partition_tree(%s::regclass))""",
            (self._names["outbox_message"],),
        )
        return sorted(name for (name,) in rows)

    def tables(self) -> list[Table]:
        """Return our tables, with estimates of their rows."""
        rows = self._rows(
            """select c.relname::text, greatest(c.reltuples, 0)::bigint,
                      coalesce(pg_stat_get_dead_tuples(c.oid), 0), pg_total_relation_size(c.oid),
                      coalesce((select option_value::boolean from pg_options_to_table(c.reloptions)
                                 where option_name = 'autovacuum_enabled'), true),
                      row_security_active(c.oid)
                 from unnest(%s::text[]) as ours (name)
                 join pg_class as c on c.oid = to_regclass(ours.name)
                where c.relkind in ('r', 'p') order by c.relname""",
            ([self._names[relation] for relation in RELATIONS],),
        )
        if not rows:
            raise SchemaMissing
        return [Table(*row) for row in rows]

    def scans(self) -> list[Scan]:
        """Return how the planner would read the log for the relay."""
        with self._looking() as connection:
            return scans(connection, self._names)


def _has(connection: psycopg.Connection, role: str, right: Right) -> bool:
    column = "" if right.column is None else "%(column)s, "
    kind = "column" if right.column else right.kind
    row = connection.execute(
        f"select has_{kind}_privilege(%(role)s, %(name)s, {column}%(privilege)s)",
        {
            "role": role,
            # A schema is the one thing whose name these functions do not parse.
            "name": right.name.strip('"') if right.kind == "schema" else right.name,
            "column": right.column,
            "privilege": right.privilege,
        },
    ).fetchone()
    (granted,) = cast("tuple[bool]", row)
    return granted


def _skew(connection: psycopg.Connection) -> Skew:
    began = time.time()
    row = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    ended = time.time()
    (server,) = cast("tuple[float]", row)
    return Skew(server - (began + ended) / 2, abs(ended - began) / 2)


def _uncertainty(skew: Skew) -> float:
    return skew.within_s


def _importance(use: TopicUse) -> tuple[int, int]:
    """Prefer what was seen waiting, then what is larger."""
    return use.waiting, use.largest
