"""A schema and a topic of one's own, which are gone afterwards whatever happens.

The schema's comment says whose it is and which topic belongs to it. It is written together with the
schema, before the topic is made, and removed after it: so what a run that was killed left behind is
known by this comment and nothing else.
"""

from __future__ import annotations

import json
import logging
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString, cast

from outbox.bench.broker import Broker
from outbox.bench.process import is_pooled
from outbox.database import DatabaseUrl, PasswordCallback, connect_postgresql
from outbox.errors import ConfigurationError, DatabaseUnavailable, OutboxError
from outbox.migrations import migrate
from outbox.names import Names
from outbox.record import EXACTLY_ONCE
from outbox.store.owner import is_certainly_dead, new_owner

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger("outbox.bench")

_MARK = "outbox-relay bench: "

#: Names of what is made begin with these, for people who look; nothing is removed because of them.
_SCHEMA, _TOPIC = "outbox_bench_", "outbox-bench-"


@dataclass(frozen=True, slots=True)
class Servers:
    """Where to measure. `kafka`: librdkafka's properties, `bootstrap.servers` among them.

    `timeout_s`: how long to wait for a broker that is away.
    """

    url: DatabaseUrl
    kafka: Mapping[str, object]
    password_callback: PasswordCallback | None = field(default=None, repr=False)
    timeout_s: float = 30.0

    def connect(self) -> psycopg.Connection:
        """Connect to the database, in autocommit mode."""
        return connect_postgresql(
            self.url,
            password_callback=self.password_callback,
            application_name="outbox-relay bench",
        )


@dataclass(frozen=True, slots=True)
class Place:
    """The schema and the topic of one run."""

    servers: Servers
    broker: Broker
    names: Names
    topic: str
    mark: str

    @property
    def schema(self) -> str:
        """Return the schema's name."""
        return str(self.names.schema)

    def renew(self, *, retention_s: int | None = None) -> None:
        """Make all tables anew, and nothing else of what was in the schema."""
        with self.servers.connect() as connection:
            _delete_groups(connection, self.broker, self.schema)
            _make_schema(connection, self.schema, self.mark)
        migrate(
            self.servers.url,
            self.names,
            retention_s=retention_s,
            password_callback=self.servers.password_callback,
        )


@contextmanager
def place(
    servers: Servers,
    partitions: int,
    say: Callable[[str], None] = logger.info,
    *,
    replication: int = -1,
) -> Iterator[Place]:
    """Make a schema and a topic, and remove them, and first those of runs that were killed.

    `replication`: replicas of the topic, -1 as the broker thinks fit. Raises ConfigurationError
    where rights are missing, DatabaseUnavailable, BrokerUnavailable.
    """
    broker = Broker(servers.kafka, servers.timeout_s)
    with servers.connect() as connection:
        _check_rights(connection)
        remove_leftovers(connection, broker, say)
        made = _new_place(connection, servers, broker)
        try:
            _make_schema(connection, made.schema, made.mark)
            broker.create_topic(made.topic, partitions, replication)
            yield made
        finally:
            with _undisturbed(say):
                _remove(made, say)


@contextmanager
def _undisturbed(say: Callable[[str], None]) -> Iterator[None]:
    """Let nobody interrupt a removal that takes a second or two; they were heard already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def tell(*_: object) -> None:
        say("removing what was made for this; a moment")

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _new_place(connection: psycopg.Connection, servers: Servers, broker: Broker) -> Place:
    token = secrets.token_hex(6)
    topic = _TOPIC + token
    mark = {
        "owner": new_owner(),
        # Behind a pooler a session is not ours, and may end before we do.
        "session": None if is_pooled(connection) else _one(connection, _OWN_SESSION),
        "cluster": broker.cluster_id,
        "topic": topic,
    }
    return Place(servers, broker, Names(schema=_SCHEMA + token), topic, _MARK + json.dumps(mark))


_OWN_SESSION: LiteralString = (
    "select pid || ' ' || backend_start from pg_stat_activity where pid = pg_backend_pid()"
)


def _check_rights(connection: psycopg.Connection) -> None:
    (name, may, standby) = cast(
        "tuple[str, bool, bool]",
        connection.execute(
            """select current_database(),
                      has_database_privilege(current_database(), 'create'), pg_is_in_recovery()"""
        ).fetchone(),
    )
    if standby:
        raise ConfigurationError("the database is a standby, which takes no writes; use a primary")
    if not may:
        raise ConfigurationError(
            f"this role may not create a schema in the database {name!r}, and the benchmark needs "
            f'one of its own: grant create on database "{name}" to it, or use another database'
        )


def _make_schema(connection: psycopg.Connection, schema: str, mark: str) -> None:
    """Make the schema with its comment, or empty it; in one transaction."""
    from psycopg import sql

    with connection.transaction():
        _drop(connection, schema)
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        comment = sql.SQL("comment on schema {} is {}")
        connection.execute(comment.format(sql.Identifier(schema), sql.Literal(mark)))


def _drop(connection: psycopg.Connection, schema: str) -> None:
    from psycopg import sql

    with connection.transaction():
        # It says what else it drops, table by table.
        connection.execute("set local client_min_messages = warning")
        drop = sql.SQL("drop schema if exists {} cascade")
        connection.execute(drop.format(sql.Identifier(schema)))


def _remove(made: Place, say: Callable[[str], None]) -> None:
    """Remove everything, over a new connection: the other one may have broken unnoticed."""
    try:
        with made.servers.connect() as connection:
            problem = _remove_all(connection, made.broker, made.schema, made.topic, made.mark)
    except DatabaseUnavailable as error:
        problem = f"the schema {made.schema} and the topic {made.topic} may be left: {error}"
    if problem:
        say(f"{problem}. The next run removes what is left")


def _remove_all(
    connection: psycopg.Connection, broker: Broker, schema: str, topic: str, mark: str
) -> str | None:
    """Remove what is on the broker, then the schema; return what went wrong with the broker."""
    from psycopg import OperationalError

    try:
        problem = _removed_from(broker, connection, schema, topic)
        if problem:  # the comment must outlive the topic that it tells of
            _make_schema(connection, schema, mark)
        else:
            _drop(connection, schema)
    except OperationalError as error:
        raise DatabaseUnavailable(str(error)) from error
    return problem


def _removed_from(
    broker: Broker, connection: psycopg.Connection, schema: str, topic: str
) -> str | None:
    """Delete a topic and the groups; return the sentence why that was not possible, or None."""
    try:
        _delete_groups(connection, broker, schema)
        broker.delete_topic(topic)
    except OutboxError as error:
        return str(error)
    return None


def _delete_groups(connection: psycopg.Connection, broker: Broker, schema: str) -> None:
    """Delete the groups in which Kafka keeps the positions of an exactly-once relay."""
    cursor = Names(schema=schema)["outbox_cursor"]
    if _one(connection, "select to_regclass(%s) is null", cursor):
        return
    rows = connection.execute(
        f"select origin::text from {cursor} where delivery = %s", (EXACTLY_ONCE,)
    ).fetchall()
    if rows:
        broker.delete_groups([origin for (origin,) in rows])


# What runs that were killed have left


def remove_leftovers(
    connection: psycopg.Connection, broker: Broker, say: Callable[[str], None]
) -> None:
    """Remove the schemas and topics of runs that have certainly ended, and say so."""
    query: LiteralString = """
        select nspname, obj_description(oid, 'pg_namespace') from pg_namespace
         where pg_has_role(nspowner, 'usage')
           and starts_with(obj_description(oid, 'pg_namespace'), %s) order by nspname"""
    for schema, comment in connection.execute(query, (_MARK,)).fetchall():
        mark = _parsed(comment)
        if mark is None or not _has_ended(connection, mark):
            continue
        if mark["cluster"] != broker.cluster_id:
            say(
                f"an earlier run left the schema {schema}, and on another Kafka cluster the topic "
                f"{mark['topic']}; run this with that cluster to have both removed"
            )
            continue
        problem = _remove_all(connection, broker, schema, mark["topic"], comment)
        say(problem or f"removed what an earlier run left: {schema}, {mark['topic']}")


def _parsed(comment: str) -> dict[str, Any] | None:
    with suppress(ValueError):
        mark = json.loads(comment.removeprefix(_MARK))
        if isinstance(mark, dict) and mark.keys() >= {"owner", "session", "cluster", "topic"}:
            return mark
    return None


def _has_ended(connection: psycopg.Connection, mark: Mapping[str, Any]) -> bool:
    """Return whether a run has ended: its process is known to be dead, or its session is gone."""
    if is_certainly_dead(str(mark["owner"])):
        return True
    if mark["session"] is None:
        return False
    query: LiteralString = "select pid from pg_stat_activity where pid || ' ' || backend_start = %s"
    return not _one(connection, query, mark["session"])


def _one(connection: psycopg.Connection, query: LiteralString, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]
