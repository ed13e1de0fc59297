"""B2: drain a backlog, as a ratio to Debezium in the same run.

Debezium's connector for PostgreSQL with its outbox event router, in Kafka Connect, tuned, and warm:
what it drains first is thrown away. Its time runs from the first message that is seen in the topic
to the last, so that what the connector needs to start is not counted; ours runs from the first
statement to the last acknowledgement.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg

from benchmarks.program import options
from benchmarks.rivals import arrivals
from benchmarks.rivals.arrivals import Drained
from benchmarks.rivals.debezium_connect import DebeziumConnect, database_settings, versions
from benchmarks.rivals.reporting import Drain, Measure, run
from outbox.bench.draining import KEYS, PAYLOAD_BYTES

SLOT = "outbox_bench_debezium"

TABLE = """
create schema rival;
create table rival.outbox (
    id uuid primary key default gen_random_uuid(),
    aggregatetype text not null,
    aggregateid text not null,
    type text not null default 'event',
    payload bytea not null,
    traceparent text not null
);
create publication outbox_bench_debezium for table rival.outbox with (publish = 'insert');
"""

#: Many transactions: one that is too large for PostgreSQL's memory would be spilled to disk.
FILL = """
do $$
begin
    for start in 0..{last} by {step} loop
        insert into rival.outbox (aggregatetype, aggregateid, payload, traceparent)
        select '{topic}', 'key-' || g % {keys}, convert_to(repeat('x', {payload_bytes}), 'UTF8'),
               '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
          from generate_series(start + 1, least(start + {step}, {messages})) as g;
        commit;
    end loop;
end $$
"""


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.warm_up is None:
        arguments.warm_up = 2 * arguments.messages
    told = {name: value for name, value in vars(arguments).items() if name != "json"}
    start = functools.partial(running, arguments=arguments)
    run(Drain("B2", "Debezium, warm", 2.0, start, {**versions(), **told}), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        messages=(int, 300_000, "the backlog"),
        repetitions=(int, 5, "how often both are measured"),
        rows_per_transaction=(int, 100, "in Debezium's backlog"),
    )
    parser.add_argument(
        "--warm-up",
        type=int,
        metavar="MESSAGES",
        help="drained by Debezium before anything is measured (default: twice the backlog)",
    )
    for whose in ("connector", "worker"):
        parser.add_argument(
            f"--{whose}",
            metavar="NAME=VALUE",
            action="append",
            default=[],
            help=f"another setting of the {whose}; may be given again",
        )
    return parser


@contextmanager
def running(
    url: str, bootstrap: str, messages: int, arguments: argparse.Namespace
) -> Iterator[Measure]:
    """Start Kafka Connect, warm it up, and yield what measures one drain."""
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        _require_logical_decoding(connection)
        _clean(connection)  # what a run that was killed has left: its slot would keep WAL
        stack.callback(_clean, connection)
        connection.execute(TABLE)
        connect = stack.enter_context(DebeziumConnect(bootstrap, _pairs(arguments.worker)))
        connect.add({**_connector(url), **_pairs(arguments.connector)})
        source = Source(connect, connection, bootstrap, arguments.rows_per_transaction)
        if arguments.warm_up:
            source.drained(arguments.warm_up)
        yield lambda: source.drained(messages)


def _connector(url: str) -> dict[str, str]:
    return {
        **database_settings(url),
        "slot.name": SLOT,
        "publication.name": SLOT,
        "table.include.list": "rival.outbox",
    }


def _pairs(settings: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in settings)}


@dataclass(frozen=True)
class Source:
    """Debezium's table and the connector that reads what is written there."""

    connect: DebeziumConnect
    connection: psycopg.Connection
    bootstrap: str
    rows_per_transaction: int

    def drained(self, messages: int) -> Drained:
        """Write a backlog while the connector is stopped; return how fast it is drained."""
        with arrivals.new_topic("debezium", self.bootstrap) as topic:
            self.connect.stop()
            self._fill(topic, messages)
            self.connect.resume()
            with arrivals.counter(topic, self.bootstrap) as count:
                found = arrivals.drained(count, messages, self.connect.pid, look=self.connect.look)
            # Before the topic is deleted: so the positions are saved, and nothing is sent again.
            self.connect.stop()
            arrivals.check(topic, self.bootstrap)
        return found

    def _fill(self, topic: str, messages: int) -> None:
        self.connection.execute("set synchronous_commit = off")  # one wait a commit would be long
        self.connection.execute("truncate rival.outbox")
        self.connection.execute(
            FILL.format(
                topic=topic,
                keys=KEYS,
                payload_bytes=PAYLOAD_BYTES,
                messages=messages,
                last=messages - 1,
                step=self.rows_per_transaction,
            )
        )
        self.connection.execute("vacuum analyze rival.outbox")
        self.connection.execute("checkpoint")


def _require_logical_decoding(connection: psycopg.Connection) -> None:
    row = connection.execute("show wal_level").fetchone()
    if row != ("logical",):
        raise SystemExit("Debezium needs a PostgreSQL with `wal_level = logical`: set it, restart")


def _clean(connection: psycopg.Connection) -> None:
    connection.execute("set client_min_messages = warning")
    connection.execute("drop publication if exists outbox_bench_debezium")
    connection.execute("drop schema if exists rival cascade")
    connection.execute(
        "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots"
        " where slot_name = %s and active",
        (SLOT,),
    )
    connection.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
        (SLOT,),
    )


if __name__ == "__main__":
    main()
