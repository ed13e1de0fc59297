"""B12: from the start of the process to when a consumer has the first message.

The baseline is a script that imports the same two drivers, reads the row and produces it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks.program import Found, options, run
from benchmarks.relay_command import RelayCommand
from outbox.bench.broker import arrived
from outbox.bench.draining import fill
from outbox.bench.place import Place
from outbox.bench.result import Goal, Repetition, Row
from outbox.errors import OutboxError

_SCRIPT = """
import os, psycopg
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": os.environ["BOOTSTRAP"], "linger.ms": 1})
with psycopg.connect(os.environ["CONNINFO"]) as connection:
    for topic, key, payload in connection.execute(os.environ["QUERY"]).fetchall():
        producer.produce(topic, payload, key)
producer.flush()
"""

Start = Callable[[Place], AbstractContextManager[Any]]


def main() -> None:
    parser = options(__doc__, repetitions=(int, 11, "how often"))
    run("B12", parser, measure)


def measure(place: Place, arguments: argparse.Namespace) -> Found:
    for start in (RelayCommand, _script):
        _seconds(place, start)  # files come into memory
    found = [
        Repetition(ours=_seconds(place, RelayCommand), baseline=_seconds(place, _script))
        for _ in range(arguments.repetitions)
    ]
    than = "a script that reads the row and produces it"
    what = "start of the process to the first message"
    return Found([Row("B12", what, "s", than, found, Goal(1.0, "at most", "ours"))])


def _seconds(place: Place, start: Start) -> float:
    place.renew()
    fill(place, 1)
    with place.broker.reading(place.topic) as consumer:
        began = time.perf_counter()
        with start(place):
            if arrived(consumer, 1, linger_s=0.0) != 1:
                raise OutboxError("the message did not arrive, so this is no result")
            return time.perf_counter() - began


@contextmanager
def _script(place: Place) -> Any:
    query = f"select topic, key, payload from {place.names['outbox_message']}"
    variables = {
        "BOOTSTRAP": str(place.servers.kafka["bootstrap.servers"]),
        "CONNINFO": place.servers.url.conninfo,
        "QUERY": query,
    }
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT], env={**os.environ, **variables})
    try:
        yield
    finally:
        process.wait(30)


if __name__ == "__main__":
    main()
