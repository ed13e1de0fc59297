"""The short form, on the user's own servers: drain, latency and the cost of `add`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from outbox.bench.adding import adding_rows
from outbox.bench.conditions import conditions
from outbox.bench.draining import drain_row
from outbox.bench.latency import Load, OurPipeline, Pipeline, Seen, Write, under_load
from outbox.bench.place import Place, Servers, place
from outbox.bench.relay_process import relay_process
from outbox.bench.result import Repetition, Row
from outbox.errors import BrokerUnavailable, DatabaseUnavailable, OutboxError
from outbox.publishers.choosing import make_publisher
from outbox.record import DeliveryMode

Part = Literal["drain", "latency", "add"]
PARTS: tuple[Part, ...] = ("drain", "latency", "add")

_REACHED = "written_per_second"

#: The share of a rate at which it counts as reached.
_ENOUGH = 0.95

_DIRECT = "the application sends to Kafka itself after its commit"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. `rate`: messages a second, for `seconds`."""

    messages: int = 50_000
    repetitions: int = 3
    rate: int = 200
    seconds: float = 5.0
    partitions: int = 6
    replication: int = -1


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found, and on what."""

    conditions: dict[str, object]
    rows: list[Row]


def measure(
    servers: Servers,
    sizes: Sizes,
    parts: Sequence[Part],
    delivery: DeliveryMode,
    say: Callable[[str], None],
) -> Findings:
    """Measure in a schema and a topic of their own, which are removed.

    Raises ConfigurationError where rights are missing or there is no real broker, OutboxError when
    not every message arrived, DatabaseUnavailable, BrokerUnavailable.
    """
    make_publisher(servers.kafka, delivery).close()  # raises for what librdkafka does not take
    with (
        _translated(),
        place(servers, sizes.partitions, say, replication=sizes.replication) as made,
    ):
        say(f"measuring in the schema {made.schema} and the topic {made.topic}")
        rows: list[Row] = []
        for part in parts:
            say(_ANNOUNCED[part])
            rows += _MEASURES[part](made, sizes, delivery)
        if sentence := unreached(rows, sizes.rate):
            say(sentence)
        # Goals are those of one machine that holds everything; a network makes others.
        without_goals = [replace(row, goal=None) for row in rows]
        return Findings(conditions(made), without_goals)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of the drivers into ours."""
    from confluent_kafka import KafkaException
    from psycopg import Error, OperationalError

    try:
        yield
    except OperationalError as error:
        raise DatabaseUnavailable(f"the database has failed: {_line(error)}") from error
    except Error as error:
        raise OutboxError(f"the database refuses what this needs: {_line(error)}") from error
    except KafkaException as error:
        raise BrokerUnavailable(f"Kafka has failed: {error.args[0].str()}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _drain(made: Place, sizes: Sizes, delivery: DeliveryMode) -> list[Row]:
    return [drain_row(made, sizes.messages, sizes.repetitions, delivery)]


def _add(made: Place, sizes: Sizes, delivery: DeliveryMode) -> list[Row]:
    del delivery  # writers know nothing of it
    return adding_rows(made, min(sizes.messages, 200), 10 * sizes.repetitions)


def _latency(made: Place, sizes: Sizes, delivery: DeliveryMode) -> list[Row]:
    load = Load(sizes.rate, sizes.seconds, warm_up_s=min(2.0, sizes.seconds))
    pairs = [
        (_with_relay(made, load, delivery), _without_relay(made, load))
        for _ in range(sizes.repetitions)
    ]
    at = f"at {sizes.rate:,}/s"
    return [
        _seen_row(f"latency p50 {at}", pairs, lambda seen: seen.p50_ms),
        _seen_row(f"latency p99 {at}", pairs, lambda seen: seen.p99_ms),
    ]


def unreached(rows: Sequence[Row], rate: int) -> str | None:
    """Return a sentence where the writers were slower than they should have been."""
    reached = [
        cast("float", each.more[_REACHED])
        for row in rows
        for each in row.repetitions
        if _REACHED in each.more
    ]
    if not reached or min(reached) >= _ENOUGH * rate:
        return None
    return (
        f"only {min(reached):.0f} of {rate} messages a second could be written, so the latency is "
        "that of fewer; give a lower --rate"
    )


def _seen_row(what: str, pairs: Sequence[tuple[Seen, Seen]], of: Callable[[Seen], float]) -> Row:
    found = [
        Repetition(of(ours), of(theirs), {_REACHED: ours.rate, "cpu_us": ours.cpu_us})
        for ours, theirs in pairs
    ]
    return Row("B4", what, "ms", _DIRECT, found)


def _with_relay(made: Place, load: Load, delivery: DeliveryMode) -> Seen:
    made.renew()
    with relay_process(made, delivery) as pids:
        return under_load(OurPipeline(made, pids), made.broker, load)


def _without_relay(made: Place, load: Load) -> Seen:
    made.renew()
    return under_load(_Direct(made), made.broker, load)


@dataclass(frozen=True, slots=True)
class _Direct:
    """No outbox: commits the row, then produces. A crash in between loses the message."""

    place: Place

    @property
    def topic(self) -> str:
        return self.place.topic

    def pids(self) -> list[int]:
        return []

    @contextmanager
    def writer(self) -> Iterator[Write]:
        from confluent_kafka import Producer

        producer: Any = Producer({"linger.ms": 0, "log_level": 2, **self.place.servers.kafka})
        pipeline: Pipeline = OurPipeline(self.place, list)
        with pipeline.writer() as insert:

            def write(key: str, payload: bytes) -> None:
                insert(key, payload)
                producer.produce(self.topic, payload, key)
                producer.poll(0)

            yield write
            producer.flush(30.0)


_MEASURES: dict[Part, Callable[[Place, Sizes, DeliveryMode], list[Row]]] = {
    "drain": _drain,
    "latency": _latency,
    "add": _add,
}

_ANNOUNCED: dict[Part, str] = {
    "drain": "draining a backlog, by the relay and by a bare loop in turn",
    "latency": "latency, with the relay and without an outbox in turn",
    "add": "the cost of add, against a bare INSERT in turn",
}
