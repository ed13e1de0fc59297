"""How fast messages arrive in a topic, seen from outside by its high watermarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from benchmarks.program import PARTITIONS
from outbox.bench.broker import Broker
from outbox.bench.draining import PAYLOAD_BYTES
from outbox.bench.process import cpu_seconds, peak_memory_bytes
from tests.servers.process import ServerProcess

LOOK_EVERY = 0.02  # seconds


@contextmanager
def counter(topic: str, bootstrap: str) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many messages a topic holds."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"count-{topic}"})
    ends = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    try:
        yield lambda: sum(consumer.get_watermark_offsets(end, timeout=30)[1] for end in ends)
    finally:
        consumer.close()


@contextmanager
def new_topic(rival: str, bootstrap: str) -> Iterator[str]:
    """Make a topic, and delete it at the end; yield its name."""
    broker = Broker({"bootstrap.servers": bootstrap})
    name = f"outbox-bench-{rival}-{time.time_ns()}"
    broker.create_topic(name, PARTITIONS)
    try:
        yield name
    finally:
        broker.delete_topic(name)


@dataclass(frozen=True)
class Drained:
    """Messages a second; of who sent them, processor time a message and the most memory it took.

    None where unknown, or not known of it alone.
    """

    per_second: float
    cpu_us: float | None = None
    memory_mib: float | None = None


def drained(
    count: Callable[[], int], messages: int, pid: int, *, look: Callable[[], None]
) -> Drained:
    """Return how fast messages come, from the first that is seen to the last.

    What the sender, the process `pid`, needs to start is left out. `look` is called now and then
    and raises when the sender has failed.
    """
    first = _wait(count, 1, look)
    used = cpu_seconds([pid])
    last = _wait(count, messages, look)
    used_then = cpu_seconds([pid])
    if last[1] != messages:
        raise SystemExit(f"{last[1]} messages arrived instead of {messages}: this is no result")
    if last[1] == first[1]:
        raise SystemExit(f"{messages} messages are too few to be measured: all came at once")
    counted = last[1] - first[1]
    known = used is not None and used_then is not None
    cpu_us = ((used_then or 0.0) - (used or 0.0)) * 1e6 / counted if known else None
    memory = peak_memory_bytes(pid)
    return Drained(counted / (last[0] - first[0]), cpu_us, memory and memory / 2**20)


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


def of(
    process: ServerProcess, topic: str, messages: int, bootstrap: str, id_header: str = "id"
) -> Drained:
    """Return how fast a process fills a topic, having looked at what came."""
    with counter(topic, bootstrap) as count:
        found = drained(count, messages, process.pid, look=lambda: look_at(process))
    check(topic, bootstrap, id_header)
    return found


def check(topic: str, bootstrap: str, id_header: str = "id") -> None:
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
