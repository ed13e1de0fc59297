"""Writers in Python that wake the relay after each commit, as a ratio to the same that do not.

Each writer is a process with a SQLAlchemy engine, and writes a business row and a message in each
transaction. Beside both of the two runs a relay: one that listens, and one that polls.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

from sqlalchemy import URL, create_engine, text

from benchmarks.program import Found, options, run
from benchmarks.relay_command import RelayCommand
from outbox import Notifier, Outbox
from outbox.bench.draining import KEYS, PAYLOAD_BYTES
from outbox.bench.place import Place
from outbox.bench.result import Goal, Repetition, Row
from outbox.database import DatabaseUrl

_UNIT = "transactions/s"
_WITHOUT = "the same writers without a notifier, and a relay that polls"


def main() -> None:
    parser = options(
        __doc__,
        seconds=(float, 10.0, "how long the writers write each time"),
        repetitions=(int, 5, "how often with and without a notifier"),
        writers=(int, 2, "processes that write"),
    )
    run("B6n", parser, measure)


def measure(place: Place, arguments: argparse.Namespace) -> Found:
    _speed(place, arguments, notify=False)  # a new server is slow at first
    found = [
        Repetition(
            baseline=_speed(place, arguments, notify=False),
            ours=_speed(place, arguments, notify=True),
        )
        for _ in range(arguments.repetitions)
    ]
    return Found(
        [Row("B6n", "writers with a notifier", _UNIT, _WITHOUT, found, Goal(0.90, "at least"))]
    )


def _speed(place: Place, arguments: argparse.Namespace, *, notify: bool) -> float:
    place.renew()
    with place.servers.connect() as connection:
        connection.execute(f'create table "{place.schema}".business (id bigserial, note text)')
    with ExitStack() as stack:
        relay = stack.enter_context(
            RelayCommand(place, "--wake-up", "notify" if notify else "poll")
        )
        relay.wait_until_it_holds_the_lane()
        pool = stack.enter_context(
            ProcessPoolExecutor(arguments.writers, multiprocessing.get_context("spawn"))
        )
        job = place.servers.url.conninfo, place.schema, place.topic, arguments.seconds, notify
        return sum(
            each.result() for each in [pool.submit(write, *job) for _ in range(arguments.writers)]
        )


def write(conninfo: str, schema: str, topic: str, seconds: float, notify: bool) -> float:
    """Write in this process; return the transactions a second."""
    url = DatabaseUrl.parse(conninfo)
    parameters = dict(url.parameters)
    engine = create_engine(URL.create("postgresql+psycopg", query=parameters))
    events = Outbox(schema=schema)
    business = text(f'insert into "{schema}".business (note) values (:note)')
    done = 0
    with ExitStack() as stack:
        if notify:
            stack.enter_context(Notifier(conninfo)).watch(engine)
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            with engine.begin() as connection:
                connection.execute(business, {"note": "written together with the message"})
                events.add(connection, topic, b"x" * PAYLOAD_BYTES, key=f"key-{done % KEYS}")
            done += 1
    engine.dispose()
    return done / elapsed


if __name__ == "__main__":
    main()
