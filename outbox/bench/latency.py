"""Latency: from just before the INSERT of a message to when a consumer's poll returns it.

Messages are written at a steady rate, whatever becomes of them, one in each transaction. Writers
and consumer are one process with one clock; what moves the messages is another.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from outbox.bench.broker import Broker
from outbox.bench.draining import KEYS, PAYLOAD_BYTES
from outbox.bench.place import Place
from outbox.bench.process import cpu_seconds
from outbox.bench.result import percentile
from outbox.errors import BrokerUnavailable

#: Digits at the beginning of each payload: the writer's clock, in nanoseconds.
_STAMP = 20

_PATIENCE_S = 30.0

Write = Callable[[str, bytes], None]


class Pipeline(Protocol):
    """What moves rows to a topic, and how a row is written for it."""

    @property
    def topic(self) -> str:
        """The topic where the payloads arrive as they were written."""

    def writer(self) -> AbstractContextManager[Write]:
        """Open a connection; each call writes a key and a payload in a transaction of its own."""

    def pids(self) -> list[int]:
        """The processes whose processor time counts, as far as they are on this machine."""


@dataclass(frozen=True, slots=True)
class Load:
    """Messages a second for so many seconds, after a warm-up, over so many connections."""

    rate: int
    seconds: float
    warm_up_s: float = 2.0
    connections: int = 4

    @property
    def count(self) -> int:
        """All messages."""
        return round(self.rate * (self.warm_up_s + self.seconds))

    @property
    def warm_up_count(self) -> int:
        """Those of them that do not count."""
        return round(self.rate * self.warm_up_s)


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a load. `rate`: what the writers reached. `cores`: None where unknown."""

    p50_ms: float
    p99_ms: float
    rate: float
    cores: float | None


def under_load(pipeline: Pipeline, broker: Broker, load: Load) -> Seen:
    """Write at a steady rate and return how long messages took."""
    with broker.reading(pipeline.topic) as consumer, _Writers(pipeline, load) as writers:
        delays = _Delays(load)
        used, began = cpu_seconds(pipeline.pids()), time.perf_counter()
        writers.start()
        delays.take_from(consumer, writers)
        used_then, ended = cpu_seconds(pipeline.pids()), time.perf_counter()
    known = used is not None and used_then is not None
    return Seen(
        percentile(delays.counted, 0.5) / 1e6,
        percentile(delays.counted, 0.99) / 1e6,
        load.count / writers.took_s,
        ((used_then or 0.0) - (used or 0.0)) / (ended - began) if known else None,
    )


def of_lone_messages(
    pipeline: Pipeline, broker: Broker, count: int, pause_s: tuple[float, float] = (0.3, 0.5)
) -> list[float]:
    """Return, in milliseconds, how long messages took that were written to an idle pipeline."""
    spread = random.Random(0)  # noqa: S311 - lets writes and looks fall out of step, guards nothing
    took = []
    with broker.reading(pipeline.topic) as consumer, pipeline.writer() as write:
        for number in range(count + 1):
            time.sleep(spread.uniform(*pause_s))
            write(f"key-{number % KEYS}", _payload())
            written = _next_stamp(consumer)
            took.append((time.monotonic_ns() - written) / 1e6)
    return took[1:]  # the first waits for connections and metadata


def _next_stamp(consumer: Any) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            return int(message.value()[:_STAMP])
    raise BrokerUnavailable(f"a message did not arrive within {_PATIENCE_S:g} s: no result")


def _payload() -> bytes:
    return b"%020d" % time.monotonic_ns() + b"x" * (PAYLOAD_BYTES - _STAMP)


@dataclass(slots=True)
class _Delays:
    """Takes messages from a consumer, and of those that count how old they are."""

    load: Load
    counted: list[int] = field(default_factory=list)
    seen: int = 0

    def take_from(self, consumer: Any, writers: _Writers) -> None:
        """Poll until every message has come. Raises BrokerUnavailable if one does not."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.seen < self.load.count:
            message = consumer.poll(0.2)
            now = time.monotonic_ns()
            writers.raise_failure()
            if message is not None and message.error() is None:
                deadline = time.monotonic() + _PATIENCE_S
                self._take(now - int(message.value()[:_STAMP]))
            elif time.monotonic() > deadline:
                missing = self.load.count - self.seen
                raise BrokerUnavailable(f"{missing} messages did not arrive: this is no result")

    def _take(self, age_ns: int) -> None:
        self.seen += 1
        if self.seen > self.load.warm_up_count:
            self.counted.append(age_ns)


class _Writers:
    """Threads that write in turn, each at its own times of one schedule."""

    def __init__(self, pipeline: Pipeline, load: Load) -> None:
        self._pipeline, self._load = pipeline, load
        self._begin_at = 0.0
        self._ready = threading.Barrier(load.connections + 1)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(load.connections)
        ]
        self._ended_at: list[float] = []

    @property
    def took_s(self) -> float:
        """How long it took until the last message was written."""
        return max(self._ended_at) - self._begin_at

    def start(self) -> None:
        """Begin to write, over connections that are open."""
        self._begin_at = time.perf_counter() + 0.05
        self._ready.wait(_PATIENCE_S)

    def raise_failure(self) -> None:
        """Raise what a writer has failed with."""
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> _Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._ready.abort()
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def _run(self, number: int) -> None:
        try:
            with self._pipeline.writer() as write:
                self._ready.wait(_PATIENCE_S)
                for index in range(number, self._load.count, self._load.connections):
                    due = self._begin_at + index / self._load.rate
                    if self._stop.wait(max(due - time.perf_counter(), 0.0)):
                        return
                    write(f"key-{index % KEYS}", _payload())
            self._ended_at.append(time.perf_counter())
        except threading.BrokenBarrierError:
            return
        except BaseException as failure:  # noqa: BLE001 - raised again where the result is awaited
            self._failure = failure
            self._ready.abort()


@dataclass(frozen=True, slots=True)
class OurPipeline:
    """A relay that runs, and a plain INSERT. Prepared, it does not fit every pooler."""

    place: Place
    find_pids: Callable[[], list[int]]
    prepared: bool = False

    @property
    def topic(self) -> str:
        """The topic of the place."""
        return self.place.topic

    def pids(self) -> list[int]:
        """The relay, and its session's process where it is at hand."""
        return self.find_pids()

    @contextmanager
    def writer(self) -> Iterator[Write]:
        """Open a connection that writes into the log."""
        from psycopg import sql

        with self.place.servers.connect() as connection:
            connection.prepare_threshold = 0 if self.prepared else None
            cursor = connection.cursor()
            table = sql.Identifier(self.place.schema, "outbox_message")
            insert = sql.SQL("insert into {} (topic, key, payload) values ({}, %s, %s)")
            query = insert.format(table, sql.Literal(self.topic)).as_string()

            def write(key: str, payload: bytes) -> None:
                cursor.execute(query, (key, payload))

            yield write
