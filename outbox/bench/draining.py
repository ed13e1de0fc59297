"""Drain a backlog: by the relay, and by a bare loop that reads and produces and keeps no books.

The bare loop reads the same rows with the same driver and hands them to librdkafka with the same
settings, the same headers and a delivery callback. It has no cursor, no plan, no lease, and checks
nothing: it is the limit of a relay that is one Python process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from outbox.bench.broker import arrived
from outbox.bench.place import Place
from outbox.bench.result import Goal, Repetition, Row
from outbox.errors import OutboxError
from outbox.publishers.choosing import make_publisher
from outbox.publishers.kafka import DEFAULTS, OWNED
from outbox.record import DeliveryMode
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.opening import open_store

KEYS = 1_000
PAYLOAD_BYTES = 256

#: What the deliveries are held to.
GOALS: dict[DeliveryMode, float] = {"at-least-once": 0.80, "exactly-once": 0.70}

#: Rows that the bare loop reads at a time, as the relay does.
_PAGE = RelaySettings().page_messages

Drain = Callable[[Place], None]


def drain_row(place: Place, messages: int, repetitions: int, delivery: DeliveryMode) -> Row:
    """Measure the bare loop and the relay in turn, in messages a second."""
    # The first run of a new broker is a slow one, and would flatter whoever comes second.
    speed(bare_loop, place, messages)
    # And the first run of a relay in this process loads its modules.
    speed(lambda place: relay(place, delivery), place, min(messages, 1_000))
    return Row(
        "B1",
        f"drain, {delivery}",
        "messages/s",
        "a bare loop that reads and produces",
        [
            Repetition(
                baseline=speed(bare_loop, place, messages),
                ours=speed(lambda place: relay(place, delivery), place, messages),
            )
            for _ in range(repetitions)
        ],
        Goal(GOALS[delivery], "at least"),
    )


def speed(drain: Drain, place: Place, messages: int) -> float:
    """Return messages a second, from the first statement to the last acknowledgement.

    Raises OutboxError if not all of them are in the topic afterwards, or more.
    """
    place.renew()
    fill(place, messages)
    with place.broker.reading(place.topic) as consumer:
        began = time.perf_counter()
        drain(place)
        elapsed = time.perf_counter() - began
        count = arrived(consumer, messages)
    if count != messages:
        raise OutboxError(f"{count} of {messages} messages arrived, so this is no result")
    return messages / elapsed


def fill(
    place: Place, messages: int, payload_bytes: int = PAYLOAD_BYTES, *, settle: bool = True
) -> None:
    """Write a backlog of messages with keys and traces, in one transaction.

    `settle`: let vacuum and statistics be done with, so that they do not come in the midst of it.
    """
    with place.servers.connect() as connection:
        connection.execute(
            f"""insert into {place.names["outbox_message"]} (topic, key, payload, traceparent)
               select %s, 'key-' || g %% %s, convert_to(repeat('x', %s), 'UTF8'),
                      '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
                 from generate_series(1, %s) as g""",
            (place.topic, KEYS, payload_bytes, messages),
        )
        if settle:
            connection.execute(f"vacuum analyze {place.names['outbox_message']}")


def bare_loop(place: Place) -> None:
    """Read and produce, nothing else."""
    from confluent_kafka import Producer

    producer = Producer({**DEFAULTS, **place.servers.kafka, **OWNED})
    acknowledged = sent = after = 0

    def delivered(error: Any, message: Any) -> None:
        nonlocal acknowledged
        if error is None and message.offset() >= 0:
            acknowledged += 1

    query = (
        "select seq, id::text, topic, key, payload, traceparent from "
        f"{place.names['outbox_message']} where seq > %s order by seq limit {_PAGE}"
    )
    with place.servers.connect() as connection:
        cursor = connection.cursor(binary=True)
        while rows := cursor.execute(query, (after,)).fetchall():
            for _, id_, topic, key, payload, traceparent in rows:
                headers = [("id", id_.encode()), ("traceparent", traceparent.encode())]
                while True:  # here, and not in a function: the limit should be one
                    try:
                        producer.produce(
                            topic, payload, key, on_delivery=delivered, headers=headers
                        )
                        break
                    except BufferError:
                        producer.poll(0.01)
            producer.poll(0)
            sent += len(rows)
            after = rows[-1][0]
    producer.flush(60.0)
    if acknowledged != sent:
        raise OutboxError(f"the bare loop sent {sent} messages, and Kafka took {acknowledged}")


def relay(place: Place, delivery: DeliveryMode = "at-least-once") -> None:
    """Do what `outbox-relay run --drain` does, in this process."""
    with closing(make_relay(place, delivery)) as made:
        made.run(threading.Event(), drain=True)


def make_relay(place: Place, delivery: DeliveryMode = "at-least-once") -> Relay:
    """Return a relay for the place."""
    servers = place.servers
    return Relay(
        open_store(servers.url, place.names, password_callback=servers.password_callback),
        lambda: make_publisher(servers.kafka, delivery),
        RelaySettings(delivery=delivery),
    )
