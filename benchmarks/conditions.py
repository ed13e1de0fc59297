"""What all benchmarks share: servers, conditions, and how a ratio is reported."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import confluent_kafka
import psycopg

from outbox import __version__


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
    OUTBOX_BENCH_KAFKA_BOOTSTRAP (the database is emptied!), else servers of our own."""
    with ExitStack() as stack:
        url = os.environ.get("OUTBOX_BENCH_DATABASE_URL")
        bootstrap = os.environ.get("OUTBOX_BENCH_KAFKA_BOOTSTRAP")
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
        version = connection.info.server_version
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap})
    return {
        "outbox_relay": __version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "postgresql": f"{version // 10000}.{version % 10000}",
        "kafka_brokers": len(admin.list_topics(timeout=30).brokers),
        "librdkafka": confluent_kafka.libversion()[0],
        "servers_share_the_machine": "127.0.0.1" in database_url,
        **more,
    }


def report(
    name: str,
    unit: str,
    found: dict[str, object],
    results: list[Result],
    *,
    goal: float,
    path: str | None,
) -> None:
    """Print conditions, every repetition, the medians and the ratio; write them as JSON."""
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in found.items()))
    for result in results:
        print(
            f"  bare {result.bare:>10,.0f}  ours {result.ours:>10,.0f} {unit}"
            f"  ratio {result.ratio:.2f}"
        )
    ratio = statistics.median(result.ratio for result in results)
    print(f"  median ratio {ratio:.2f} (goal {goal:.2f})")
    if path is not None:
        text = {
            "schema": "outbox.benchmark/1",
            "name": name,
            "unit": unit,
            "conditions": found,
            "repetitions": [{**asdict(r), "ratio": r.ratio} for r in results],
            "median_ratio": ratio,
            "goal": goal,
        }
        Path(path).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
