"""B2: drain a backlog, as a ratio to Debezium in the same run.

Debezium's connector for PostgreSQL with its outbox event router, in Kafka Connect, tuned, and warm:
what it drains first is thrown away. Its time runs from the first message that is seen in the topic
to the last, so that what the connector needs to start is not counted; ours runs from the first
statement to the last acknowledgement.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from benchmarks.program import PARTITIONS, options
from benchmarks.rivals import arrivals
from benchmarks.rivals.debezium_connect import DebeziumConnect, database_settings, versions
from benchmarks.rivals.reporting import Drain, Measure, run
from outbox.bench.draining import KEYS, PAYLOAD_BYTES

SLOT = "outbox_bench_debezium"

TABLE = """
drop schema if exists rival cascade;
create schema rival;
create table rival.outbox (
    id uuid primary key default gen_random_uuid(),
    aggregatetype text not null,
    aggregateid text not null,
    type text not null default 'event',
    payload bytea not null,
    traceparent text not null
);
drop publication if exists outbox_bench_debezium;
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
    parser = options(
        __doc__,
        messages=(int, 300_000, "the backlog"),
        repetitions=(int, 5, "how often both are measured"),
        warm_up=(int, 600_000, "messages that Debezium drains before anything is measured"),
        rows_per_transaction=(int, 100, "in Debezium's backlog"),
    )
    arguments = parser.parse_args()
    drain = Drain(
        "B2",
        "Debezium, warm",
        2.0,
        lambda url, bootstrap: running(url, bootstrap, arguments),
        {
            **versions(),
            "warm_up": arguments.warm_up,
            "rows_per_transaction": arguments.rows_per_transaction,
        },
    )
    run(drain, arguments)


@contextmanager
def running(url: str, bootstrap: str, arguments: argparse.Namespace) -> Iterator[Measure]:
    """Start Kafka Connect, warm it up, and yield what measures one drain."""
    with psycopg.connect(url, autocommit=True) as connection:
        _require_logical_decoding(connection)
        connection.execute(TABLE)
        try:
            with DebeziumConnect(bootstrap) as connect:
                connect.add(
                    {
                        **database_settings(url),
                        "slot.name": SLOT,
                        "publication.name": SLOT,
                        "table.include.list": "rival.outbox",
                    }
                )
                rows = arguments.rows_per_transaction
                if arguments.warm_up:
                    drained(connect, connection, bootstrap, arguments.warm_up, rows)
                yield lambda: drained(connect, connection, bootstrap, arguments.messages, rows)
        finally:
            _clean(connection)


def drained(
    connect: DebeziumConnect,
    connection: psycopg.Connection,
    bootstrap: str,
    messages: int,
    rows_per_transaction: int,
) -> float:
    """Write a backlog while the connector is stopped; return how fast it is drained."""
    topic = f"debezium-{time.time_ns()}"
    arrivals.create_topic(topic, PARTITIONS, bootstrap)
    connect.stop()
    connection.execute("truncate rival.outbox")
    connection.execute(
        FILL.format(
            topic=topic,
            keys=KEYS,
            payload_bytes=PAYLOAD_BYTES,
            messages=messages,
            last=messages - 1,
            step=rows_per_transaction,
        )
    )
    connection.execute("vacuum analyze rival.outbox")
    connection.execute("checkpoint")
    connect.resume()
    with arrivals.counter(topic, PARTITIONS, bootstrap) as count:
        found = arrivals.rate(count, messages, look=connect.look)
    connect.stop()
    arrivals.check(topic, bootstrap)
    return found


def _require_logical_decoding(connection: psycopg.Connection) -> None:
    row = connection.execute("show wal_level").fetchone()
    if row != ("logical",):
        raise SystemExit("Debezium needs a PostgreSQL with `wal_level = logical`: set it, restart")


def _clean(connection: psycopg.Connection) -> None:
    connection.execute("drop publication if exists outbox_bench_debezium")
    connection.execute("drop schema if exists rival cascade")
    connection.execute(
        "select pg_terminate_backend(active_pid) from pg_replication_slots"
        " where slot_name = %s and active",
        (SLOT,),
    )
    connection.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
        (SLOT,),
    )


if __name__ == "__main__":
    main()
