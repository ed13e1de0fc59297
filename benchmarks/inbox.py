"""B11: a consumer with the inbox, as a ratio to the same handler without one.

The handler writes one row. With a transaction a message, InboxConsumer stands against a plain
consumer's loop; in batches, a transaction of 500 messages that calls `Inbox.record_all` stands
against the same transaction without it.
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from confluent_kafka import Consumer, Producer

from benchmarks.program import Found, options, run
from outbox.bench.draining import KEYS, PAYLOAD_BYTES
from outbox.bench.place import Place
from outbox.bench.result import Goal, Repetition, Row
from outbox.errors import OutboxError
from outbox.inbox import Inbox, InboxConsumer, ReceivedMessage, from_kafka

BATCH = 500

_UNIT = "messages/s"


def main() -> None:
    parser = options(
        __doc__,
        messages=(int, 5_000, "with a transaction each"),
        batched=(int, 50_000, "in batches"),
        repetitions=(int, 10, "how often with and without the inbox"),
    )
    run("B11", parser, measure)


def measure(place: Place, arguments: argparse.Namespace) -> Found:
    _produce(place, max(arguments.messages, arguments.batched))
    each = _row(
        "inbox, a transaction a message",
        "a plain consumer's loop",
        (_inbox_consumer, _plain_loop),
        place,
        arguments.messages,
        arguments.repetitions,
        Goal(0.70, "at least"),
    )
    many = _row(
        f"inbox, record_all in transactions of {BATCH}",
        "the same transactions without the inbox",
        (_batches_with_inbox, _batches_without),
        place,
        arguments.batched,
        arguments.repetitions,
        Goal(0.85, "at least"),
    )
    place.broker.delete_groups([place.topic])
    return Found([each, many])


class _Handler:
    """Writes a row, and knows when it began and ended: to join and leave a group takes its time."""

    began_at = 0.0
    ended_at = 0.0

    def begin(self) -> None:
        self.began_at = self.began_at or time.perf_counter()

    def end(self) -> None:
        self.ended_at = time.perf_counter()

    def __call__(self, connection: psycopg.Connection, message: ReceivedMessage) -> None:
        self.begin()
        connection.execute("insert into effect values (%s, %s)", (message.id, message.payload))


Consume = Callable[[Place, psycopg.Connection, _Handler, int], None]


def _row(
    what: str,
    than: str,
    both: tuple[Consume, Consume],
    place: Place,
    messages: int,
    repetitions: int,
    goal: Goal,
) -> Row:
    for consume in both:
        _speed(consume, place, min(messages, 1_000))
    found = [_repetition(both, place, messages, number) for number in range(repetitions)]
    return Row("B11", what, _UNIT, than, found, goal)


def _repetition(
    both: tuple[Consume, Consume], place: Place, messages: int, number: int
) -> Repetition:
    """Measure both, ours first in every other repetition: the machine's mood changes with time."""
    order = both if number % 2 == 0 else both[::-1]
    speeds = {consume: _speed(consume, place, messages) for consume in order}
    return Repetition(speeds[both[0]], speeds[both[1]])


def _speed(consume: Consume, place: Place, messages: int) -> float:
    """Return messages a second, from the first one's handling to the last commit."""
    place.renew()
    handler = _Handler()
    with place.servers.connect() as connection:
        connection.execute(f"set search_path to {place.schema}")
        connection.execute("create table effect (message_id text, payload bytea)")
        consume(place, connection, handler, messages)
        elapsed = handler.ended_at - handler.began_at
        (count,) = connection.execute("select count(*) from effect").fetchone() or (0,)
    if count != messages:
        raise OutboxError(f"{count} of {messages} messages took effect: this is no result")
    return messages / elapsed


def _produce(place: Place, messages: int) -> None:
    producer = Producer({**place.servers.kafka, "linger.ms": 5})
    for number in range(messages):
        headers = [("id", str(uuid.uuid4()).encode())]
        while True:
            try:
                producer.produce(
                    place.topic, b"x" * PAYLOAD_BYTES, f"key-{number % KEYS}", headers=headers
                )
                break
            except BufferError:
                producer.poll(0.01)
    producer.flush()


# A transaction a message


def _inbox_consumer(
    place: Place, connection: psycopg.Connection, handler: _Handler, messages: int
) -> None:
    @contextmanager
    def transaction() -> Iterator[psycopg.Connection]:
        with connection.transaction():
            yield connection

    with InboxConsumer(
        Inbox("bench", schema=place.schema),
        transaction_factory=transaction,
        kafka={**place.servers.kafka, "group.id": _group(place)},
        topics=[place.topic],
    ) as consumer:
        handled = 0
        while handled < messages:
            handled += consumer.run_once(handler, timeout=1.0) is not None
        handler.end()


def _plain_loop(
    place: Place, connection: psycopg.Connection, handler: _Handler, messages: int
) -> None:
    with _plain_consumer(place) as consumer:
        handled = 0
        while handled < messages:
            kafka_message = consumer.poll(1.0)
            if kafka_message is None or kafka_message.error():
                continue
            message = from_kafka(kafka_message)
            with connection.transaction():
                handler(connection, message)
            consumer.store_offsets(kafka_message)
            handled += 1
        handler.end()


# Batches


def _batches_with_inbox(
    place: Place, connection: psycopg.Connection, handler: _Handler, messages: int
) -> None:
    inbox = Inbox("bench", schema=place.schema)

    def handle(batch: list[ReceivedMessage]) -> None:
        handler.begin()
        for message in inbox.record_all(connection, batch):
            handler(connection, message)

    _batches(place, connection, handler, messages, handle)


def _batches_without(
    place: Place, connection: psycopg.Connection, handler: _Handler, messages: int
) -> None:
    def handle(batch: list[ReceivedMessage]) -> None:
        for message in batch:
            handler(connection, message)

    _batches(place, connection, handler, messages, handle)


def _batches(
    place: Place,
    connection: psycopg.Connection,
    handler: _Handler,
    messages: int,
    handle: Callable[[list[ReceivedMessage]], None],
) -> None:
    with _plain_consumer(place) as consumer:
        handled = 0
        while handled < messages:
            batch = consumer.consume(min(BATCH, messages - handled), 1.0)
            with connection.transaction():
                handle([from_kafka(kafka_message) for kafka_message in batch])
            if batch:
                consumer.commit(asynchronous=True)
            handled += len(batch)
        handler.end()


@contextmanager
def _plain_consumer(place: Place) -> Iterator[Any]:
    """Yield a consumer whose offsets are committed once a second, as InboxConsumer's are."""
    consumer = Consumer(
        {
            **place.servers.kafka,
            "group.id": _group(place),
            "auto.offset.reset": "earliest",
            "enable.auto.offset.store": False,
            "auto.commit.interval.ms": 1_000,
        }
    )
    consumer.subscribe([place.topic])
    try:
        yield consumer
    finally:
        consumer.close()


def _group(place: Place) -> str:
    return f"{place.topic}-{time.time_ns()}"


if __name__ == "__main__":
    main()
