"""What all benchmarks share: servers, conditions, and how a result is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from outbox.bench.broker import Broker
from outbox.bench.conditions import client_conditions, database_conditions
from outbox.bench.result import Goal, Repetition, Row, lines

DATABASE = "OUTBOX_BENCH_DATABASE_URL"
KAFKA = "OUTBOX_BENCH_KAFKA_BOOTSTRAP"

SCHEMA = "outbox.benchmark/1"


@dataclass(frozen=True)
class Result:
    """One repetition: the baseline and ours, measured one after the other."""

    bare: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ours / self.bare


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """Yield a database's URL and Kafka's address: from OUTBOX_BENCH_DATABASE_URL and
    OUTBOX_BENCH_KAFKA_BOOTSTRAP, else servers of our own."""
    with ExitStack() as stack:
        url = os.environ.get(DATABASE)
        bootstrap = os.environ.get(KAFKA)
        if url is None:
            url = _own_postgresql(stack)
        if bootstrap is None:
            bootstrap = _own_kafka(stack)
        yield url, bootstrap


def _own_postgresql(stack: ExitStack) -> str:
    from tests.servers.postgresql import PrivatePostgreSQL

    return stack.enter_context(PrivatePostgreSQL()).create_database("bench")


def _own_kafka(stack: ExitStack) -> str:
    from tests.servers.kafka import KafkaCluster

    return stack.enter_context(KafkaCluster()).bootstrap_servers


def conditions(database_url: str, bootstrap: str, **more: object) -> dict[str, object]:
    """Return where and on what a benchmark ran."""
    with psycopg.connect(database_url) as connection:
        database = database_conditions(connection)
    return {
        **client_conditions(),
        **database,
        "kafka_brokers": Broker({"bootstrap.servers": bootstrap}).size,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


def report(
    name: str,
    unit: str,
    found: dict[str, object],
    results: Sequence[Result],
    *,
    goal: float,
    path: str | None,
    than: str = "a bare loop that reads and produces",
) -> None:
    """Report one row. `name` begins with the benchmark's number, such as "B2 drain"."""
    id_, _, what = name.partition(" ")
    repetitions = [Repetition(ours=each.ours, baseline=each.bare) for each in results]
    row = Row(id_, what, unit, than, repetitions, Goal(goal, "at least"))
    publish(id_, found, [row], path)


def publish(
    id_: str,
    found: Mapping[str, object],
    rows: Sequence[Row],
    path: str | None,
    *,
    figures: Mapping[str, object] | None = None,
    unavailable: str | None = None,
) -> None:
    """Print conditions, every repetition, the medians and the ratio; write them as JSON.

    `figures`: what else was seen. `unavailable`: why there are no rows, or not all of them.
    """
    print(f"{id_}: " + ", ".join(f"{key} {value}" for key, value in found.items()))
    for row in rows:
        print("\n".join(f"  {line}" for line in lines(row)))
    for key, value in (figures or {}).items():
        print(f"  {key}: {value}")
    if unavailable:
        print(f"  not measured: {unavailable}")
    if path is not None:
        text = {
            "schema": SCHEMA,
            "id": id_,
            "conditions": dict(found),
            "rows": [row.as_data() for row in rows],
            "figures": dict(figures or {}),
            "unavailable": unavailable,
        }
        Path(path).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
