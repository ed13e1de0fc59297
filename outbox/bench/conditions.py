"""On what a benchmark ran: without that its figures mean nothing."""

from __future__ import annotations

import os
import platform
import statistics
import time
from typing import TYPE_CHECKING, LiteralString, cast

from outbox.bench.process import is_local_server, is_pooled
from outbox.version import __version__

if TYPE_CHECKING:
    import psycopg

    from outbox.bench.place import Place

_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "wal_level")


def conditions(place: Place) -> dict[str, object]:
    """Return versions, cores, and what database and broker were told about safety."""
    with place.servers.connect() as connection:
        database = database_conditions(connection)
    return {
        **client_conditions(),
        **database,
        "kafka_brokers": place.broker.size,
        "acks": "all",
        **place.broker.topic_conditions(place.topic),
    }


def client_conditions() -> dict[str, object]:
    """Return what is known of this machine and this process."""
    import confluent_kafka
    import psycopg

    return {
        "outbox_relay": __version__,
        "python": platform.python_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "librdkafka": confluent_kafka.libversion()[0],
        "machine": platform.machine(),
        "cores": _cores(),
    }


def _cores() -> int | None:
    """Return the cores that this process may use, which a container may bound."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def database_conditions(connection: psycopg.Connection) -> dict[str, object]:
    """Return the server's version and settings, and how long a round trip to it takes."""
    version = connection.info.parameter_status("server_version") or "unknown"
    query: LiteralString = "select name, current_setting(name) from unnest(%s::text[]) as name"
    settings = cast(
        "list[tuple[str, str]]", connection.execute(query, (list(_SETTINGS),)).fetchall()
    )
    return {
        "postgresql": version.split()[0],
        **dict(settings),
        "pooler": is_pooled(connection),
        "database_on_this_machine": is_local_server(connection),
        "round_trip_ms": round(_round_trip_s(connection) * 1_000, 3),
    }


def _round_trip_s(connection: psycopg.Connection) -> float:
    took = []
    for _ in range(20):
        began = time.perf_counter()
        connection.execute("select 1")
        took.append(time.perf_counter() - began)
    return statistics.median(took)
