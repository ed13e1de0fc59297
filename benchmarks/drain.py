"""B1: drain a backlog, as a ratio to the bare read-and-produce loop in the same run.

The bare loop reads the same rows with the same driver and hands them to librdkafka with the same
settings, the same headers and a delivery callback, and keeps no books at all: no cursor, no plan,
no lease, nothing is checked. It is the limit of a relay that is one Python process.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.conditions import Result, conditions, report, servers
from outbox.database import DatabaseUrl
from outbox.migrations import migrate
from outbox.names import Names
from outbox.publishers.kafka import DEFAULTS, OWNED, KafkaPublisher
from outbox.relay.collector import spare_the_collector
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.opening import open_store

PARTITIONS = 6
KEYS = 1_000
PAYLOAD_BYTES = 256
PAGE = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=300_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the result here as well")
    arguments = parser.parse_args()
    spare_the_collector()  # as `outbox-relay run` does; the bare loop gains by it too
    with servers() as (database_url, bootstrap):
        # The first run of a new broker is a slow one, and would flatter whoever comes second.
        measure(bare_loop, database_url, bootstrap, arguments.messages)
        results = [
            Result(
                bare=measure(bare_loop, database_url, bootstrap, arguments.messages),
                ours=measure(relay, database_url, bootstrap, arguments.messages),
            )
            for _ in range(arguments.repetitions)
        ]
        report(
            "B1 drain",
            "messages/s",
            conditions(
                database_url,
                bootstrap,
                messages=arguments.messages,
                payload_bytes=PAYLOAD_BYTES,
                keys=KEYS,
                partitions=PARTITIONS,
            ),
            results,
            goal=0.80,
            path=arguments.json,
        )


Drain = Callable[[str, str, int], Any]


def measure(drain: Drain, database_url: str, bootstrap: str, messages: int) -> float:
    """Return messages a second, from the first statement to the last acknowledgement."""
    topic = f"drain-{time.time_ns()}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        future.result(30)
    url = DatabaseUrl.parse(database_url)
    with psycopg.connect(url.conninfo, autocommit=True) as connection:
        fill(connection, url, topic, messages)
        started = time.perf_counter()
        drain(database_url, bootstrap, messages)
        elapsed = time.perf_counter() - started
    arrived = end_of(topic, bootstrap)
    if arrived != messages:
        raise SystemExit(f"{arrived} of {messages} messages arrived: this is no result")
    admin.delete_topics([topic])
    return messages / elapsed


def fill(connection: psycopg.Connection, url: DatabaseUrl, topic: str, messages: int) -> None:
    """Make the log anew, with a backlog."""
    connection.execute("drop schema public cascade; create schema public")
    migrate(url, Names(), only="outbox")
    connection.execute(
        """insert into outbox_message (topic, key, payload, traceparent)
           select %s, 'key-' || g %% %s, convert_to(repeat('x', %s), 'UTF8'),
                  '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
             from generate_series(1, %s) as g""",
        (topic, KEYS, PAYLOAD_BYTES, messages),
    )
    connection.execute("vacuum analyze outbox_message")
    connection.execute("checkpoint")


def end_of(topic: str, bootstrap: str) -> int:
    """Return how many messages a topic holds."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "drain-count"})
    try:
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
            for partition in range(PARTITIONS)
        )
    finally:
        consumer.close()


def bare_loop(database_url: str, bootstrap: str, messages: int) -> None:
    """Read and produce, nothing else."""
    producer = Producer({**DEFAULTS, **OWNED, "bootstrap.servers": bootstrap})
    acknowledged = 0

    def delivered(error: Any, message: Any) -> None:
        nonlocal acknowledged
        if error is None and message.offset() >= 0:
            acknowledged += 1

    with psycopg.connect(DatabaseUrl.parse(database_url).conninfo, autocommit=True) as connection:
        cursor = connection.cursor(binary=True)
        after = 0
        while True:
            cursor.execute(
                "select seq, id::text, topic, key, payload, traceparent from outbox_message"
                f" where seq > %s order by seq limit {PAGE}",
                (after,),
            )
            rows = cursor.fetchall()
            if not rows:
                break
            for _, id_, topic, key, payload, traceparent in rows:
                headers = [("id", id_.encode()), ("traceparent", traceparent.encode())]
                while True:
                    try:
                        producer.produce(
                            topic, payload, key, on_delivery=delivered, headers=headers
                        )
                        break
                    except BufferError:
                        producer.poll(0.01)
            producer.poll(0)
            after = rows[-1][0]
    producer.flush()
    if acknowledged != messages:
        raise SystemExit(f"the bare loop sent {acknowledged} of {messages}")


def relay(database_url: str, bootstrap: str, _: int) -> None:
    """What `outbox-relay run --drain` does."""
    store = open_store(DatabaseUrl.parse(database_url), Names())
    Relay(store, lambda: KafkaPublisher({"bootstrap.servers": bootstrap}), RelaySettings()).run(
        threading.Event(), drain=True
    )


if __name__ == "__main__":
    main()
