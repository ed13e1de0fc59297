"""How fast messages arrive in a topic, seen from outside by its high watermarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from outbox.bench.draining import PAYLOAD_BYTES
from tests.servers.process import ServerProcess

LOOK_EVERY = 0.02  # seconds


@contextmanager
def counter(topic: str, partitions: int, bootstrap: str) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many messages a topic holds."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"count-{topic}"})
    ends = [TopicPartition(topic, partition) for partition in range(partitions)]
    try:
        yield lambda: sum(consumer.get_watermark_offsets(end, timeout=30)[1] for end in ends)
    finally:
        consumer.close()


def create_topic(topic: str, partitions: int, bootstrap: str) -> None:
    """Make a topic, with one replica."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        future.result(30)


def rate(count: Callable[[], int], messages: int, *, look: Callable[[], None]) -> float:
    """Return messages a second from the first that is seen to the last.

    What the sender needs to start is left out. `look` is called now and then and raises when the
    sender has failed.
    """
    first = _wait(count, 1, look)
    last = _wait(count, messages, look)
    if last[1] != messages:
        raise SystemExit(f"{last[1]} messages arrived instead of {messages}: this is no result")
    if last[0] == first[0]:
        raise SystemExit(f"{messages} messages are too few to be measured: all came at once")
    return (last[1] - first[1]) / (last[0] - first[0])


def _wait(
    count: Callable[[], int], least: int, look: Callable[[], None], patience: float = 120.0
) -> tuple[float, int]:
    seen, moved = 0, time.perf_counter()
    looked = moved
    while (now := count()) < least:
        at = time.perf_counter()
        if now > seen:
            seen, moved = now, at
        if at - moved > patience:
            raise SystemExit(f"nothing arrived for {patience} s after {now} messages of {least}")
        if at - looked > 1:
            look()
            looked = at
        time.sleep(LOOK_EVERY)
    return time.perf_counter(), now


def check(topic: str, bootstrap: str, *, id_header: str = "id") -> None:
    """Raise SystemExit unless a message has what ours has: key, payload, id and trace."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"check-{topic}"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        (message,) = consumer.consume(1, timeout=30) or [None]
    finally:
        consumer.close()
    if message is None or message.error() is not None:
        raise SystemExit(f"nothing can be read from partition 0 of {topic}")
    headers = {name for name, _ in message.headers() or []}
    right = (message.key() or b"").startswith(b"key-") and message.value() == b"x" * PAYLOAD_BYTES
    if not right or not headers >= {id_header, "traceparent"}:
        found = (message.key(), message.value(), message.headers())
        raise SystemExit(f"a message is not what was written, so this is no result: {found}")


def look_at(process: ServerProcess) -> None:
    """Raise RuntimeError with its words if a sender has ended."""
    if not process.running:
        raise RuntimeError(process.tail())
